// `shardgrad schedule show`, and the drawings it makes.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { schedule } from '../lib/cli/schedule.js';
import { UsageError } from '../lib/distributed/launcher/options.js';
import { drawSchedule } from '../lib/distributed/pipeline/draw.js';
import { makeSchedule, SCHEDULE_NAMES } from '../lib/distributed/pipeline/make_schedule.js';
import { readSchedule, Schedule } from '../lib/distributed/pipeline/schedule.js';
import { simulateSchedule } from '../lib/distributed/pipeline/simulate_schedule.js';
import { scheduleSvg } from '../lib/distributed/pipeline/svg.js';
import { runCommand, type Said } from './helpers/command.js';

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'shardgrad-schedule-'));
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(root, { recursive: true, force: true });
});

const show = (line: string): Promise<Said> => runCommand(schedule, ['show', ...line.split(' ').filter((word) => word !== '')]);

test('the grid, the bubble and what ranks keep', async () => {
  vi.stubEnv('NO_COLOR', '1');
  const { code, out } = await show('--schedule 1f1b --stages 4 --micro-batches 8');
  expect(code).toBe(0);
  expect(out).toBe(`1f1b: 4 stages, 8 micro-batches, bubble 27.3 %, at most 4 activations kept

rank 0 F0 F1 F2 F3 ·  ·  ·  ·  ·  ·  B0─── F4 B1─── F5 B2─── F6 B3─── F7 B4─── ·  B5─── ·  B6─── ·  B7───
rank 1 ·  F0 F1 F2 ·  ·  ·  ·  B0─── F3 B1─── F4 B2─── F5 B3─── F6 B4─── F7 B5─── ·  B6─── ·  B7─── ·  ·
rank 2 ·  ·  F0 F1 ·  ·  B0─── F2 B1─── F3 B2─── F4 B3─── F5 B4─── F6 B5─── F7 B6─── ·  B7─── ·  ·  ·  ·
rank 3 ·  ·  ·  F0 B0─── F1 B1─── F2 B2─── F3 B3─── F4 B4─── F5 B5─── F6 B6─── F7 B7─── ·  ·  ·  ·  ·  ·

rank 0  idle 27.3 %  keeps up to 4 activations
rank 1  idle 27.3 %  keeps up to 3 activations
rank 2  idle 27.3 %  keeps up to 2 activations
rank 3  idle 27.3 %  keeps up to 1 activations
makespan 33
`);
  vi.unstubAllEnvs();
  const v = await show('--schedule zbv --stages 4 --micro-batches 4');
  expect(v.out).toContain('zbv: 4 stages on 2 ranks, 4 micro-batches, bubble 4.0 % (0.0 % where steps follow without a barrier), at most 4 activations kept');
  expect(v.out).toContain('rank 1 ·   1F0 2F0 1F1 2F1 2B0────');
  expect((await show('--schedule interleaved --stages 6 --stages-per-rank 3 --micro-batches 4')).out).toMatch(/^interleaved: 6 stages on 2 ranks/);
});

test('all rows have one length, whatever actions cost, and are cut to the terminal', () => {
  for (const name of SCHEDULE_NAMES) {
    for (const costs of [{}, { F: 1, B: 1.7 }, { F: 0.3, I: 0.45, W: 0.2, send: 0.1 }, { F: 1e-6, B: 3e-6 }]) {
      const plan = makeSchedule(name, { ranks: 4, microBatches: 12 });
      const simulation = simulateSchedule(plan, { costs });
      const rows = drawSchedule(plan, simulation).trimEnd().split('\n');
      expect(rows).toHaveLength(4);
      // every action is to be read, in order
      for (const [rank, row] of rows.entries()) {
        const found = row.replaceAll(/[─·]/g, ' ').split(/\s+/).slice(2);
        expect(found.filter((cell) => cell !== '')).toHaveLength(plan.actions[rank]!.length);
      }
      const cut = drawSchedule(plan, simulation, { columns: 60 }).trimEnd().split('\n');
      expect(cut).toHaveLength(5);
      expect(Math.max(...cut.slice(0, 4).map((row) => row.length))).toBeLessThanOrEqual(60);
      expect(cut[4]).toMatch(/^\(cut after time .* of .*: the terminal has no room for more\)$/);
    }
  }
  const plan = makeSchedule('zb-h1', { ranks: 2, microBatches: 2 });
  const coloured = drawSchedule(plan, simulateSchedule(plan), { colours: true });
  // biome-ignore lint/suspicious/noControlCharactersInRegex: escapes of terminals are control characters
  expect(coloured.replaceAll(/\x1b\[[\d;]*m/g, '')).toBe(drawSchedule(plan, simulateSchedule(plan)));
  expect(coloured).toContain('\x1b[30;44mF0\x1b[0m');
});

test('a picture, and a file to start from', async () => {
  const svg = join(root, 'a.svg');
  const csv = join(root, 'a.csv');
  expect((await show(`--schedule zb-h1 --stages 3 --micro-batches 4 --svg ${svg} --write ${csv}`)).code).toBe(0);
  const picture = await readFile(svg, 'utf8');
  expect(picture).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg" width="\d+" height="\d+" /);
  for (const text of ['rank 2', '1F3', 'gradients of the weights', 'prefers-color-scheme: dark', 'zb-h1: 3 stages, 4 micro-batches'])
    expect(picture).toContain(text);
  expect(picture).not.toContain('NaN');
  expect(picture.match(/<g>/g)).toHaveLength(4 * (2 + 3 + 3));
  expect((await readSchedule(csv)).actions).toEqual(makeSchedule('zb-h1', { ranks: 3, microBatches: 4 }).actions);
  const again = await show(`--file ${csv} --lower --costs F=1,I=1,W=1,send=0.5 --write ${csv}`);
  expect(again.code).toBe(0);
  expect(again.out).toMatch(/^a\.csv: 3 stages, 4 micro-batches/);
  expect((await readSchedule(csv)).communicates).toBe(true);
  expect((await show(`--file ${csv}`)).code).toBe(0);
  // what comes from a file name is text in the picture
  const plan = await readSchedule(csv);
  expect(scheduleSvg(new Schedule('<&>', plan.actions), simulateSchedule(plan))).toContain('&lt;&amp;&gt;');
});

test('mistakes', async () => {
  for (const [line, error] of [
    ['', 'give either --schedule or --file'],
    ['--schedule 1f1b --file x', 'give either --schedule or --file'],
    ['--schedule pipedream --stages 2 --micro-batches 2', '--schedule pipedream: there are gpipe, 1f1b, interleaved, zb-h1, zbv'],
    ['--schedule 1f1b --stages 2', '--schedule 1f1b needs --stages and --micro-batches'],
    ['--schedule 1f1b --stages two --micro-batches 2', '--stages must be a whole number from 1, not two'],
    ['--schedule zbv --stages 5 --micro-batches 9', '--stages 5 is no multiple of the 2 stages on each rank'],
    ['--file x --stages 2', '--stages does not go with --file; the file says it'],
    ['--schedule 1f1b --stages 2 --micro-batches 2 --costs F=0', '--costs F=0: give positive numbers for F, B, I, W or send, as F=1,B=2'],
    ['--schedule 1f1b --stages 2 --micro-batches 2 --costs X=1', '--costs X=1: give positive numbers'],
    ['--stages=2 more', 'show takes no more'],
    ['--nonsense', "Unknown option '--nonsense'"],
  ] as const) {
    await expect(show(line), line).rejects.toThrow(UsageError);
    await expect(show(line), line).rejects.toThrow(error);
  }
  await expect(schedule(['draw'])).rejects.toThrow('unknown command draw; there is: show');
  const file = join(root, 'broken.csv');
  await writeFile(file, '0F0,0B0,0F1,0B1\n1F1,1F0,1B0,1B1\n');
  expect(await show(`--file ${file} --svg ${join(root, 'never.svg')}`)).toEqual({
    code: 1,
    out: '',
    err: 'shardgrad schedule: schedule broken.csv would never end: rank 0 waits in 0B0 for rank 1, which waits in 1F1 for rank 0\n',
  });
  await expect(readFile(join(root, 'never.svg'))).rejects.toThrow(/ENOENT/);
  expect((await show('--schedule gpipe --stages 4 --micro-batches 2')).err).toMatch(
    /^shardgrad schedule: schedule gpipe: 2 micro-batches are fewer than the 4 stages/,
  );
  expect((await show(`--schedule gpipe --stages 1 --micro-batches 1 --svg ${join(root, 'no', 'a.svg')}`)).err).toMatch(
    /a\.svg cannot be written \(ENOENT\)\n$/,
  );
});
