// Data parallelism is one process on the whole batch: gradients and parameters after some steps, for every number of ranks, bucket
// size and pattern of synchronisation; equal to the bit between the ranks and from run to run.
import { describe, expect, test } from 'vitest';
import { type DataParallelOptions, DistributedDataParallel, reduceGradients } from '../lib/distributed/ddp.js';
import type { CommunicationHook } from '../lib/distributed/hooks/hook.js';
import { halfDivision, plainReduction } from '../lib/distributed/hooks/plain.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { BATCH, expectEqual, flatten, part, rows, WIDTH } from './helpers/ranks.js';

const { nn, optim } = sg;

/** Two uses of one weight, a bias that takes part twice, a norm, and a frozen layer. */
class Model extends nn.Module {
  first: sg.nn.Linear;
  norm: sg.nn.LayerNorm;
  tied: sg.nn.Linear;
  frozen: sg.nn.Linear;
  constructor(device: string, dtype: sg.DType) {
    super();
    const on = { device, dtype };
    this.first = new nn.Linear(WIDTH, WIDTH, on);
    this.norm = new nn.LayerNorm(WIDTH, on);
    this.tied = new nn.Linear(WIDTH, WIDTH, on);
    this.frozen = new nn.Linear(WIDTH, WIDTH, on);
    this.frozen.requiresGrad_(false);
  }
  override forward(x: sg.Tensor): sg.Tensor {
    return this.frozen.forward(this.tied.forward(this.norm.forward(this.tied.forward(this.first.forward(x)).tanh())));
  }
}

function make(device: string | sg.Device, seed: number, dtype: sg.DType = 'float64'): Model {
  sg.manualSeed(seed);
  return new Model(device.toString(), dtype);
}

type Wrapped = DistributedDataParallel<Model>;
type MakeOptimizer = (p: sg.nn.Parameter[]) => sg.optim.Optimizer;
const sgd: MakeOptimizer = (p) => new optim.SGD(p, { lr: 0.1, momentum: 0.9 });
const optimizers: Record<string, MakeOptimizer> = {
  SGD: sgd,
  Adam: (p) => new optim.Adam(p, { lr: 0.01, weightDecay: 0.1 }),
  AdamW: (p) => new optim.AdamW(p, { lr: 0.01 }),
  Adagrad: (p) => new optim.Adagrad(p, { lr: 0.01 }),
  RMSprop: (p) => new optim.RMSprop(p, { lr: 0.01, momentum: 0.5, centered: true }),
  LAMB: (p) => new optim.LAMB(p, { lr: 0.01 }),
  Lion: (p) => new optim.Lion(p, { lr: 0.001 }),
};

const lossOf = (y: sg.Tensor, x: sg.Tensor): sg.Tensor => sg.mseLoss(y, x);

/** The parameters of one process that sees the whole batch in every step. */
async function alone(optimizer: MakeOptimizer, steps: number, dtype: sg.DType = 'float64'): Promise<number[]> {
  const model = make('cpu', 1, dtype);
  const opt = optimizer(model.parameters());
  for (let s = 0; s < steps; s++) {
    const x = rows('cpu', 0, BATCH, dtype);
    lossOf(model.forward(x), x).backward();
    opt.step();
    opt.zeroGrad();
  }
  return flatten(model.parameters());
}

/** Every rank's parameters after some steps; `step` leaves the gradients of one. */
function train(
  size: number,
  optimizer: MakeOptimizer,
  steps: number,
  options: Omit<DataParallelOptions, 'group'>,
  step: (of: SimulatedRank, ddp: Wrapped) => void = plain,
  dtype: sg.DType = 'float64',
  transport: 'shm' | 'tcp' = 'shm',
): Promise<number[][]> {
  const run = async (of: SimulatedRank): Promise<number[]> => {
    // other weights on every rank: those of rank 0 count
    const ddp = new DistributedDataParallel(make(of.device, 1 + of.rank, dtype), { group: of.world, ...options });
    await ddp.ready;
    const opt = optimizer(ddp.parameters());
    for (let s = 0; s < steps; s++) {
      step(of, ddp);
      opt.step();
      opt.zeroGrad();
    }
    return flatten(ddp.parameters());
  };
  return simulate(size, run, { transport });
}

function plain(of: SimulatedRank, ddp: Wrapped): void {
  const x = part(of, ddp.module.first.weight.dtype);
  lossOf(ddp.forward(x), x).backward();
}

const bucketings: [string, Omit<DataParallelOptions, 'group'>][] = [
  ['default buckets', {}],
  ['a bucket a parameter', { bucketBytes: 1, firstBucketBytes: 1 }],
  ['small buckets', { bucketBytes: 600, firstBucketBytes: 100 }],
  ['small buckets by registration', { bucketBytes: 600, firstBucketBytes: 100, rebuildBuckets: false }],
  ['one bucket', { bucketBytes: Number.MAX_VALUE, firstBucketBytes: Number.MAX_VALUE }],
  ['a static graph', { staticGraph: true, bucketBytes: 600, firstBucketBytes: 100 }],
];

describe.each([1, 2, 3, 4, 8])('%i ranks', (size) => {
  test.each(bucketings)('%s', async (_, options) => {
    expectEqual(await train(size, sgd, 4, options), await alone(sgd, 4));
  });

  /** Cuts the rank's part into micro-batches and leaves out the reduction after all but the last. */
  const accumulate =
    (cuts: (n: number) => number[]) =>
    (of: SimulatedRank, ddp: Wrapped): void => {
      const x = part(of);
      const n = x.shape[0]!;
      const ends = [...cuts(n), n];
      ends.forEach((end, i) => {
        const run = (): void => {
          const begin = i === 0 ? 0 : ends[i - 1]!;
          const xs = x.slice(0, begin, end);
          lossOf(ddp.forward(xs), xs)
            .mul((end - begin) / n)
            .backward();
        };
        if (i === ends.length - 1) run();
        else ddp.noSync(run);
      });
    };
  test.each<[string, (n: number) => number[]]>([
    ['two micro-batches', (n) => [Math.floor(n / 2)]],
    ['three uneven ones', (n) => [1, Math.max(2, n - 1)]],
    ['four', (n) => [1, 2, 3].map((i) => Math.floor((i * n) / 4))],
  ])('%s', async (_, cuts) => {
    expectEqual(await train(size, sgd, 3, {}, accumulate(cuts)), await alone(sgd, 3));
  });
});

test.each(Object.entries(optimizers))('10 steps of %s on 3 ranks', async (_, optimizer) => {
  expectEqual(await train(3, optimizer, 10, { bucketBytes: 600, firstBucketBytes: 100 }), await alone(optimizer, 10), 1e-10);
});

test('float32: one step, and 10 of SGD', async () => {
  expectEqual(await train(4, sgd, 1, {}, plain, 'float32'), await alone(sgd, 1, 'float32'), 1e-5);
  expectEqual(await train(4, sgd, 10, {}, plain, 'float32'), await alone(sgd, 10, 'float32'), 1e-4);
});

test.each<[string, Omit<DataParallelOptions, 'group'>]>([
  ...bucketings,
  ['buckets in 16 bits', { gradientDType: 'bfloat16', bucketBytes: 600, firstBucketBytes: 100 }],
])('bfloat16, %s', async (_, options) => {
  expectEqual(await train(4, sgd, 4, options, plain, 'bfloat16'), await alone(sgd, 4, 'bfloat16'), 2e-2);
});

test('two runs are equal to the bit, also in float32', async () => {
  const run = (): Promise<number[][]> => train(3, optimizers['AdamW']!, 5, { bucketBytes: 200, firstBucketBytes: 100 }, plain, 'float32');
  expect(await run()).toEqual(await run());
});

test.each([2, 3])('the simplest form gives the same bits on %i ranks', async (size) => {
  const naive = await simulate(size, async (of) => {
    const model = make(of.device, 1);
    const opt = sgd(model.parameters());
    for (let s = 0; s < 3; s++) {
      const x = part(of);
      lossOf(model.forward(x), x).backward();
      reduceGradients(of.world, model.parameters());
      opt.step();
      opt.zeroGrad();
    }
    return flatten(model.parameters());
  });
  expect(await train(size, sgd, 3, { bucketBytes: 200 })).toEqual(naive);
});

test('a sum over ranks with a loss that is normalised by all of them', async () => {
  const results = await simulate(3, async (of) => {
    const ddp = new DistributedDataParallel(make(of.device, 1), { group: of.world, gradientReduction: 'sum' });
    const x = part(of);
    ddp
      .forward(x)
      .sub(x)
      .square()
      .sum()
      .div(BATCH * WIDTH)
      .backward();
    return flatten(ddp.parameters().flatMap((p) => p.grad ?? []));
  });
  const model = make('cpu', 1);
  const x = rows('cpu');
  lossOf(model.forward(x), x).backward();
  expectEqual(results, await flatten(model.parameters().flatMap((p) => p.grad ?? [])));
});

test('over TCP the bits are the same', async () => {
  for (const dtype of ['float32', 'bfloat16'] as const) {
    const options = { bucketBytes: 200, firstBucketBytes: 100 };
    const tcp = await train(3, sgd, 4, options, plain, dtype, 'tcp');
    expect(tcp).toEqual(await train(3, sgd, 4, options, plain, dtype));
  }
});

test('buckets go out while backward runs, from the second step on', async () => {
  const events = await simulate(2, (of) => {
    const seen: string[] = [];
    const hook: CommunicationHook = {
      name: 'log',
      *reduce(bucket, context) {
        seen.push(`${bucket.gradients[0]!.name} goes`);
        yield* plainReduction.reduce(bucket, context);
      },
    };
    const model = make(of.device, 1);
    const ddp = new DistributedDataParallel(model, { group: of.world, hook, bucketBytes: 1, firstBucketBytes: 1 });
    model.first.weight.registerHook(() => void seen.push('first.weight is made'));
    for (let s = 0; s < 2; s++) {
      plain(of, ddp);
      ddp.zeroGrad();
      seen.push('end');
    }
    return seen;
  });
  const [first, second] = [events[0]!.slice(0, events[0]!.indexOf('end')), events[0]!.slice(events[0]!.indexOf('end') + 1)];
  expect(first[0]).toBe('first.weight is made');
  expect(second.indexOf('tied.weight goes')).toBeLessThan(second.indexOf('first.weight is made'));
  expect([...second].sort()).toEqual([...first, 'end'].sort());
  expect(events[1]).toEqual(events[0]);
});

test('reductions without zeroing in between add up', async () => {
  // every backward reduces: the mean of what was averaged before, and of the new parts
  const twice = await train(2, sgd, 2, {}, (of, ddp) => {
    plain(of, ddp);
    plain(of, ddp);
  });
  const model = make('cpu', 1);
  const opt = sgd(model.parameters());
  for (let s = 0; s < 2; s++) {
    const x = rows('cpu');
    lossOf(model.forward(x), x).mul(2).backward();
    opt.step();
    opt.zeroGrad();
  }
  expectEqual(twice, await flatten(model.parameters()));
});

test('float16 gradients are divided before and after the sum', async () => {
  expect([1, 2, 3, 4, 6, 8, 12, 16, 1024].map(halfDivision)).toEqual([
    [1, 1],
    [2, 1],
    [2, 1.5],
    [2, 2],
    [4, 1.5],
    [4, 2],
    [4, 3],
    [4, 4],
    [32, 32],
  ]);
  for (const size of [2, 3, 4, 8]) {
    // the smallest number, and one whose sum over the ranks overflows
    const [results] = await simulate(size, async (of) => {
      const one = new nn.Linear(1, 2, { bias: false, device: of.device.toString(), dtype: 'float16' });
      const ddp = new DistributedDataParallel(one, { group: of.world });
      const slopes = sg.tensor([[2 ** -20], [30000]], { dtype: 'float16', device: of.device });
      ddp
        .forward(sg.ones([1, 1], { dtype: 'float16', device: of.device }))
        .mul(slopes.reshape([1, 2]))
        .sum()
        .backward();
      return flatten([one.weight.grad!]);
    });
    expect(Math.abs(results![0]! - 2 ** -20) / 2 ** -20).toBeLessThan(0.1);
    expect(Math.abs(results![1]! - 30000) / 30000).toBeLessThan(1e-3);
  }
});

describe('models that differ', () => {
  const linear = (of: SimulatedRank, n: number, bias = true): sg.nn.Module => new nn.Linear(3, n, { bias, device: of.device });
  const relu = (): sg.nn.Module => new nn.ReLU();
  test.each<[string, (of: SimulatedRank) => sg.nn.Module[], string[]]>([
    ['in a shape', (of) => [linear(of, 3), linear(of, 3 + of.rank)], ['parameter 1.weight [3,3] float32 here', 'parameter 1.weight [4,3] float32 here']],
    [
      'in a dtype',
      (of) => [linear(of, 3).to(of.rank ? 'float64' : 'float32')],
      ['parameter 0.weight [3,3] float32 here', 'parameter 0.weight [3,3] float64 here'],
    ],
    [
      'in a name',
      (of) => (of.rank ? [relu(), linear(of, 3)] : [linear(of, 3), relu()]),
      ['parameter 0.weight [3,3] float32 here', 'parameter 1.weight [3,3] float32 here'],
    ],
    ['in number', (of) => [linear(of, 3), linear(of, 3, of.rank > 0)], ['the number of parameters: there are 3 here', 'parameter 1.bias [3] float32 here']],
  ])('%s: each rank names its own', async (_, layers, names) => {
    for (let i = 0; i < 5; i++) {
      const said: string[] = [];
      await simulate(2, async (of) => {
        const ddp = new DistributedDataParallel(new nn.Sequential(...layers(of)), { group: of.world });
        said[of.rank] = await ddp.ready.then(
          () => 'nothing',
          (error: Error) => error.message,
        );
      }).catch(() => {});
      expect(said).toEqual(names.map((name) => `DistributedDataParallel: the models of ranks 0 and 1 differ, first in ${name}`));
    }
  });

  test('far behind the first ones', async () => {
    const run = simulate(3, async (of) => {
      const many = Array.from({ length: 1100 }, (_, i) => new nn.Linear(1, i === 1050 ? 1 + of.rank : 1, { bias: false, device: of.device }));
      await new DistributedDataParallel(new nn.Sequential(...many), { group: of.world }).ready;
    });
    await expect(run).rejects.toThrow('differ, after the first 1000 parameters');
  });
});

test('state dicts of the wrapper and of the module: the error says which it is', async () => {
  await simulate(2, (of) => {
    const [model, ddp] = [make(of.device, 1), new DistributedDataParallel(make(of.device, 1), { group: of.world })];
    expect(() => model.loadStateDict(ddp.stateDict())).toThrow('the dict is that of a wrapper: take "module." off its keys, or load it into the wrapper');
    expect(() => ddp.loadStateDict(model.stateDict())).toThrow('the dict is that of the wrapped module: load it into its .module');
    ddp.module.loadStateDict(model.stateDict());
    ddp.loadStateDict(ddp.stateDict());
    expect(() => model.loadStateDict({ 'module.first.weight': model.first.weight, other: model.first.weight })).toThrow(/other$/);
  });
});

describe('parameters that change after the model was wrapped', () => {
  const step = (of: SimulatedRank, ddp: Wrapped): void => {
    const x = rows(of.device, 0, BATCH, ddp.module.first.weight.dtype);
    lossOf(ddp.forward(x), x).backward();
  };
  test.each<[string, (model: Model, device: sg.Device) => void, string]>([
    ['unfrozen', (m) => m.frozen.requiresGrad_(true), 'parameter frozen.weight requires a gradient, and did not when the model was wrapped'],
    [
      'replaced',
      (m, device) => (m.first = new nn.Linear(WIDTH, WIDTH, { device, dtype: 'float64' })),
      'backward gave no gradient for first.weight, first.bias (Linear "first")',
    ],
    ['frozen', (m) => m.first.requiresGrad_(false), 'first.weight, first.bias (Linear "first") required a gradient when the model was wrapped; wrap it again'],
    ['cast', (m) => m.to('float32'), 'first.weight is float32 now and was float64 when the gradients were laid out; cast the model before it is wrapped'],
  ])('%s', async (_, change, text) => {
    const run = simulate(2, async (of) => {
      const ddp = new DistributedDataParallel(make(of.device, 1), { group: of.world });
      step(of, ddp);
      ddp.zeroGrad();
      change(ddp.module, of.device);
      step(of, ddp);
    });
    await expect(run).rejects.toThrow(text);
  });

  test('cast before the first step', async () => {
    const results = await simulate(2, async (of) => {
      const ddp = new DistributedDataParallel(make(of.device, 1), { group: of.world });
      ddp.to('float32');
      step(of, ddp);
      return ddp.module.first.weight.grad!.dtype;
    });
    expect(results).toEqual(['float32', 'float32']);
  });
});

test('gradients stay views of their bucket, and memory stays flat', async () => {
  await simulate(2, async (of) => {
    const ddp = new DistributedDataParallel(make(of.device, 1), { group: of.world });
    const trained = ddp.parameters().filter((p) => p.requiresGrad);
    const opt = new optim.SGD(ddp.parameters(), { lr: 0.1 });
    const live: number[] = [];
    for (let s = 0; s < 8; s++) {
      sg.scope(() => {
        plain(of, ddp);
        for (const p of trained) expect(p.grad!.isView).toBe(true);
        opt.step();
        if (s % 2) opt.zeroGrad();
        else ddp.zeroGrad();
      });
      await sg.synchronize(of.device);
      live.push(sg.memory(of.device).live);
    }
    // what earlier tests left on the device may go meanwhile
    expect(Math.max(...live.slice(3))).toBeLessThanOrEqual(live[3]!);
  });
});

test('a gradient that is disposed of lets go of itself, and not of the bucket it lies in', async () => {
  const results = await simulate(2, async (of) => {
    const ddp = new DistributedDataParallel(make(of.device, 1), { group: of.world });
    const opt = sgd(ddp.parameters());
    const x = part(of);
    for (let s = 0; s < 4; s++) {
      lossOf(ddp.forward(x), x).backward();
      opt.step();
      const [first, ...others] = ddp.parameters().filter((p) => p.grad !== null);
      const gradient = first!.grad!;
      gradient.dispose();
      expect(gradient.disposed).toBe(true);
      expect(others.every((p) => !p.grad!.disposed)).toBe(true);
      first!.grad = null;
      if (s === 2) for (const p of others) p.grad![Symbol.dispose]();
      for (const p of others) p.grad = null;
    }
    // as in one process: what was disposed of and stays in its place is an error, not a gradient that adds up
    lossOf(ddp.forward(x), x).backward();
    const [p] = ddp.parameters();
    p!.grad!.dispose();
    expect(() => opt.step()).toThrow(sg.DisposedError);
    p!.grad = null;
    ddp.zeroGrad();
    return flatten(ddp.parameters());
  });
  expectEqual(results, await alone(sgd, 4));
});

test('wrong options', async () => {
  await simulate(1, ({ world, device }) => {
    const model = make(device, 1);
    const wrong = (options: object, text: string): void =>
      expect(() => new DistributedDataParallel(model, { group: world, ...options } as DataParallelOptions)).toThrow(text);
    wrong({ group: null }, 'give the process group as { group }');
    wrong({ gradientReduction: 'max' }, 'gradientReduction must be mean or sum, got a string "max"');
    wrong({ gradientDType: 'float64' }, 'gradientDType must be float32, bfloat16 or float16, got a string "float64"');
    wrong({ bucketBytes: 0 }, 'bucketBytes must be positive, got 0');
    wrong({ staticGraph: true, findUnusedParameters: true }, 'findUnusedParameters is for graphs that change');
    wrong({ hook: {} }, 'a hook has a method reduce');
    expect(() => new DistributedDataParallel(model.requiresGrad_(false), { group: world })).toThrow('no parameter that requires a gradient');
  });
});
