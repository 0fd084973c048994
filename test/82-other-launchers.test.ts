// Jobs that torchrun and Open MPI start. Skipped where these are not installed.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { describe, expect, test } from 'vitest';
import { freePort } from './helpers/ports.js';

const script = fileURLToPath(new URL('children/job_rank.mjs', import.meta.url));
const installed = (command: string): boolean => (process.env['PATH'] ?? '').split(delimiter).some((folder) => existsSync(join(folder, command)));
const token = 'the token of this test';

function run(command: readonly string[], env: NodeJS.ProcessEnv): Promise<{ code: number | null; out: string }> {
  const child = spawn(command[0]!, command.slice(1), { env: { ...process.env, SHARDGRAD_NUM_THREADS: '1', ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (out += chunk));
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, out })));
}

// mpirun gives its ranks a terminal, and Node colours numbers there
const sums = (out: string): number[] => [...stripVTControlCharacters(out).matchAll(/sum (-?[\d.e-]+)/g)].map((m) => Number(m[1]));
const alone = sums(String(spawnSync(process.execPath, [script, 'train']).stdout))[0]!;

function expectTraining({ code, out }: { code: number | null; out: string }, ranks: number): void {
  expect(code, out).toBe(0);
  expect(sums(out)).toHaveLength(ranks);
  expect(new Set(sums(out)).size).toBe(1);
  expect(Math.abs(sums(out)[0]! - alone)).toBeLessThan(1e-5);
}

describe.skipIf(!installed('torchrun'))('torchrun (skipped where it is not on the path)', { timeout: 120_000 }, () => {
  const torchrun = async (...args: string[]): Promise<{ code: number | null; out: string }> =>
    run(['torchrun', '--nproc-per-node', '2', '--master-port', String(await freePort()), '--no-python', ...args], { SHARDGRAD_TOKEN: token });

  test('trains', async () => expectTraining(await torchrun(process.execPath, script, 'train'), 2));

  test('shows the error of the rank that failed, and takes it for the cause', async () => {
    const { code, out } = await torchrun(process.execPath, script, 'throw');
    expect(code).not.toBe(0);
    const cause = out.slice(out.indexOf('Root Cause'));
    expect(cause).toMatch(/rank +: 1 /);
    expect(cause).toContain('my own mistake');
  });
});

describe.skipIf(!installed('mpirun'))('Open MPI (skipped where mpirun is not on the path)', { timeout: 120_000 }, () => {
  const mpirun = async (env: NodeJS.ProcessEnv, what: string): Promise<{ code: number | null; out: string }> => {
    const exported = Object.keys(env).flatMap((name) => ['-x', name]);
    const allow = { OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' };
    return run(['mpirun', '-n', '3', '--oversubscribe', ...exported, process.execPath, script, what], { ...env, ...allow });
  };

  test('trains', async () => {
    const env = { SHARDGRAD_TOKEN: token, MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(await freePort()) };
    expectTraining(await mpirun(env, 'train'), 3);
  });

  test('without a token: one sentence that says what is missing', async () => {
    const { code, out } = await mpirun({ MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(await freePort()) }, 'train');
    expect(code).not.toBe(0);
    expect(out).toMatch(/dist\.init under Open ?MPI: the job's token is missing; give every host the same one in SHARDGRAD_TOKEN/i);
  });
});
