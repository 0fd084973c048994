// `shardgrad run --profile`: ranks that know nothing of it leave a trace each, and `shardgrad trace merge` puts them into one.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { TraceEvent, TraceFile } from '../lib/profiler/chrome_trace.js';

const cli = fileURLToPath(new URL('../dist/bundle/cli.js', import.meta.url));
const script = fileURLToPath(new URL('children/job_rank.mjs', import.meta.url));
const root = mkdtempSync(join(tmpdir(), 'shardgrad-profiles-'));

function shardgrad(...args: string[]): Promise<{ code: number | null; out: string }> {
  const child = spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  for (const output of [child.stdout, child.stderr]) output.on('data', (chunk) => (out += chunk));
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, out })));
}
const read = (path: string): TraceFile => JSON.parse(readFileSync(path, 'utf8')) as TraceFile;

describe('a job of two ranks', () => {
  test('each leaves its steps, and merged they lie on one clock', async () => {
    const folder = join(root, 'two');
    const { code, out } = await shardgrad('run', '--nproc-per-node', '2', '--profile', folder, '--profile-steps', '6-9', script, 'train');
    expect(out).toMatch(/sum/);
    expect(code).toBe(0);
    expect(readdirSync(folder).sort()).toEqual(['rank-0.json', 'rank-0.txt', 'rank-1.json', 'rank-1.txt']);
    expect(readFileSync(join(folder, 'rank-1.txt'), 'utf8')).toMatch(/^4 steps in [\d.]+ ms, [\d.]+ ms each, rank 1\n/);
    for (const rank of [0, 1]) {
      const { shardgrad: header, traceEvents } = read(join(folder, `rank-${rank}.json`));
      expect(header).toMatchObject({ rank, worldSize: 2 });
      expect(traceEvents.filter((e) => e.cat === 'step').map((e) => e.name)).toEqual(['step 6', 'step 7', 'step 8', 'step 9']);
      expect(traceEvents.filter((e) => e.cat === 'op' && e.name === 'adamStep')).toHaveLength(4);
    }

    const merged = await shardgrad('trace', 'merge', folder);
    expect(merged).toEqual({ code: 0, out: `2 ranks in ${join(folder, 'trace.json')}\n` });
    const { traceEvents } = read(join(folder, 'trace.json'));
    expect(new Set(traceEvents.map((e) => e.pid))).toEqual(new Set([0, 1]));
    const calls = (rank: number): Map<number, TraceEvent> =>
      new Map(
        traceEvents
          .filter((e) => e.pid === rank && e.ph === 'X' && e.name === 'allReduce' && e.cat === 'communication')
          .map((e) => [e.args!['sequence'] as number, e]),
      );
    const [mine, theirs] = [calls(0), calls(1)];
    const common = [...mine.keys()].filter((sequence) => theirs.has(sequence));
    expect(common.length).toBeGreaterThanOrEqual(3);
    // nobody leaves a collective before the other has come
    for (const sequence of common) {
      const [a, b] = [mine.get(sequence)!, theirs.get(sequence)!];
      expect(Math.max(a.ts!, b.ts!)).toBeLessThanOrEqual(Math.min(a.ts! + a.dur!, b.ts! + b.dur!) + 1);
    }
  });

  test('steps that never come are said', async () => {
    const folder = join(root, 'late');
    const { code, out } = await shardgrad('run', '--profile', folder, '--profile-steps', '30', script, 'train');
    expect(code).toBe(0);
    expect(out).toContain('shardgrad: no profile: the optimizer has made 20 steps of those to record, 30 to 30');
    expect(existsSync(folder)).toBe(false);
  });
});

describe('mistakes on the command line', () => {
  test.each([
    [['run', '--profile-steps', '3', 'x.js'], 2, '--profile-steps goes with --profile'],
    [['run', '--profile', 'p', '--profile-steps', '3-1', 'x.js'], 2, '--profile-steps must be steps from 1 on, such as 10-14, got "3-1"'],
    [['trace', 'merge'], 2, 'merge: give the folder of the traces'],
    [['trace', 'split', root], 2, 'unknown command split; there is: merge'],
    [['trace', 'merge', root], 1, 'has no rank-<i>.json: shardgrad run --profile'],
    [['trace', 'merge', join(root, 'none')], 1, 'ENOENT'],
  ])('%j', async (args, code, text) => {
    const ended = await shardgrad(...args);
    expect(ended.out).toContain(text);
    expect(ended.code).toBe(code);
  });

  test('what is no trace of a rank', async () => {
    const folder = mkdtempSync(join(root, 'bad-'));
    writeFileSync(join(folder, 'rank-0.json'), '{"traceEvents":[]}');
    const ended = await shardgrad('trace', 'merge', folder);
    expect(ended).toEqual({ code: 1, out: `shardgrad trace: ${join(folder, 'rank-0.json')}: it is not a trace of one rank that shardgrad has written\n` });
  });
});
