// Data parallelism is one process on the whole batch: gradients and parameters after some steps, for every number of ranks, bucket
// size and pattern of synchronisation; equal to the bit between the ranks.
import { describe, expect, test } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';

const { nn, optim } = sg;
const BATCH = 24;
const WIDTH = 6;

/** Two uses of one weight, a bias that takes part twice, a norm, and a layer that only some forwards use. */
class Model extends nn.Module {
  first: sg.nn.Linear;
  norm: sg.nn.LayerNorm;
  tied: sg.nn.Linear;
  spare: sg.nn.Linear | null;
  constructor(device: string, spare: boolean) {
    super();
    const on = { device, dtype: 'float64' as const };
    this.first = new nn.Linear(WIDTH, WIDTH, on);
    this.norm = new nn.LayerNorm(WIDTH, on);
    this.tied = new nn.Linear(WIDTH, WIDTH, on);
    this.spare = spare ? new nn.Linear(WIDTH, WIDTH, on) : null;
  }
  override forward(x: sg.Tensor, useSpare = false): sg.Tensor {
    const y = this.tied.forward(this.norm.forward(this.tied.forward(this.first.forward(x)).tanh()));
    return useSpare ? this.spare!.forward(y) : y;
  }
}

function make(device: string, seed: number, spare = false): Model {
  sg.manualSeed(seed);
  return new Model(device, spare);
}

function data(device: string, from: number, to: number): sg.Tensor {
  const all = Float64Array.from({ length: BATCH * WIDTH }, (_, i) => Math.sin(i * 1.7));
  return sg.fromTypedArray(all.slice(from * WIDTH, to * WIDTH), [to - from, WIDTH], { device });
}

async function flatten(tensors: readonly sg.Tensor[]): Promise<number[]> {
  return Array.from((await sg.cat(tensors.map((t) => t.detach().reshape([-1]))).toTypedArray()) as Float64Array);
}

type MakeOptimizer = (p: sg.nn.Parameter[]) => sg.optim.Optimizer;
const optimizers: Record<string, MakeOptimizer> = {
  SGD: (p) => new optim.SGD(p, { lr: 0.1, momentum: 0.9 }),
  AdamW: (p) => new optim.AdamW(p, { lr: 0.01 }),
};

async function alone(optimizer: MakeOptimizer, steps: number): Promise<number[]> {
  const model = make('cpu', 1);
  const opt = optimizer(model.parameters());
  for (let s = 0; s < steps; s++) {
    const x = data('cpu', 0, BATCH);
    sg.mseLoss(model.forward(x), x).backward();
    opt.step();
    opt.zeroGrad();
  }
  return flatten(model.parameters());
}

function close(actual: readonly number[], expected: readonly number[], bound = 1e-12): void {
  expect(actual.length).toBe(expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  const worst = Math.max(...actual.map((a, i) => Math.abs(a - expected[i]!)));
  expect(worst / scale).toBeLessThan(bound);
}

/** Every rank's parameters after some steps on its part of the batch. */
function train(
  size: number,
  optimizer: MakeOptimizer,
  steps: number,
  options: { bucketBytes?: number; firstBucketBytes?: number },
  step: (of: SimulatedRank, ddp: DistributedDataParallel<Model>) => void,
): Promise<number[][]> {
  return simulate(size, async (of) => {
    // other weights on every rank: those of rank 0 count
    const ddp = new DistributedDataParallel(make(of.device.toString(), 1 + of.rank), { group: of.world, ...options });
    await ddp.ready;
    const opt = optimizer(ddp.parameters());
    for (let s = 0; s < steps; s++) {
      step(of, ddp);
      opt.step();
      opt.zeroGrad();
    }
    return flatten(ddp.parameters());
  });
}

const part = (of: SimulatedRank, size: number): sg.Tensor => data(of.device.toString(), (BATCH / size) * of.rank, (BATCH / size) * (of.rank + 1));

describe.each([1, 2, 3, 4, 8])('%i ranks', (size) => {
  const plain = (of: SimulatedRank, ddp: DistributedDataParallel<Model>): void => {
    const x = part(of, size);
    sg.mseLoss(ddp.forward(x), x).backward();
  };

  for (const [name, optimizer] of Object.entries(optimizers)) {
    test.each([
      ['one bucket', {}],
      ['a bucket a parameter', { bucketBytes: 1, firstBucketBytes: 1 }],
      ['small buckets', { bucketBytes: 600, firstBucketBytes: 100 }],
    ])(`${name}, %s`, async (_, options) => {
      const expected = await alone(optimizer, 4);
      const results = await train(size, optimizer, 4, options, plain);
      for (const result of results) {
        expect(result).toEqual(results[0]);
        close(result, expected);
      }
    });
  }

  test('accumulation without synchronising', async () => {
    const halves = (of: SimulatedRank, ddp: DistributedDataParallel<Model>): void => {
      const x = part(of, size);
      const n = x.shape[0]!;
      const cut = Math.floor(n / 2);
      const piece = (from: number, to: number): void => {
        const xs = x.slice(0, from, to);
        sg.mseLoss(ddp.forward(xs), xs)
          .mul((to - from) / n)
          .backward();
      };
      ddp.noSync(() => piece(0, cut));
      piece(cut, n);
    };
    const expected = await alone(optimizers['SGD']!, 3);
    for (const result of await train(size, optimizers['SGD']!, 3, {}, halves)) close(result, expected);
  });
});

test('a sum over ranks with a loss that is normalised by all of them', async () => {
  const results = await simulate(3, async (of) => {
    const ddp = new DistributedDataParallel(make(of.device.toString(), 1), { group: of.world, gradientReduction: 'sum' });
    const x = part(of, 3);
    ddp
      .forward(x)
      .sub(x)
      .square()
      .sum()
      .div(BATCH * WIDTH)
      .backward();
    return flatten(ddp.parameters().map((p) => p.grad!));
  });
  const model = make('cpu', 1);
  const x = data('cpu', 0, BATCH);
  sg.mseLoss(model.forward(x), x).backward();
  const expected = await flatten(model.parameters().map((p) => p.grad!));
  for (const result of results) close(result, expected);
});

test('parameters that a forward leaves out are named, or count as zero', async () => {
  const run = (findUnusedParameters: boolean): Promise<number[]> =>
    simulate(2, async (of) => {
      const ddp = new DistributedDataParallel(make(of.device.toString(), 1, true), { group: of.world, findUnusedParameters });
      const x = part(of, 2);
      // only rank 1 uses the layer
      sg.mseLoss(ddp.forward(x, of.rank === 1 && findUnusedParameters), x).backward();
      return (ddp.module.spare!.weight.grad ?? sg.full([1], Number.NaN)).abs().sum().item();
    });
  await expect(run(false)).rejects.toThrow(
    'DistributedDataParallel: backward gave no gradient for spare.weight, spare.bias; use every parameter in forward, or pass findUnusedParameters: true',
  );
  const [a, b] = await run(true);
  expect(a).toBe(b);
  expect(a).toBeGreaterThan(0);
});

test('models that differ are found out', async () => {
  const error = await simulate(2, async (of) => {
    const ddp = new DistributedDataParallel(make(of.device.toString(), 1, of.rank === 1), { group: of.world });
    await ddp.ready;
  }).catch((e: Error) => e);
  expect((error as Error).message).toMatch(/the parameters of rank \d and rank \d differ in names, shapes or dtypes|disagree/);
});

test('gradients stay views of their bucket, and memory stays flat', async () => {
  await simulate(2, async (of) => {
    const ddp = new DistributedDataParallel(make(of.device.toString(), 1), { group: of.world });
    const opt = new optim.SGD(ddp.parameters(), { lr: 0.1 });
    const live: number[] = [];
    for (let s = 0; s < 8; s++) {
      sg.scope(() => {
        const x = part(of, 2);
        sg.mseLoss(ddp.forward(x), x).backward();
        for (const p of ddp.parameters()) expect(p.grad!.isView).toBe(true);
        opt.step();
        opt.zeroGrad();
      });
      await sg.synchronize(of.device);
      live.push(sg.memory(of.device).live);
    }
    // what earlier tests left on the device may go meanwhile
    expect(Math.max(...live.slice(3))).toBeLessThanOrEqual(live[3]!);
  });
});
