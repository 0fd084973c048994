// Faults at random points of a training: every survivor names the rank within 5 seconds, nothing hangs and nothing is left behind.
// SHARDGRAD_FAULTS says how many of each kind (10; `npm run soak` takes 40), SHARDGRAD_SEED which ones.
import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { draw, type FaultPlan, KINDS, type Outcome, runHosts, runJob, runRanks, twoAtATime } from './helpers/faults.js';
import { nothingLeft } from './helpers/leftovers.js';
import { namespacesMissing } from './helpers/namespaces.js';
import { stream } from './helpers/random.js';

const COUNT = Number(process.env['SHARDGRAD_FAULTS'] ?? 10);
const SEED = Number(process.env['SHARDGRAD_SEED'] ?? 1);
/** A job that takes longer hangs. */
const HANG_MS = 40_000;
const DETECTION_MS = 5000;
const limits = { timeout: COUNT * 25_000 };

function named({ events, output }: Outcome, plan: FaultPlan): number {
  const fault = events.find((e) => e.event === 'fault');
  expect(fault, output).toBeDefined();
  const caught = events.filter((e) => e.event === 'caught' && e.rank !== plan.rank);
  expect(caught.map((e) => e.rank).sort(), output).toEqual(Array.from({ length: plan.ranks }, (_, r) => r).filter((r) => r !== plan.rank));
  for (const { text, at } of caught) {
    expect(text).toMatch(new RegExp(`^DistributedError: .*rank ${plan.rank}\\b`));
    expect(at - fault!.at).toBeLessThan(DETECTION_MS);
  }
  return Math.max(...caught.map((e) => e.at - fault!.at));
}

describe.each(KINDS)('%s', (kind) => {
  const next = stream(SEED * 100 + KINDS.indexOf(kind));
  const plans = Array.from({ length: COUNT }, () => draw(kind, next));

  test('is named by every survivor', limits, async () => {
    const took: number[] = [];
    await twoAtATime(plans.slice(0, Math.ceil(COUNT / 2)), async (plan) => {
      const outcome = await runRanks(plan, HANG_MS);
      took.push(named(outcome, plan));
      expect(outcome.orphans).toEqual([]);
      const own = outcome.events.filter((e) => e.event === 'caught' && e.rank === plan.rank);
      // one that was stopped learns that the others are gone
      expect(own.length).toBe(kind === 'stop' ? 1 : 0);
    });
    await nothingLeft();
    console.log(`${kind}: ${took.length} faults named after at most ${Math.max(...took)} ms`);
  });

  test('ends the job of a launcher', limits, async () => {
    await twoAtATime(plans.slice(Math.ceil(COUNT / 2)), async (plan) => {
      const { output, ends, orphans, seconds, events } = await runJob(plan, HANG_MS);
      expect(events.some((e) => e.event === 'fault')).toBe(true);
      expect(ends[0], output).not.toBe(0);
      const cause = `rank ${plan.rank}`;
      const expected = {
        kill: `${cause} failed first: killed by SIGKILL`,
        throw: `${cause} failed first: exit code 1`,
        stop: `failed first: exit code 3, because of ${cause}, whose process is still there`,
        exit: `failed first: exit code 3, because of ${cause}, which had ended with exit code 0`,
      };
      expect(output).toContain(expected[kind]);
      expect(orphans).toEqual([]);
      expect(seconds).toBeLessThan(HANG_MS / 1000);
    });
    await nothingLeft();
  });
});

describe('calls of two groups in another order on one rank', () => {
  const next = stream(SEED + 2000);
  const plans = Array.from({ length: COUNT }, (): FaultPlan => ({ ...draw('order', next), stage: 'order', step: 1 + Math.floor(8 * next()) }));

  test('are named on every rank', limits, async () => {
    const took: number[] = [];
    await twoAtATime(plans.slice(0, Math.ceil(COUNT / 2)), async (plan) => {
      const { events, output, ends, orphans } = await runRanks(plan, HANG_MS);
      const fault = events.find((e) => e.event === 'fault');
      const caught = events.filter((e) => e.event === 'caught');
      expect(caught, output).toHaveLength(plan.ranks);
      for (const { text, at } of caught) {
        expect(text).toMatch(/^DistributedError: .*the ranks wait for each other: call the groups in the same order on all ranks: /);
        for (const [who, group] of [
          [`${plan.rank}`, 'side'],
          [`[^${plan.rank}]`, 'world'],
        ]) {
          expect(text).toMatch(new RegExp(`world rank ${who} waits in allReduce\\(.*\\) #\\d+ of process group ${group} at \\S*fault_rank\\.mjs:\\d+:\\d+`));
        }
        expect(at - fault!.at).toBeLessThan(DETECTION_MS);
        took.push(at - fault!.at);
      }
      expect(ends).toEqual(Array(plan.ranks).fill(3));
      expect(orphans).toEqual([]);
    });
    await nothingLeft();
    console.log(`order: named after at most ${Math.max(...took)} ms`);
  });

  test('end the job of a launcher', limits, async () => {
    await twoAtATime(plans.slice(Math.ceil(COUNT / 2)), async (plan) => {
      const { output, ends, orphans, seconds } = await runJob(plan, HANG_MS);
      expect(ends[0], output).not.toBe(0);
      expect(output).toMatch(/rank \d failed first: exit code 3/);
      expect(output).toContain('call the groups in the same order on all ranks: world rank');
      expect(orphans).toEqual([]);
      expect(seconds).toBeLessThan(HANG_MS / 1000);
    });
    await nothingLeft();
  });
});

test('a rank that ends before it joins is named to those who wait for it', async () => {
  for (const rank of [0, 1]) {
    const plan: FaultPlan = { kind: 'exit', ranks: 3, transport: 'shm', rank, stage: 'start', step: 0, delay: 0 };
    const { output, ends, seconds } = await runJob(plan, HANG_MS);
    expect(ends).toEqual([3]);
    expect(output).toContain(`DistributedError: dist.init: rank ${rank} has ended and never joined the job`);
    expect(seconds).toBeLessThan(DETECTION_MS / 1000);
  }
});

test('a rank that sleeps and goes on is no error, only a warning', { timeout: 120_000 }, async () => {
  const milliseconds = COUNT > 10 ? 30_000 : 7000;
  const plan: FaultPlan = { kind: 'sleep', ranks: 3, transport: 'shm', rank: 1, stage: 'forward', step: 4, delay: 0, milliseconds };
  const { events, ends, output } = await runRanks(plan, HANG_MS + milliseconds);
  expect(ends, output).toEqual([0, 0, 0]);
  expect(events.filter((e) => e.event === 'done')).toHaveLength(3);
  expect(output).toMatch(/shardgrad: rank [02] waits in .* for rank 1 since 5 s; its last call is/);
});

const namespaces = spawnSync('unshare', ['-m', 'true']).status === 0;
describe.skipIf(!namespaces)('a full /dev/shm (needs the right to make a mount namespace)', () => {
  test('is an error that says so, or goes unnoticed', limits, async () => {
    const next = stream(SEED);
    let refused = 0;
    const plans = Array.from({ length: COUNT }, (_, i) => ({
      ...draw('none', next),
      transport: 'shm' as const,
      delay: Math.round(2 ** (5 + (8 * i) / Math.max(1, COUNT - 1))),
    }));
    await twoAtATime(plans, async (plan) => {
      const mount = `mount -t tmpfs -o size=${plan.delay}k tmpfs /dev/shm && exec "$@"`;
      const { output, ends, orphans } = await runJob(plan, HANG_MS, ['unshare', '-m', 'sh', '-c', mount, 'sh']);
      expect(orphans).toEqual([]);
      if (ends[0] === 0) return;
      refused++;
      expect(output).toMatch(/OutOfMemoryError: .*the system has no room to reserve \/shardgrad-.*a container often has a small \/dev\/shm/);
    });
    expect(refused).toBeGreaterThan(0);
    expect(refused).toBeLessThan(COUNT);
  });
});

describe.skipIf(namespacesMissing !== null)(`a cut link${namespacesMissing === null ? '' : ` (skipped: ${namespacesMissing})`}`, () => {
  test('is noticed on both sides', limits, async () => {
    const next = stream(SEED + 1000);
    const plans = Array.from({ length: COUNT }, (): FaultPlan => ({ ...draw('cut', next), ranks: 2, rank: Math.floor(2 * next()), transport: 'tcp' }));
    await twoAtATime(plans, async (plan) => {
      const { events, output, orphans } = await runHosts(plan.stage === 'checkpoint' ? { ...plan, rank: 0 } : plan, HANG_MS);
      const fault = events.find((e) => e.event === 'fault');
      const caught = events.filter((e) => e.event === 'caught');
      expect(caught.map((e) => e.rank).sort(), output).toEqual([0, 1]);
      for (const { rank, text, at } of caught) {
        expect(text).toMatch(new RegExp(`^DistributedError: .*rank ${1 - rank} has stopped, or the link to it is cut`));
        expect(at - fault!.at).toBeLessThan(DETECTION_MS);
      }
      expect(orphans).toEqual([]);
    });
  });
});
