// A job of four processes, tensor parallelism by sharded data parallelism, whose ranks are killed while they save and while they load: it starts
// again, and the losses of every start and the last parameters are those of an undisturbed run, to the bit. SHARDGRAD_FAULTS says how many
// jobs (1 unless given; `npm run soak` takes 10), SHARDGRAD_SEED which ranks die at which moments.
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { scratchFolder } from './helpers/files.js';
import { type Ended, Launched, root } from './helpers/launch.js';
import { nothingLeft } from './helpers/leftovers.js';
import { stream } from './helpers/random.js';

const COUNT = Math.ceil(Number(process.env['SHARDGRAD_FAULTS'] ?? 4) / 4);
const SEED = Number(process.env['SHARDGRAD_SEED'] ?? 1);
const RANKS = 4;
const dir = scratchFolder();
const script = join(root, 'test/children/sharded_rank.mjs');

interface Kill {
  readonly phase: 'save' | 'load';
  readonly rank: number;
  /** The call to the file system that is not made. */
  readonly at: number;
  /** The step whose save it is. */
  readonly from?: number;
}

let launches: Launched[] = [];
afterEach(() => {
  for (const launched of launches) launched.clean();
  launches = [];
});

function run(folder: string, kills: readonly Kill[]): Promise<Ended> {
  const command = [process.execPath, join(root, 'dist/bundle/cli.js'), 'run', '--nproc-per-node', String(RANKS), '--max-restarts', String(kills.length)];
  const launched = new Launched(dir, [script, folder, JSON.stringify(kills)], { command, env: { SHARDGRAD_NUM_THREADS: '1' } });
  launches.push(launched);
  return launched.ended;
}

/** What rank 0 said of each step, and of the parameters at the end. */
const lines = (out: string, what: RegExp): Map<string, string> => new Map([...out.matchAll(what)].map((m) => [m[1]!, m[2]!]));
const losses = (out: string): Map<string, string> => lines(out, /step (\d+) loss (\S+)/g);
const parameters = (out: string): Map<string, string> => lines(out, /parameter (\S+) (\S+)/g);

test(`${COUNT} jobs on four ranks that are killed while saving, while loading, and again`, { timeout: 60_000 + COUNT * 60_000 }, async () => {
  const calm = await run(join(dir, 'calm'), []);
  expect([calm.code, calm.err.replace(/^shardgrad run: .*\n/gm, '')]).toEqual([0, '']);
  expect([...losses(calm.out).keys()]).toEqual(Array.from({ length: 10 }, (_, i) => String(i + 1)));
  const next = stream(SEED * 91);
  const draw = (phase: Kill['phase'], most: number, from?: number): Kill => {
    const [rank, at] = [Math.floor(next() * RANKS), 1 + Math.floor(next() * most)];
    return { phase, rank, at, from };
  };
  for (let job = 0; job < COUNT; job++) {
    const kills = [draw('save', 30, 4), draw('load', 60), draw('save', 60, 6)];
    const folder = join(dir, `job ${job}`);
    const { code, out, err } = await run(folder, kills);
    const story = `${JSON.stringify(kills)}\n${out}\n${err}`;
    expect(code, story).toBe(0);
    const ends = [...out.matchAll(/\[rank (\d)\] killed in (\w+) before \w+/g)].map((m) => [Number(m[1]), m[2]]);
    expect(ends, story).toEqual(kills.map(({ rank, phase }) => [rank, phase]));
    for (const { rank } of kills) expect(err).toContain(`rank ${rank} failed first: killed by SIGKILL`);
    const expected = losses(calm.out);
    for (const start of out.split(/resumed \d+\n/)) for (const [step, loss] of losses(start)) expect(loss, `step ${step}: ${story}`).toBe(expected.get(step));
    const resumed = [...out.matchAll(/resumed (\d+)\n/g)].map((m) => Number(m[1]));
    expect([2, 4], story).toContain(resumed[0]);
    expect([4, 6], story).toContain(resumed.at(-1));
    expect(parameters(out)).toEqual(parameters(calm.out));
  }
  await nothingLeft();
});
