// Pipeline schedules: the plans, their text, what is wrong with broken ones, and the figures of the papers. SHARDGRAD_SCHEDULES=all goes
// through all sizes up to 16 ranks, 64 micro-batches and 4 stages a rank (`npm run soak`); a sample of them otherwise.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Action, formatAction, isCommunication, isCompute, parseAction } from '../lib/distributed/pipeline/action.js';
import { lowerSchedule } from '../lib/distributed/pipeline/lower.js';
import { makeSchedule, SCHEDULE_NAMES, type ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { formatSchedule, forwardsOf, parseSchedule, readSchedule, Schedule, writeSchedule } from '../lib/distributed/pipeline/schedule.js';
import { simulateSchedule } from '../lib/distributed/pipeline/simulate_schedule.js';
import { validateSchedule } from '../lib/distributed/pipeline/validate.js';
import { ValueError } from '../lib/errors.js';
import { Golden } from './helpers/golden.js';
import { check } from './helpers/property.js';

const ALL = process.env['SHARDGRAD_SCHEDULES'] === 'all';

interface Sizes {
  readonly name: ScheduleName;
  readonly ranks: number;
  readonly microBatches: number;
  readonly stagesPerRank: number;
}

function errorOf(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    if (error instanceof ValueError) return error.message;
    throw error;
  }
  return 'no error';
}

/** B is I and W, one after the other: what PyTorch's zero-bubble plans say also where nothing is gained by having two. */
function inHalves(actions: readonly Action[]): string[] {
  return actions.flatMap((action) => (action.kind === 'B' ? (['I', 'W'] as const).map((kind) => ({ ...action, kind })) : [action])).map(formatAction);
}

describe('text', () => {
  const action = fc.oneof(
    fc.record({
      stage: fc.nat(99),
      kind: fc.constantFrom('F', 'B', 'I', 'W', 'SEND_F', 'RECV_F', 'SEND_B', 'RECV_B'),
      microBatch: fc.nat(999),
    }),
    fc.record({ stage: fc.nat(99), kind: fc.constantFrom('UNSHARD', 'RESHARD', 'REDUCE_GRAD'), microBatch: fc.constant(null) }),
  ) as fc.Arbitrary<Action>;

  test('of actions', () => {
    expect(formatAction(parseAction(' 2F0 '))).toBe('2F0');
    expect(parseAction('1SEND_B13')).toEqual({ stage: 1, kind: 'SEND_B', microBatch: 13 });
    expect(parseAction('0REDUCE_GRAD')).toEqual({ stage: 0, kind: 'REDUCE_GRAD', microBatch: null });
    check([action], (a) => expect(parseAction(formatAction(a))).toEqual(a));
    for (const text of ['', 'F0', '2X0', '2F', '2F0x', '-1F0', '2f0', '0UNSHARD3', '1.5F0', '9999999F0', '0F1e3', '0toString0', '0__proto__0']) {
      expect(() => parseAction(text), text).toThrow(ValueError);
    }
    expect(errorOf(() => parseAction('2X0'))).toBe(
      'a string "2X0" is not an action; actions are a stage, one of F B I W SEND_F RECV_F SEND_B RECV_B UNSHARD RESHARD REDUCE_GRAD, and a micro-batch, as 2F0',
    );
    expect(errorOf(() => parseAction('(0F0;1B0)OVERLAP_F_B'))).toMatch(/forwards that overlap with backwards are not supported/);
    check([fc.string({ maxLength: 12 })], (text) => void errorOf(() => parseAction(text)));
  });

  test('of plans: through text and back, also with messages and their steps', () => {
    for (const sizes of sample().filter(({ ranks, microBatches }) => ranks < 5 && microBatches < 12)) {
      const plan = makeSchedule(sizes.name, sizes);
      expect(parseSchedule(formatSchedule(plan)).steps).toEqual(plan.steps);
      const lowered = lowerSchedule(plan, { sharded: true });
      const again = parseSchedule(formatSchedule(lowered));
      expect(again.steps).toEqual(lowered.steps);
      expect(again.communicates).toBe(sizes.ranks > 1);
      expect(parseSchedule(formatSchedule(lowered, { gaps: false })).actions).toEqual(lowered.actions);
    }
  });

  test('empty cells, spaces and other ends of lines', () => {
    const plan = parseSchedule(',0F0, 0F1 ,,0B0,0B1\r\n,1F0,1B0,1F1,1B1,,\r\n');
    expect(formatSchedule(plan)).toBe('0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n');
    validateSchedule(plan);
    expect([plan.ranks, plan.stages, plan.microBatches, plan.rankOf(1), plan.stagesOf(0)]).toEqual([2, 2, 2, 1, [0]]);
    expect(errorOf(() => plan.rankOf(2))).toBe('schedule from text: there is no stage 2; it has 2');
  });

  test('files', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'shardgrad-schedules-'));
    try {
      const path = join(folder, 'mine.csv');
      const plan = makeSchedule('zbv', { ranks: 2, microBatches: 4 });
      await writeSchedule(path, plan);
      const again = await readSchedule(path);
      expect(again.actions).toEqual(plan.actions);
      expect(again.name).toBe('mine.csv');
      await writeFile(path, '0F0,0B0\n1F0,1G0\n');
      await expect(readSchedule(path)).rejects.toThrow('schedule mine.csv, line 2, cell 2: a string "1G0" is not an action');
      await expect(readSchedule(join(folder, 'none.csv'))).rejects.toThrow(/none\.csv: the file cannot be read \(ENOENT\)/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('a plan cannot be changed', () => {
    const plan = makeSchedule('1f1b', { ranks: 2, microBatches: 2 });
    expect(() => (plan.actions[0] as Action[]).push(plan.actions[0]![0]!)).toThrow(TypeError);
    expect(() => Object.assign(plan, { stages: 3 })).toThrow(TypeError);
  });
});

/** All sizes, or some of them. */
function sample(): Sizes[] {
  const sizes: Sizes[] = [];
  const some = [1, 2, 3, 4, 7, 16];
  for (const name of SCHEDULE_NAMES) {
    for (const stagesPerRank of name === 'interleaved' ? [1, 2, 3, 4] : [name === 'zbv' ? 2 : 1]) {
      for (let ranks = 1; ranks <= 16; ranks++) {
        for (let microBatches = ranks; microBatches <= 64; microBatches++) {
          if (!ALL && !(some.includes(ranks) && [0, 1, ranks - 1, 2 * ranks + 1].includes(microBatches - ranks))) continue;
          if (!ALL && ranks * stagesPerRank > 28) continue;
          // groups must be equal
          if (name === 'interleaved' && microBatches % Math.floor(microBatches / ranks) !== 0) continue;
          sizes.push({ name, ranks, microBatches, stagesPerRank });
        }
      }
    }
  }
  return sizes;
}

/** What the papers say, of a step of `microBatches` with F 1, B 2, I 1, W 1. */
function formulas({ name, ranks: p, microBatches: m, stagesPerRank: v }: Sizes): { bubble: number; spanBubble: number; peak: (rank: number) => number } | null {
  const group = m / Math.floor(m / p);
  switch (name) {
    case 'gpipe':
      return { bubble: (p - 1) / (m + p - 1), spanBubble: (p - 1) / (m + p - 1), peak: () => m };
    case '1f1b':
      return { bubble: (p - 1) / (m + p - 1), spanBubble: (p - 1) / (m + p - 1), peak: (r) => p - r };
    case 'interleaved':
      return {
        bubble: (p - 1) / (m * v + p - 1),
        spanBubble: (p - 1) / (m * v + p - 1),
        peak: (r) => Math.min(m * v, (v - 1) * group + 2 * (p - 1 - r) + 1),
      };
    case 'zb-h1':
      // (p − 1)(F + I − W) of m (F + I + W) and it
      return { bubble: (p - 1) / (3 * m + p - 1), spanBubble: (p - 1) / (3 * m + p - 1), peak: () => p };
    case 'zbv':
      // ranks start one after another; from its first action to its last none waits
      return m < 2 * p - 1 ? null : { bubble: (p - 1) / (6 * m + p - 1), spanBubble: 0, peak: () => 2 * p };
  }
}

describe('the figures of the papers', () => {
  test('bubbles and activations, as planned and with messages that take no time', { timeout: ALL ? 600_000 : 30_000 }, () => {
    let compared = 0;
    for (const sizes of sample()) {
      const at = JSON.stringify(sizes);
      const plan = makeSchedule(sizes.name, sizes);
      const planned = simulateSchedule(plan);
      const formula = formulas(sizes);
      if (formula) {
        expect(planned.bubble, at).toBeCloseTo(formula.bubble, 9);
        expect(planned.spanBubble, at).toBeCloseTo(formula.spanBubble, 9);
        expect(
          planned.ranks.map(({ peakActivations }) => peakActivations),
          at,
        ).toEqual(planned.ranks.map((_, rank) => formula.peak(rank)));
        compared++;
      }
      const lowered = lowerSchedule(plan);
      validateSchedule(lowered);
      expect(lowered.actions.map((actions) => actions.filter(isCompute))).toEqual(plan.actions);
      const ran = simulateSchedule(lowered);
      expect(ran.makespan, at).toBe(planned.makespan);
      expect(ran.ranks.map(({ peakActivations }) => peakActivations)).toEqual(planned.ranks.map(({ peakActivations }) => peakActivations));
    }
    expect(compared).toBeGreaterThan(ALL ? 4000 : 100);
  });

  test('other costs', () => {
    const at = { ranks: 4, microBatches: 12 };
    const [F, I, W] = [1, 1.5, 0.75];
    const work = 12 * (F + I + W);
    const h1 = simulateSchedule(makeSchedule('zb-h1', at), { costs: { F, I, W } });
    // (p − 1)(F + I − W), up to what W cannot fill where the parts differ
    expect(h1.makespan).toBeGreaterThanOrEqual(work + 3 * (F + I - W));
    const whole = simulateSchedule(makeSchedule('1f1b', at), { costs: { F, I, W } });
    expect(whole.makespan).toBeCloseTo(work + 3 * (F + I + W), 9);
    expect(h1.makespan).toBeLessThan(whole.makespan);
    expect(simulateSchedule(makeSchedule('gpipe', at), { costs: { F: 2, B: 5 } }).bubble).toBeCloseTo(3 / 15, 9);
    // one slow stage decides: p − 1 stages before and after it, and m times itself
    const slow = simulateSchedule(makeSchedule('1f1b', at), { costs: { F: [1, 1, 3, 1], B: [2, 2, 6, 2] } });
    expect(slow.makespan).toBe(12 * 9 + 2 * 3 + 0);
    expect(slow.ranks[2]!.bubble).toBeLessThan(slow.ranks[0]!.bubble);
  });

  test('messages that take time', () => {
    const plan = makeSchedule('gpipe', { ranks: 3, microBatches: 1 + 2 });
    for (const each of [plan, lowerSchedule(plan)]) {
      // through the pipeline and back: 2 messages each way
      expect(simulateSchedule(each, { costs: { send: 0.5 } }).makespan).toBe(15 + 4 * 0.5);
    }
    // a rank's messages go one after another: the second is sent while the first would still be under way
    const narrow = simulateSchedule(lowerSchedule(plan), { costs: { send: 2 } });
    const wide = simulateSchedule(plan, { costs: { send: 2 } });
    expect(narrow.makespan).toBeGreaterThan(wide.makespan);
    // within a rank nothing is sent
    const v = makeSchedule('zbv', { ranks: 1, microBatches: 4 });
    expect(simulateSchedule(lowerSchedule(v), { costs: { send: 100 } }).makespan).toBe(24);
  });

  test('bytes', () => {
    const plan = makeSchedule('zb-h1', { ranks: 4, microBatches: 8 });
    const bytes = (activations: number | number[], deferred?: number | number[]) =>
      simulateSchedule(plan, { bytes: { activations, deferred } }).ranks.map(({ peakBytes }) => peakBytes);
    expect(bytes(10)).toEqual([40, 40, 40, 40]);
    // what waits for W weighs less: the last rank keeps one whole and three of these
    expect(bytes(10, 4)).toEqual([40, 30 + 4, 20 + 8, 10 + 12]);
    expect(bytes([1, 2, 3, 4])).toEqual([4, 8, 12, 16]);
    expect(simulateSchedule(plan).ranks[0]!.peakBytes).toBeNull();
    expect(errorOf(() => bytes([1, 2]))).toBe('bytes.activations has 2 numbers for the 4 stages of schedule zb-h1');
    expect(errorOf(() => bytes(-1))).toBe('bytes.activations must be numbers from 0, not -1');
  });

  test('costs that are none', () => {
    const plan = makeSchedule('1f1b', { ranks: 2, microBatches: 2 });
    for (const costs of [
      { F: 0 },
      { B: -1 },
      { I: Number.NaN },
      { W: Number.POSITIVE_INFINITY },
      { F: [1] },
      { F: [1, 'x'] as never },
      { send: -1 },
      { F: '1' as never },
    ]) {
      expect(() => simulateSchedule(plan, { costs }), JSON.stringify(costs)).toThrow(ValueError);
    }
    expect(errorOf(() => simulateSchedule(plan, { costs: { F: [1, 0] } }))).toBe('costs.F must be positive numbers, not 0');
  });
});

describe('sizes', () => {
  test('known plans', () => {
    expect(formatSchedule(makeSchedule('1f1b', { ranks: 2, microBatches: 3 }))).toBe('0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2\n');
    expect(formatSchedule(makeSchedule('zb-h1', { ranks: 2, microBatches: 3 }))).toBe('0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1W2\n');
    expect(makeSchedule('zbv', { ranks: 3, microBatches: 5 }).stagesOf(1)).toEqual([1, 4]);
    expect(makeSchedule('interleaved', { ranks: 3, microBatches: 3, stagesPerRank: 3 }).stagesOf(1)).toEqual([1, 4, 7]);
    // with one stage a rank, interleaved is 1F1B with twice the distance between ranks
    expect(makeSchedule('interleaved', { ranks: 1, microBatches: 2, stagesPerRank: 1 }).actions).toEqual(
      makeSchedule('1f1b', { ranks: 1, microBatches: 2 }).actions,
    );
  });

  test('groups of any size that leaves none too small', () => {
    for (const [ranks, microBatches, microBatchesPerGroup] of [
      [4, 10, 6],
      [4, 12, 8],
      [2, 9, 3],
      [3, 11, 4],
    ] as const) {
      const sizes = { ranks, microBatches, microBatchesPerGroup, stagesPerRank: 3 };
      const lowered = lowerSchedule(makeSchedule('interleaved', sizes));
      validateSchedule(lowered);
      expect(simulateSchedule(lowered).bubble).toBeCloseTo((ranks - 1) / (3 * microBatches + ranks - 1), 9);
    }
  });

  test('that do not fit', () => {
    const said = (name: ScheduleName, ranks: unknown, microBatches: unknown, more = {}): string =>
      errorOf(() => makeSchedule(name, { ranks: ranks as number, microBatches: microBatches as number, ...more }));
    for (const name of SCHEDULE_NAMES) {
      expect(said(name, 4, 3)).toMatch(
        new RegExp(`^schedule ${name}: 3 micro-batches are fewer than the 4 (stages|ranks), .*cut the batch into 4 or more micro-batches`),
      );
      for (const wrong of [0, -1, 1.5, Number.NaN, '4', undefined, null]) {
        expect(said(name, wrong, 4)).toMatch(/ranks must be a whole number from 1, not /);
        expect(said(name, 4, wrong)).toMatch(/microBatches must be a whole number from 1, not /);
      }
    }
    expect(said('1f1b', 2, 4, { stagesPerRank: 2 })).toBe('schedule 1f1b has 1 stage a rank, not 2; interleaved and zbv have several');
    expect(said('zbv', 2, 4, { stagesPerRank: 3 })).toBe('schedule zbv has 2 stages a rank, not 3; interleaved takes any number');
    expect(said('gpipe', 2, 4, { microBatchesPerGroup: 2 })).toBe('schedule gpipe: microBatchesPerGroup is an option of interleaved alone');
    expect(said('interleaved', 4, 9)).toMatch(/^schedule interleaved: 9 micro-batches on 4 ranks go in 2 rounds, .* take 8 or 12 micro-batches/);
    expect(said('interleaved', 4, 9, { microBatchesPerGroup: 8 })).toMatch(/leave a last one of 1, fewer than the 4 ranks/);
    expect(said('interleaved', 4, 9, { microBatchesPerGroup: 3 })).toMatch(/must be from 4, the ranks, to 9, the micro-batches, not 3/);
    expect(said('dualpipe' as never, 2, 2)).toMatch(/there is no schedule a string "dualpipe"; there are: gpipe, 1f1b, interleaved, zb-h1, zbv/);
    expect(said('toString' as never, 2, 2)).toMatch(/there is no schedule/);
  });
});

describe('plans of PyTorch', () => {
  for (const { name, kind, ranks, microBatches, stagesPerRank, text, lowered } of new Golden('pipeline_schedules').cases) {
    test(name, () => {
      const theirs = parseSchedule(text, name);
      validateSchedule(theirs);
      const ours = makeSchedule(kind as ScheduleName, { ranks, microBatches, stagesPerRank });
      // one difference: an I whose W follows at once is a B here where no other rank waits for it
      for (let rank = 0; rank < ranks; rank++) {
        expect(inHalves(ours.actions[rank]!)).toEqual(inHalves(theirs.actions[rank]!.filter(isCompute)));
      }
      expect(simulateSchedule(theirs).makespan).toBe(simulateSchedule(ours).makespan);
      const reductions = theirs.actions.flat().filter(({ kind: what }) => what === 'REDUCE_GRAD').length;
      expect(
        lowerSchedule(theirs)
          .actions.flat()
          .filter(({ kind: what }) => what === 'REDUCE_GRAD'),
      ).toHaveLength(reductions);
      if (lowered === undefined) return;
      const complete = parseSchedule(lowered, name);
      validateSchedule(complete);
      expect(complete.communicates).toBe(true);
      const own = lowerSchedule(ours, { sharded: true });
      const names = (plan: Schedule) =>
        plan.actions.map((actions) =>
          actions
            .filter((a) => isCommunication(a) || a.kind === 'REDUCE_GRAD')
            .map(formatAction)
            .toSorted(),
        );
      expect(names(own)).toEqual(names(complete));
      const unshards = (plan: Schedule) => plan.actions.map((actions) => actions.filter((a) => a.kind === 'UNSHARD' || a.kind === 'RESHARD').map(formatAction));
      expect(unshards(own).map((each) => each.toSorted())).toEqual(unshards(complete).map((each) => each.toSorted()));
    });
  }
});

describe('lowering', () => {
  test('what the neighbours of 1F1B exchange is one step', () => {
    const lowered = lowerSchedule(makeSchedule('1f1b', { ranks: 4, microBatches: 8 }));
    const exchanges = (rank: number) => lowered.steps[rank]!.filter((step) => step.length > 1).map((step) => step.map(formatAction).join(' '));
    expect(exchanges(1)).toContain('1RECV_F4 1SEND_B1');
    expect(exchanges(2).length).toBeGreaterThan(5);
    // elsewhere a receive is posted before what its rank computes meanwhile
    expect(formatSchedule(lowered).split('\n')[3]).toMatch(/^3RECV_F0,,3RECV_F1,3F0,3B0,3SEND_B0,3F1,/);
  });

  test('no rank starts to wait for a message before it is made, whatever the costs', () => {
    check(
      [
        fc.constantFrom(...sample().filter(({ ranks, microBatches }) => ranks > 1 && microBatches < 16)),
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 3, maxLength: 3 }),
      ],
      (sizes, [F, I, W]) => {
        const plan = makeSchedule(sizes.name, sizes);
        const costs = { F, I, W };
        const lowered = lowerSchedule(plan, { costs });
        validateSchedule(lowered);
        expect(simulateSchedule(lowered, { costs }).makespan).toBe(simulateSchedule(plan, { costs }).makespan);
      },
      60,
    );
  });

  test('sharded stages', () => {
    for (const maxUnsharded of [1, 2, 3]) {
      const plan = makeSchedule('interleaved', { ranks: 2, microBatches: 4, stagesPerRank: 4 });
      const lowered = lowerSchedule(plan, { sharded: true, maxUnsharded });
      validateSchedule(lowered);
      for (const actions of lowered.actions) {
        let whole = 0;
        let most = 0;
        for (const { kind } of actions) {
          whole += kind === 'UNSHARD' ? 1 : kind === 'RESHARD' ? -1 : 0;
          most = Math.max(most, whole);
        }
        expect([most, whole]).toEqual([maxUnsharded, 0]);
        expect(actions.filter(({ kind }) => kind === 'REDUCE_GRAD')).toHaveLength(4);
      }
    }
    const some = lowerSchedule(makeSchedule('1f1b', { ranks: 2, microBatches: 2 }), { sharded: [false, true] });
    expect(formatSchedule(some).split('\n')[0]).not.toContain('UNSHARD');
    expect(some.actions[1]!.map(formatAction)[0]).toBe('1RECV_F0');
    expect(some.actions[1]!.map(formatAction).slice(-3)).toEqual(['1REDUCE_GRAD', '1RESHARD', '1SEND_B1']);
  });

  test('gradients of replicas are summed after the last W, not the last I', () => {
    const lowered = lowerSchedule(makeSchedule('zb-h1', { ranks: 2, microBatches: 2 }), { reduceGradients: true });
    expect(formatSchedule(lowered)).toBe(
      '0F0,0SEND_F0,0F1,0SEND_F1,,0RECV_B0,,0RECV_B1,0B0,0B1,0REDUCE_GRAD\n1RECV_F0,,1RECV_F1,1F0,1I0,1SEND_B0,1F1,1I1,1SEND_B1,1W0,1W1,1REDUCE_GRAD\n',
    );
  });

  test('an evaluation: forwards alone', () => {
    for (const sizes of sample().filter(({ ranks }) => ranks < 5)) {
      const forwards = forwardsOf(makeSchedule(sizes.name, sizes));
      const lowered = lowerSchedule(forwards);
      validateSchedule(lowered);
      expect(lowered.trains).toBe(false);
      expect(new Set(lowered.actions.flat().map(({ kind }) => kind))).toEqual(new Set(sizes.ranks > 1 ? ['F', 'SEND_F', 'RECV_F'] : ['F']));
    }
    const both = new Schedule('x', [[parseAction('0F0'), parseAction('0B0')]], { trains: false });
    expect(errorOf(() => validateSchedule(both))).toBe('schedule x has 0B0, but is one of forwards alone');
  });

  test('what cannot be lowered', () => {
    const plan = makeSchedule('1f1b', { ranks: 2, microBatches: 2 });
    expect(errorOf(() => lowerSchedule(lowerSchedule(plan)))).toMatch(/has SENDs and RECVs already, and runs as it is/);
    const own = parseSchedule('0F0,0B0,0REDUCE_GRAD');
    expect(errorOf(() => lowerSchedule(own, { sharded: true }))).toMatch(/has 0REDUCE_GRAD of its own/);
    expect(formatSchedule(lowerSchedule(own))).toBe('0F0,0B0,0REDUCE_GRAD\n');
    expect(errorOf(() => lowerSchedule(plan, { sharded: [true] }))).toMatch(/sharded has 1 values for the 2 stages/);
    expect(errorOf(() => lowerSchedule(plan, { maxUnsharded: 0 }))).toMatch(/maxUnsharded must be a whole number from 1, not 0/);
  });
});

describe('broken plans', () => {
  const cases: [what: string, plan: string, error: string][] = [
    ['empty', '', 'schedule from text is empty; it has a line for each rank'],
    ['garbage', '0F0,0B0\n1F0,hello', 'schedule from text, line 2, cell 2: a string "hello" is not an action; actions are'],
    ['a rank without work', '0F0,0B0\n\n1F0,1B0', 'rank 1 has nothing to compute'],
    ['a stage on two ranks', '0F0,0B0\n0F1,0B1', 'stage 0 is on rank 0 and, with 0F1, on rank 1; a stage has one rank'],
    ['a stage that nothing computes', '0F0,0B0\n2F0,2B0', 'nothing computes stage 1, though there is a stage 2'],
    ['a forward too few', '0F0,0F1,0B0,0B1\n1F0,1B0,1B1', 'rank 1 has no 1F1'],
    ['a backward too few', '0F0,0F1,0B0\n1F0,1B0,1F1,1B1', 'rank 0 has no 0B1, nor an I and a W instead'],
    ['a W too few', '0F0,0I0', 'rank 0 has no 0W0, which 0I0 leaves to do'],
    ['an I too few', '0F0,0W0', 'rank 0 has no 0I0, though it has 0W0'],
    ['a micro-batch that one stage alone has', '0F0,0F1,0B0,0B1\n1F0,1B0', 'rank 1 has no 1F1'],
    ['a forward twice', '0F0,0F0,0B0', 'has 0F0 twice (rank 0, actions 1 and 2)'],
    ['a backward in halves and whole', '0F0,0B0,0I0,0W0', 'has both 0B0 and 0I0 (rank 0, actions 2 and 3)'],
    ['a whole backward and half of it', '0F0,0B0,0W0', 'has both 0B0 and 0W0, which is a part of it'],
    ['a backward before its forward', '0B0,0F0', 'rank 0 has 0B0 before 0F0, which it needs'],
    ['a W before its I', '0F0,0W0,0I0', 'rank 0 has 0W0 before 0I0, which it needs'],
    ['stages of a rank in the wrong order', '1F0,0F0,1B0,0B0', 'rank 0 has 1F0 before 0F0, which it needs'],
    [
      'ranks that wait for each other to compute',
      '0F0,0B0,0F1,0B1\n1F1,1F0,1B0,1B1',
      'would never end: rank 0 waits in 0B0 for rank 1, which waits in 1F1 for rank 0',
    ],
    [
      'three ranks in a ring',
      '0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n2F0,2F1,2B0,2B1',
      'would never end: rank 0 waits in 0B0 for rank 1, which waits in 1F1 for rank 0',
    ],
    [
      'two sends that meet',
      '0F0,0SEND_F0,0F1,0SEND_F1,,0RECV_B0,0B0,0RECV_B1,0B1\n1RECV_F0,1F0,1B0,1SEND_B0,,1RECV_F1,1F1,1B1,1SEND_B1',
      'would never end: rank 0 waits in 0SEND_F1 for rank 1, which waits in 1SEND_B0 for rank 0',
    ],
    ['a send on a wrong rank', '0F0,0RECV_B0,0B0,1SEND_B0\n1RECV_F0,1F0,1B0,0SEND_F0', '1SEND_B0 is on rank 0, but its stage is on rank 1'],
    ['a receive before the first stage', '0RECV_F0,0F0,0B0', 'rank 0 has 0RECV_F0, but there is no stage -1'],
    ['a send after the last stage', '0F0,0SEND_F0,0B0', 'rank 0 has 0SEND_F0, but there is no stage 1'],
    ['a send within a rank', '0F0,0SEND_F0,1F0,1B0,0B0', 'rank 0 has 0SEND_F0, but stage 1 is on the same rank, where nothing is sent'],
    ['a send without its receive', '0F0,0SEND_F0,0RECV_B0,0B0\n1F0,1B0,1SEND_B0', 'rank 1 has 1F0, but no 1RECV_F0 brings its input'],
    ['a receive without its send', '0F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0', 'rank 1 has 1RECV_F0, but rank 0 has no 0SEND_F0'],
    ['a send before what it sends', '0SEND_F0,0F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0', 'rank 0 has 0SEND_F0 before 0F0, which it needs'],
    ['a receive after what needs it', '0F0,0SEND_F0,0RECV_B0,0B0\n1F0,1RECV_F0,1B0,1SEND_B0', 'rank 1 has 1F0 before 1RECV_F0, which it needs'],
    [
      'messages in different orders',
      '0F0,0F1,0SEND_F0,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n1RECV_F1,1RECV_F0,1F0,1B0,1SEND_B0,1F1,1B1,1SEND_B1',
      'message 1 from rank 0 to rank 1 is 0SEND_F0 where it is sent, but 1RECV_F1 where it is received',
    ],
    ['a message of no micro-batch', '0F0,0SEND_F0,0SEND_F7,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0', 'rank 0 has 0SEND_F7, but nothing computes micro-batch 7'],
    ['a message of no stage', '0F0,0B0,5UNSHARD', 'rank 0 has 5UNSHARD, but nothing computes stage 5'],
    ['a forward of a sharded stage', '0UNSHARD,0F0,0RESHARD,0B0', 'rank 0 has 0B0 while stage 0 is sharded; it needs a 0UNSHARD before'],
    ['unsharded twice', '0UNSHARD,0UNSHARD,0F0,0B0,0RESHARD', 'rank 0 has 0UNSHARD twice without a RESHARD between'],
    ['resharded for nothing', '0RESHARD,0F0,0B0', 'rank 0 has 0RESHARD without a 0UNSHARD before'],
    ['left unsharded', '0UNSHARD,0F0,0B0', 'rank 0 ends without 0RESHARD'],
    ['gradients summed too early', '0F0,0I0,0REDUCE_GRAD,0W0', 'rank 0 has 0W0 after 0REDUCE_GRAD, which comes after the last backward of the stage'],
    ['gradients summed twice', '0F0,0B0,0REDUCE_GRAD,0REDUCE_GRAD', 'rank 0 has 0REDUCE_GRAD twice'],
    ['a stage far off', '0F0,0B0,999999F0', 'nothing computes stage 1, though there is a stage 999999'],
    ['a micro-batch far off', '0F0,0B0,0F999999', 'rank 0 has no 0F1'],
  ];
  for (const [what, plan, error] of cases) {
    test(what, () => {
      const said = errorOf(() => validateSchedule(parseSchedule(plan)));
      expect(said).toContain(error);
      if (what !== 'garbage' && what !== 'empty') expect(said).toMatch(/^schedule from text\b/);
      expect(errorOf(() => simulateSchedule(parseSchedule(plan)))).toBe(said);
      expect(errorOf(() => lowerSchedule(parseSchedule(plan)))).not.toBe('no error');
    });
  }

  test('what deadlocks as two steps runs as one', () => {
    const text = '0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1\n1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1';
    validateSchedule(parseSchedule(text));
    expect(simulateSchedule(parseSchedule(text)).makespan).toBe(9);
  });

  test('two actions changed places: the plan still runs, or one sentence says why not', () => {
    const plans = [...SCHEDULE_NAMES].flatMap((name) => {
      const plan = makeSchedule(name, { ranks: 3, microBatches: 5 + (name === 'interleaved' ? 1 : 0) });
      return [plan, lowerSchedule(plan, { sharded: true })];
    });
    const counts = { runs: 0, refused: 0 };
    check(
      [fc.constantFrom(...plans), fc.nat(2), fc.nat(), fc.nat(), fc.boolean()],
      (plan, rank, i, j, drop) => {
        const cells = plan.actions.map((actions) => [...actions]);
        const row = cells[rank]!;
        const [a, b] = [i % row.length, j % row.length];
        [row[a], row[b]] = [row[b]!, row[a]!];
        if (drop) row.splice(a, 1);
        const broken = new Schedule('broken', cells);
        const said = errorOf(() => validateSchedule(broken));
        if (said !== 'no error') {
          counts.refused++;
          expect(said).toMatch(/^schedule broken\b[^\n]+$/);
          return;
        }
        counts.runs++;
        // what passes comes to its end on paper too
        expect(simulateSchedule(broken).makespan).toBeGreaterThan(0);
      },
      400,
    );
    expect(counts.refused).toBeGreaterThan(100);
    expect(counts.runs).toBeGreaterThan(5);
  });

  test('any plan that keeps the order of dependencies can be lowered and ends', () => {
    // a random order of all computing; each rank's part of it cannot deadlock
    check(
      [fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 6 }), fc.infiniteStream(fc.nat()), fc.boolean()],
      (ranks, perRank, microBatches, random, split) => {
        const stages = ranks * perRank;
        const owner = Array.from({ length: stages }, (_, s) => (s < ranks ? s : (random.next().value as number) % ranks));
        const plan: Action[][] = Array.from({ length: ranks }, () => []);
        // of each micro-batch: how far it is in F of all stages, then its backwards; W are let free as they come
        const progress = Array.from({ length: microBatches }, () => 0);
        const free: Action[] = [];
        const put = (action: Action): void => void plan[owner[action.stage]!]!.push(action);
        while (progress.some((at) => at < 2 * stages) || free.length > 0) {
          const draw = random.next().value as number;
          if (free.length > 0 && (draw % 3 === 0 || progress.every((at) => at === 2 * stages))) {
            put(free.splice(draw % free.length, 1)[0]!);
            continue;
          }
          const microBatch = draw % microBatches;
          const at = progress[microBatch]!;
          if (at === 2 * stages) continue;
          progress[microBatch]!++;
          if (at < stages) put({ stage: at, kind: 'F', microBatch });
          else {
            const stage = 2 * stages - 1 - at;
            put({ stage, kind: split ? 'I' : 'B', microBatch });
            if (split) free.push({ stage, kind: 'W', microBatch });
          }
        }
        const schedule = new Schedule('random', plan);
        validateSchedule(schedule);
        const lowered = lowerSchedule(schedule, { sharded: true });
        validateSchedule(lowered);
        expect(simulateSchedule(lowered).makespan).toBe(simulateSchedule(schedule).makespan);
      },
      150,
    );
  });
});

test('what the library exports', async () => {
  const { makeSchedule: make, SCHEDULE_NAMES: names } = await import('../lib/distributed/index.js');
  expect(names.map((name) => make(name, { ranks: 2, microBatches: 4 }).name)).toEqual(['gpipe', '1f1b', 'interleaved', 'zb-h1', 'zbv']);
});
