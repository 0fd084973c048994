// Ranks that are killed while they save: whatever the moment, the newest checkpoint that is there is a whole one. SHARDGRAD_FAULTS says how
// many (10; `npm run soak` takes 200), SHARDGRAD_SEED which moments.
import { spawn } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { loadCheckpoint } from '../lib/distributed/checkpoint/load.js';
import { simulate } from '../lib/distributed/simulate.js';
import type * as sg from '../lib/index.js';
import { stream } from './helpers/random.js';

const COUNT = 5 * Number(process.env['SHARDGRAD_FAULTS'] ?? 2);
const SEED = Number(process.env['SHARDGRAD_SEED'] ?? 1);
const repository = fileURLToPath(new URL('..', import.meta.url));

/** Runs two ranks until one is killed so many milliseconds after the first save. */
async function killed(root: string, rank: number, after: number): Promise<void> {
  const script = join(repository, 'test/children/save_rank.mjs');
  const args = [join(repository, 'dist/bundle/cli.js'), 'run', '--nproc-per-node', '2', script, root, String(rank), String(after)];
  const child = spawn(process.execPath, args, { cwd: repository, env: { ...process.env, SHARDGRAD_NUM_THREADS: '1' } });
  let output = '';
  child.stdout.on('data', (chunk) => (output += chunk));
  child.stderr.on('data', (chunk) => (output += chunk));
  const code = await new Promise((resolve) => child.once('close', resolve));
  expect(code, output).not.toBe(0);
  expect(output).toContain('saved');
}

test(`${COUNT} kills while saving leave whole checkpoints`, { timeout: COUNT * 30_000 }, async () => {
  const next = stream(SEED * 77);
  const plans = Array.from({ length: COUNT }, (_, i) => ({ rank: i % 2, after: 200 * next() }));
  const steps: number[] = [];
  const work = async (): Promise<void> => {
    for (let plan = plans.pop(); plan; plan = plans.pop()) {
      const root = await mkdtemp(join(tmpdir(), 'shardgrad-kills-'));
      try {
        await killed(root, plan.rank, plan.after);
        const [state] = await simulate(1, ({ world }) => loadCheckpoint(root, {}, { group: world }));
        const values = (await (state!['x'] as sg.Tensor).toTypedArray()) as Float32Array;
        expect(values.length).toBe(64 * 512);
        expect(
          values.every((v) => v === state!.step),
          JSON.stringify({ plan, folders: await readdir(root) }),
        ).toBe(true);
        steps.push(state!.step);
      } finally {
        await rm(root, { recursive: true, force: true });
      }
    }
  };
  await Promise.all([work(), work()]);
  expect(steps.length).toBe(COUNT);
  expect(Math.max(...steps)).toBeGreaterThan(0);
});
