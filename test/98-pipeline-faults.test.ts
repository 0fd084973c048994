// Ranks of a pipeline that are killed, stopped or throw in every kind of action: the others name the rank and what they wait for within 5 seconds,
// and nothing is left behind. SHARDGRAD_FAULTS says how many (10; `npm run soak` takes 40, which is all), SHARDGRAD_SEED where.
import { describe, expect, test } from 'vitest';
import { type JobPlan, type Outcome, runJob, runRanks, twoAtATime } from './helpers/faults.js';
import { nothingLeft } from './helpers/leftovers.js';
import { stream } from './helpers/random.js';

const ALL = Number(process.env['SHARDGRAD_FAULTS'] ?? 10) > 10;
const SEED = Number(process.env['SHARDGRAD_SEED'] ?? 1);
const HANG_MS = 40_000;
const DETECTION_MS = 5000;
const MICRO_BATCHES = 4;
const limits = { timeout: ALL ? 600_000 : 60_000 };

interface PipelinePlan extends JobPlan {
  readonly schedule: '1f1b' | 'zb-h1';
  readonly mesh: { readonly pp: number; readonly dpReplicate?: number; readonly dpShard?: number };
  /** `1F2`; REDUCE_GRAD and UNSHARD as they are. */
  readonly action: string;
  readonly step: number;
}

/** The ranks that have an action of three stages, a stage each. */
const places = { F: [0, 1, 2], B: [0, 1, 2], I: [1, 2], W: [1, 2], SEND_F: [0, 1], RECV_F: [1, 2], SEND_B: [1, 2], RECV_B: [0, 1] } as const;
const KINDS = ['kill', 'throw', 'stop'] as const;
const ACTIONS = [...(Object.keys(places) as (keyof typeof places)[]), 'REDUCE_GRAD', 'UNSHARD'] as const;

const next = stream(SEED * 1000 + 98);
function planOf(kind: (typeof KINDS)[number], what: (typeof ACTIONS)[number], transport: 'shm' | 'tcp'): PipelinePlan {
  const below = (n: number): number => Math.floor(next() * n);
  const common = { kind, transport, step: 1 + below(3), script: 'pipeline_rank.mjs' };
  if (what === 'REDUCE_GRAD') return { ...common, ranks: 4, rank: below(4), action: what, schedule: '1f1b', mesh: { pp: 2, dpReplicate: 2 } };
  // the first step gathers parameters dry too, when the ranks agree on shapes
  if (what === 'UNSHARD') return { ...common, step: 1 + common.step, ranks: 4, rank: below(4), action: what, schedule: '1f1b', mesh: { pp: 2, dpShard: 2 } };
  const rank = places[what][below(places[what].length)]!;
  const schedule = what === 'I' || what === 'W' ? 'zb-h1' : '1f1b';
  return { ...common, ranks: 3, rank, action: `${rank}${what}${below(MICRO_BATCHES)}`, schedule, mesh: { pp: 3 } };
}

const plans = ALL
  ? KINDS.flatMap((kind) => ACTIONS.flatMap((what) => (['shm', 'tcp'] as const).map((transport) => planOf(kind, what, transport))))
  : ACTIONS.map((what, i) => planOf(i === 3 || i === 9 ? 'stop' : KINDS[i % 2]!, what, i % 3 === 0 ? 'tcp' : 'shm'));

function expectNamed({ events, output, ends, orphans }: Outcome, plan: PipelinePlan): void {
  const fault = events.find((e) => e.event === 'fault');
  expect(fault, output).toBeDefined();
  const caught = events.filter((e) => e.event === 'caught' && e.rank !== plan.rank);
  expect(caught.map((e) => e.rank).sort(), output).toEqual(Array.from({ length: plan.ranks }, (_, r) => r).filter((r) => r !== plan.rank));
  const single = plan.ranks === plan.mesh.pp;
  for (const { text, at } of caught) {
    expect(at - fault!.at).toBeLessThan(DETECTION_MS);
    if (!single) expect(text).toMatch(/^DistributedError: .*rank \d (\(world rank \d\) )?(has|along pp has) (failed|ended|stopped)/);
    else {
      // what whoever noticed it waits for: a message of its own, or the end of a step
      const waits = `rank ${plan.rank} has (ended|stopped).* waits for it in .*( \\d(SEND|RECV)_[FB]\\d| of the (loss|shapes))`;
      const reason = `rank ${plan.rank} along pp has failed in ${plan.action}: my own mistake`;
      // over TCP the end of a process may be faster than its reason
      const expected = plan.kind !== 'throw' ? waits : plan.transport === 'shm' ? reason : `(${reason}|${waits})`;
      expect(text).toMatch(new RegExp(`^DistributedError: .*${expected}`));
    }
  }
  // in a mesh of several axes, some wait for ranks that have given up for the same reason
  if (!single)
    expect(
      caught.some(({ text }) =>
        new RegExp(`\\(world rank ${plan.rank}\\) has (ended|failed|stopped)|has failed on rank \\d \\(world rank ${plan.rank}\\)`).test(text),
      ),
      output,
    ).toBe(true);
  expect(ends).toEqual(Array.from({ length: plan.ranks }, (_, r) => (r === plan.rank ? { kill: 'SIGKILL', throw: 1, stop: 3 }[plan.kind as 'kill'] : 3)));
  if (plan.kind === 'throw') {
    const where = single ? `in ${plan.action} of rank ${plan.rank} along pp, marked ✗ below (${plan.schedule}, time to the right):\nrank 0 ` : ' of rank ';
    expect(output).toContain(where);
    if (single) expect(output).toMatch(new RegExp(`rank [0-2] .*✗[FBIW]${plan.action.at(-1)}`));
    expect(output).toContain('RangeError: my own mistake\nin ');
  }
  expect(orphans).toEqual([]);
}

describe('a fault in an action', () => {
  test(
    `is named by every other rank (${plans
      .map(({ kind, action }) => `${kind} ${action}`)
      .slice(0, 10)
      .join(', ')}${ALL ? ' and so on' : ''})`,
    limits,
    async () => {
      await twoAtATime(plans, async (plan) => expectNamed(await runRanks(plan, HANG_MS), plan));
      await nothingLeft();
    },
  );

  test('ends the job of a launcher', limits, async () => {
    const some = ALL ? plans : plans.filter((_, i) => i === 0 || i === 5);
    await twoAtATime(some, async (plan) => {
      const { output, ends, orphans, seconds, events } = await runJob(plan, HANG_MS);
      expect(
        events.some((e) => e.event === 'fault'),
        output,
      ).toBe(true);
      expect(ends[0], output).not.toBe(0);
      const cause = `rank ${plan.rank}`;
      const expected = {
        kill: `${cause} failed first: killed by SIGKILL`,
        throw: `${cause} failed first: exit code 1`,
        stop: `failed first: exit code 3, because of ${cause}, whose process is still there`,
      };
      expect(output).toContain(expected[plan.kind as keyof typeof expected]);
      if (plan.kind === 'throw') expect(output).toContain('my own mistake');
      expect(orphans).toEqual([]);
      expect(seconds).toBeLessThan(HANG_MS / 1000);
    });
    await nothingLeft();
  });
});
