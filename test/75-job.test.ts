// Whole jobs: processes started by the launcher train one model together, end with the parameters of one process, and when one of
// them dies, stops or leaves, every other says within seconds who it was and where they were.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { nothingLeft } from './helpers/leftovers.js';
import { freePort } from './helpers/ports.js';

const cli = fileURLToPath(new URL('../dist/bundle/cli.js', import.meta.url));
const script = fileURLToPath(new URL('children/job_rank.mjs', import.meta.url));

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly seconds: number;
}

function run(command: readonly string[], env: Record<string, string> = {}): Promise<Ended> {
  const start = Date.now();
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  let out = '';
  for (const output of [child.stdout, child.stderr]) output.on('data', (chunk) => (out += chunk));
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, out, seconds: (Date.now() - start) / 1000 })));
}

const job = (ranks: number, what: string): Promise<Ended> => run([cli, 'run', '--nproc-per-node', String(ranks), script, what]);
const joining = (what: string): Promise<Ended> =>
  run([cli, 'run', '--nproc-per-node', '3', fileURLToPath(new URL('children/init_rank.mjs', import.meta.url)), what]);
const sums = (out: string): number[] => [...out.matchAll(/sum (-?[\d.e-]+)/g)].map((m) => Number(m[1]));

describe('training', () => {
  test.each([2, 3])('%i processes end where one does', async (ranks) => {
    const [alone, together] = [await run([script, 'train']), await job(ranks, 'train')];
    expect(together.code).toBe(0);
    expect(sums(together.out)).toHaveLength(ranks);
    expect(new Set(sums(together.out)).size).toBe(1);
    expect(Math.abs(sums(together.out)[0]! - sums(alone.out)[0]!)).toBeLessThan(1e-5);
    await nothingLeft();
  });

  test('where each op runs at its own line, and rank 0 serves the store of ranks that are late', async () => {
    const common = {
      SHARDGRAD_SYNC: '1',
      WORLD_SIZE: '2',
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: String(await freePort()),
      SHARDGRAD_TOKEN: '0123456789abcdef0123456789abcdef',
    };
    const late = { NODE_OPTIONS: `--import=${new URL('children/slow_network.mjs', import.meta.url).href}` };
    const ended = await Promise.all([run([script, 'train'], { ...common, RANK: '0' }), run([script, 'train'], { ...common, ...late, RANK: '1' })]);
    expect(
      ended.map(({ code }) => code),
      ended.map(({ out }) => out).join('\n'),
    ).toEqual([0, 0]);
    expect(new Set(ended.flatMap(({ out }) => sums(out))).size).toBe(1);
  });
});

describe('joining and leaving', () => {
  test.each(['again', 'worker'])('%s: a rank joins once, and the job goes on', async (what) => {
    const { code, out } = await joining(what);
    expect(code).toBe(0);
    const said = out.match(/DistributedError: dist\.init: rank \d has joined this job before: it is called once, in one thread of one process a rank/g);
    expect(new Set(said).size).toBe(3);
    expect(sums(out)).toEqual([6, 6, 6]);
    await nothingLeft();
  });

  test('close may be called again', async () => {
    const { code, out } = await joining('twice');
    expect(code).toBe(0);
    expect(out.match(/closed/g)).toHaveLength(3);
  });

  test('ranks that do not come in time are named', async () => {
    const { code, out } = await joining('absent');
    expect(code).toBe(1);
    expect(out).toContain('DistributedError: dist.init: ranks 1, 2 of 3 did not come within 0.5 s');
  });
});

describe('rank 1 comes to grief', () => {
  const survivors = (out: string): number => new Set([...out.matchAll(/\[rank (\d)\] .*DistributedError/g)].map((m) => m[1])).size;

  test('killed', async () => {
    const { code, out, seconds } = await job(3, 'kill');
    expect(code).not.toBe(0);
    expect(out).toContain('rank 1 failed first: killed by SIGKILL');
    expect(seconds).toBeLessThan(8);
    await nothingLeft();
  });

  test('throws: its own error is the last word', async () => {
    const { code, out } = await job(3, 'throw');
    expect(code).toBe(1);
    expect(out).toContain('rank 1 failed first: exit code 1');
    expect(out.slice(out.indexOf('failed first'))).toContain('Error: my own mistake');
  });

  test('exits as if all were well: the others miss it', async () => {
    const { code, out, seconds } = await job(3, 'exit');
    expect(code).toBe(1);
    expect(out).toMatch(/the process of rank 1 has ended; rank [02] waits for it in allReduce\(float32, \d+ elements, avg\) #\d+ of process group world/);
    expect(survivors(out)).toBeGreaterThan(0);
    expect(seconds).toBeLessThan(8);
  });

  test('is stopped', async () => {
    const { code, out, seconds } = await job(3, 'stop');
    expect(code).toBe(1);
    expect(out).toMatch(/rank 1 has stopped \(no heartbeat for 3 s\); rank [02] waits for it in allReduce/);
    expect(seconds).toBeLessThan(20);
    await nothingLeft();
  });
});
