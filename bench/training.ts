// GPT training beside PyTorch: one process with one and with all threads, data parallelism over two processes, and the other ways to spread a
// model. The same weights, batches and precision on all sides; the losses are compared before any time is taken.
import { availableParallelism } from 'node:os';
import { makeSchedule, simulateSchedule } from '../lib/distributed/index.js';
import { type Group, inTurn, type Row, type Run, row, shown, spread } from './rows.js';
import { type Answer, type ConfigName, compareLosses, type Setup, Side, type Spreading, withSetup } from './sides.js';

const RANKS = 2;
const MEMORY_BAR = 1.25;
const STEPS: Record<ConfigName, number> = { tiny: 10, small: 3, deep: 4, gpt2: 1 };
const DTYPES = ['float32', 'bfloat16'] as const;
const stepsOf = (name: ConfigName, { quick }: Run): number => (quick ? 1 : STEPS[name]);
/** Those that could be started. */
const present = (...sides: readonly (Side | null)[]): Side[] => sides.filter((side) => side !== null);
const speeds = (sides: readonly Pick<Side, 'speed'>[], config: ConfigName, run: Run): Promise<number[][]> =>
  inTurn(
    sides.map((side) => () => side.speed(stepsOf(config, run))),
    run.rounds,
  );

/** Every side has trained a few steps; the largest difference of their losses from those of the first. */
async function warmUp(sides: readonly Side[], setup: Setup, steps: number): Promise<string> {
  const answers: Answer[] = [];
  for (const side of sides) answers.push(await side.round(steps));
  const largest = Math.max(0, ...answers.slice(1).map((answer) => compareLosses(answer, answers[0]!, setup)));
  return `losses agree to ${largest.toExponential(0)}`;
}

/** Speed, then the peak of memory. */
async function* trained(name: string, run: Run, config: ConfigName, setup: Setup, sides: readonly Side[], bar: number | undefined): AsyncIterable<Row> {
  try {
    const note = await warmUp(sides, setup, config === 'gpt2' ? 2 : 3);
    const [ours, theirs] = await speeds(sides, config, run);
    yield row('training', name, 'tokens/s', { ours: ours!, theirs: theirs ?? null }, { bar, note });
    const peaks: number[] = [];
    for (const side of sides) peaks.push((await side.round(1)).peakMiB);
    const memory = { ours: [peaks[0]!], theirs: peaks[1] === undefined ? null : [peaks[1]] };
    yield row('training', `${name}: peak of resident memory`, 'MiB', memory, { bar: MEMORY_BAR });
  } finally {
    for (const side of sides) side.end();
  }
}

const BARS: Record<string, Record<string, number>> = {
  tiny: { float32: 1.3, bfloat16: 2.4 },
  small: { float32: 1.18, bfloat16: 1.4 },
  gpt2: { float32: 1.1, bfloat16: 1.25 },
};

export const training: Group = async function* (run) {
  const cases: [ConfigName, number[]][] = [
    ['tiny', [...new Set([1, run.threads])]],
    ['small', [run.threads]],
    ...(run.quick ? [] : [['gpt2', [run.threads]] as [ConfigName, number[]]]),
  ];
  for (const [config, counts] of cases) {
    for (const dtype of [...DTYPES, ...(config === 'gpt2' ? [] : ['autocast'])]) {
      for (const threads of counts) {
        const name = `GPT ${config}, ${dtype}, ${threads} thread${threads > 1 ? 's' : ''}`;
        yield* withSetup(config, dtype, async function* (setup) {
          const ours = await Side.start('shardgrad', null, setup, { threads });
          const theirs = run.python === null ? null : await Side.start('PyTorch', run.python, setup, { threads });
          yield* trained(name, run, config, setup, present(ours, theirs), BARS[config]![dtype]);
        });
      }
    }
  }
};

/** Two processes of one thread that share every batch, also beside one such process, and beside two that do not communicate. */
export const ddp: Group = async function* (run) {
  const config = run.quick ? 'tiny' : 'small';
  const bars: Record<string, number> = { float32: 1.18, bfloat16: 1.38 };
  for (const dtype of DTYPES) {
    yield* withSetup(config, dtype, async function* (setup) {
      const job = { ranks: RANKS, threads: 1 };
      const part = { ...setup, batch: setup.batch / RANKS };
      const ours = await Side.start('shardgrad', null, setup, job);
      const theirs = run.python === null ? null : await Side.start('PyTorch', run.python, setup, job);
      const alone = await Side.start('one process', null, setup, { threads: 1 });
      const apart = [await Side.start('apart', null, part, { threads: 1 }), await Side.start('apart', null, part, { threads: 1 })];
      try {
        const sides = present(ours, alone, theirs);
        const agree = await warmUp(sides, setup, 3);
        await Promise.all(apart.map((side) => side.round(2)));
        const together = { speed: async (steps: number) => (await Promise.all(apart.map((side) => side.speed(steps)))).reduce((a, b) => a + b) };
        const [mine, single, ...rest] = await speeds([...sides, together], config, run);
        const limit = rest.pop()!;
        const of = (other: readonly number[], times: number): string => shown(spread(mine!.map((speed, i) => speed / (times * other[i]!))));
        const note = `${agree}; of twice one process ${of(single!, RANKS)}, of two without communication ${of(limit, 1)}`;
        const values = { ours: mine!, theirs: rest[0] ?? null };
        yield row('data parallel', `GPT ${config}, ${dtype}, 2 processes`, 'tokens/s', values, { bar: bars[dtype], note });
      } finally {
        for (const side of [ours, theirs, alone, ...apart]) side?.end();
      }
    });
  }
};

const WAYS: readonly [string, Spreading, ConfigName][] = [
  ['ZeRO-1', 'zero1', 'small'],
  ['ZeRO-3 (fullyShard)', 'zero3', 'small'],
  ['tensor parallel', 'tp', 'small'],
  ['tensor and sequence parallel', 'tp+sp', 'small'],
  ['pipeline, 1F1B, 8 micro-batches, 12 layers', { schedule: '1f1b', microBatches: 8 }, 'deep'],
];

/** The other ways to spread a model over two processes of one thread, also beside data parallelism of ours, a pipeline beside one process. */
export const sharding: Group = async function* (run) {
  for (const [name, way, config] of WAYS) {
    yield* withSetup(run.quick ? 'tiny' : config, 'float32', async function* (setup) {
      const job = { ranks: RANKS, threads: 1 };
      const how = { ...setup, spread: way };
      const staged = typeof way === 'object';
      const ours = await Side.start('shardgrad', null, how, job);
      const theirs = run.python === null ? null : await Side.start('PyTorch', run.python, how, job);
      const beside = staged ? await Side.start('one process', null, setup, { threads: 1 }) : await Side.start('data parallelism', null, setup, job);
      try {
        const sides = present(ours, beside, theirs);
        const agree = await warmUp(sides, setup, 2);
        const [mine, others, reference] = await speeds(sides, config, run);
        const ideal = staged ? RANKS * (1 - simulateSchedule(makeSchedule(way.schedule, { ranks: RANKS, microBatches: way.microBatches })).bubble) : 1;
        const share = shown(spread(mine!.map((speed, i) => speed / (ideal * others![i]!))));
        const note = `${agree}; of ${staged ? `${ideal.toFixed(2)} times one process` : 'our data parallelism'} ${share}`;
        yield row('sharding', name, 'tokens/s', { ours: mine!, theirs: reference ?? null }, { note });
      } finally {
        for (const side of [ours, theirs, beside]) side?.end();
      }
    });
  }
};

/** From starting a process until the loss of its first step is known. */
export const startup: Group = async function* (run) {
  yield* withSetup('tiny', 'float32', async function* (setup) {
    const first = (python: string | null) => async (): Promise<number> => {
      const begin = performance.now();
      const side = await Side.start('a process', python, setup, { threads: availableParallelism() });
      await side.round(1);
      side.end();
      return performance.now() - begin;
    };
    const all = await inTurn([first(null), ...(run.python === null ? [] : [first(run.python)])], run.rounds);
    yield row('start', 'a process until the loss of its first step, GPT tiny', 'ms', { ours: all[0]!, theirs: all[1] ?? null }, { bar: 1 / 0.3 });
  });
};
