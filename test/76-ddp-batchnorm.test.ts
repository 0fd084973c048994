// SyncBatchNorm is batch normalisation of the concatenated batch: outputs, gradients, running statistics, for batches of any sizes, also
// empty ones; in data parallelism and when data end early.
import { expect, test } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { simulate } from '../lib/distributed/simulate.js';
import { SyncBatchNorm } from '../lib/distributed/sync_batch_norm.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';
import { expectEqual, flatten } from './helpers/ranks.js';

const { nn, optim } = sg;
const C = 3;

/** `shape` of an endless tensor, from its row `first` on. */
const input = (seed: number, shape: readonly number[], dtype: sg.DType, device: string | sg.Device, first = 0): sg.Tensor => {
  const n = shape.reduce((a, b) => a * b, 1);
  const begin = first * shape.slice(1).reduce((a, b) => a * b, 1);
  const values = Float64Array.from({ length: n }, (_, i) => 3 + Math.sin((begin + i + seed) * 1.3) * (1 + ((begin + i) % C)));
  return sg.fromTypedArray(values, shape, { device: device.toString(), dtype });
};

interface Outcome {
  y: number[];
  dx: number[];
  parameters: number[];
  buffers: number[];
}

async function run(norm: sg.nn.Module & { forward(x: sg.Tensor): sg.Tensor }, x: sg.Tensor, weights: sg.Tensor): Promise<Outcome> {
  x.requiresGrad = true;
  const y = norm.forward(x);
  y.mul(weights).sum().backward();
  return {
    y: await flatten([y]),
    dx: await flatten([x.grad!]),
    parameters: await flatten(norm.parameters().map((p) => p.grad!)),
    buffers: await flatten(norm.buffers()),
  };
}

const shapes: [string, (rows: number) => number[], number[]][] = [
  ['[N, C]', (n) => [n, C], [4, 4]],
  ['[N, C, L]', (n) => [n, C, 5], [1, 3, 2]],
  ['[N, C, H, W]', (n) => [n, C, 2, 3], [2, 0, 5, 1]],
  ['[N, C, H, W] on one rank alone', (n) => [n, C, 2, 2], [0, 3]],
];

for (const [dtype, bound] of [
  ['float64', 1e-12],
  ['float32', 1e-5],
  ['bfloat16', 2e-2],
] as const) {
  test.each(shapes)(`${dtype} %s, a part of the batch each`, async (_, shape, counts) => {
    const wide = dtype === 'float64' ? dtype : 'float32';
    for (const affine of [true, false]) {
      const total = counts.reduce((a, b) => a + b);
      const Norm = shape(1).length === 4 ? nn.BatchNorm2d : nn.BatchNorm1d;
      const make = (device: string | sg.Device): sg.nn.Module => {
        const norm = new Norm(C, { device: device.toString(), affine, dtype: wide });
        sg.noGrad(() => {
          norm.weight?.copy_(input(1, [C], wide, device));
          norm.bias?.copy_(input(2, [C], wide, device));
        });
        return norm;
      };
      const results = await simulate(counts.length, async ({ rank, device, world }) => {
        const norm = SyncBatchNorm.convert(make(device), world) as SyncBatchNorm;
        const begin = counts.slice(0, rank).reduce((a, b) => a + b, 0);
        const cut = (seed: number): sg.Tensor => input(seed, shape(counts[rank]!), dtype, device, begin);
        return run(norm, cut(0), cut(7));
      });
      const expected = await run(make('cpu') as never, input(0, shape(total), dtype, 'cpu'), input(7, shape(total), dtype, 'cpu'));
      expectClose(
        results.flatMap((r) => r.y),
        expected.y,
        bound,
        'y',
      );
      expectClose(
        results.flatMap((r) => r.dx),
        expected.dx,
        bound,
        'dx',
      );
      const sum = expected.parameters.map((_, i) => results.reduce((s, r) => s + r.parameters[i]!, 0));
      expectClose(sum, expected.parameters, bound, 'parameters');
      for (const r of results) {
        expect(r.buffers).toEqual(results[0]!.buffers);
        expectClose(r.buffers, expected.buffers, bound, 'running statistics');
      }
    }
  });
}

test('the cumulative average, evaluation, and no running statistics', async () => {
  const results = await simulate(2, async ({ rank, device, world }) => {
    const norm = SyncBatchNorm.convert(new nn.BatchNorm1d(C, { momentum: null, device: device.toString() }), world) as SyncBatchNorm;
    for (let s = 0; s < 3; s++) norm.forward(input(s + 10 * rank, [4, C], 'float32', device));
    norm.eval();
    const alone = rank === 0 ? await flatten([norm.forward(input(5, [1, C], 'float32', device))]) : [];
    const without = new SyncBatchNorm(C, { group: world, trackRunningStats: false, affine: false, device: device.toString() });
    const y = await flatten([without.forward(input(rank, [2, C], 'float32', device))]);
    return { alone, buffers: await flatten(norm.buffers()), y };
  });
  const plain = new nn.BatchNorm1d(C, { momentum: null });
  for (let s = 0; s < 3; s++) plain.forward(sg.cat([input(s, [4, C], 'float32', 'cpu'), input(s + 10, [4, C], 'float32', 'cpu')]));
  for (const r of results) expectClose(r.buffers, await flatten(plain.buffers()), 1e-6, 'running statistics');
  plain.eval();
  expectClose(results[0]!.alone, await flatten([plain.forward(input(5, [1, C], 'float32', 'cpu'))]), 1e-5, 'evaluation');
  const free = new nn.BatchNorm1d(C, { trackRunningStats: false, affine: false });
  const both = sg.cat([input(0, [2, C], 'float32', 'cpu'), input(1, [2, C], 'float32', 'cpu')]);
  expectClose(
    results.flatMap((r) => r.y),
    await flatten([free.forward(both)]),
    1e-5,
    'without statistics',
  );
});

class Network extends nn.Module {
  layers: sg.nn.Sequential;
  extra: sg.nn.Linear;
  constructor(device: string) {
    super();
    sg.manualSeed(2);
    const on = { device, dtype: 'float64' as const };
    this.layers = new nn.Sequential(new nn.Linear(C, 4, on), new nn.BatchNorm1d(4, on), new nn.Linear(4, C, on), new nn.BatchNorm1d(C, on));
    this.extra = new nn.Linear(C, C, on);
  }
  override forward(x: sg.Tensor, extra = true): sg.Tensor {
    const y = this.layers.forward(x);
    return extra ? this.extra.forward(y) : y;
  }
}

/** Rows of a rank in a step. */
const batch = (rank: number, step: number, device: string | sg.Device): sg.Tensor => input(31 * rank + 7 * step, [3 + rank, C], 'float64', device);

test('converting keeps parameters, names and modes; shared modules stay shared', async () => {
  await simulate(2, ({ device, world }) => {
    const model = new Network(device.toString());
    const before = model.parameters();
    const names = Object.keys(model.stateDict());
    const norm = model.layers.get(1) as sg.nn.BatchNorm1d;
    (model as unknown as Record<string, unknown>)['again'] = norm;
    norm.eval();
    expect(SyncBatchNorm.convert(model, world)).toBe(model);
    expect(model.parameters()).toEqual(before);
    expect(Object.keys(model.stateDict()).filter((n) => !n.startsWith('again'))).toEqual(names);
    expect(model.layers.get(1)).toBeInstanceOf(SyncBatchNorm);
    expect(model.layers.get(1).training).toBe(false);
    expect((model as unknown as Record<string, unknown>)['again']).toBe(model.layers.get(1));
    expect(() => SyncBatchNorm.convert(5 as never, world)).toThrow('expected a module, got 5');
    expect(() => new SyncBatchNorm(3, {} as never)).toThrow('give the process group as { group }');
  });
});

/** Each step's loss is the mean over the ranks that have a batch in it. */
async function expected(counts: readonly number[], extra: (rank: number, step: number) => boolean): Promise<number[]> {
  const model = new Network('cpu');
  const opt = new optim.AdamW(model.parameters(), { lr: 0.01, weightDecay: 0.1 });
  for (let step = 0; step < Math.max(...counts); step++) {
    const active = counts.flatMap((n, rank) => (n > step ? [rank] : []));
    const xs = active.map((rank) => batch(rank, step, 'cpu'));
    const y = model.layers.forward(sg.cat(xs));
    let begin = 0;
    const losses = active.map((rank, i) => {
      const part = y.slice(0, begin, begin + xs[i]!.shape[0]!);
      begin += xs[i]!.shape[0]!;
      return sg.mseLoss(extra(rank, step) ? model.extra.forward(part) : part, xs[i]!);
    });
    losses
      .reduce((a, b) => a.add(b))
      .div(active.length)
      .backward();
    opt.step();
    opt.zeroGrad();
  }
  return flatten([...model.parameters(), ...model.buffers()]);
}

test.each([
  ['equal', [3, 3, 3], () => true],
  ['uneven', [2, 4, 0], () => true],
  ['uneven, with parameters that some ranks use', [4, 1, 3], (rank: number, step: number) => (rank + step) % 2 === 0],
])('data parallelism with join: %s numbers of batches', async (_, counts, extra) => {
  const results = await simulate(counts.length, async ({ rank, device, world }) => {
    const model = SyncBatchNorm.convert(new Network(device.toString()), world);
    const ddp = new DistributedDataParallel(model as Network, { group: world, findUnusedParameters: true, bucketBytes: 1, firstBucketBytes: 1 });
    const opt = new optim.AdamW(ddp.parameters(), { lr: 0.01, weightDecay: 0.1 });
    let step = 0;
    const batches = Array.from({ length: counts[rank]! }, (_, s) => batch(rank, s, device));
    for await (const x of ddp.join(batches, { divideBy: 'active', states: [opt] })) {
      sg.mseLoss(ddp.forward(x, extra(rank, step++)), x).backward();
      opt.step();
      opt.zeroGrad();
    }
    return flatten([...ddp.parameters(), ...ddp.buffers()]);
  });
  expectEqual(results, await expected(counts, extra), 1e-7); // running statistics are float32
});

test('memory stays flat', async () => {
  await simulate(2, async ({ rank, device, world }) => {
    const norm = SyncBatchNorm.convert(new nn.BatchNorm1d(C, { device: device.toString() }), world) as SyncBatchNorm;
    const live: number[] = [];
    for (let s = 0; s < 6; s++) {
      sg.scope(() => {
        const x = input(rank, [50, C], 'float32', device);
        x.requiresGrad = true;
        norm.forward(x).square().sum().backward();
        x.grad!.dispose();
        norm.zeroGrad();
      });
      await sg.synchronize(device);
      live.push(sg.memory(device).live);
    }
    expect(Math.max(...live.slice(2))).toBeLessThanOrEqual(live[2]!);
  });
});

test('running statistics have the dtype that was asked for, and move as those of one process', async () => {
  for (const [dtype, bound] of [
    ['float64', 1e-14],
    ['bfloat16', 1e-2],
  ] as const) {
    for (const momentum of [0.1, null]) {
      const alone = new nn.BatchNorm1d(C, { dtype, momentum });
      alone.forward(input(0, [8, C], dtype, 'cpu'));
      const results = await simulate(2, async ({ rank, device, world }) => {
        const norm = new SyncBatchNorm(C, { group: world, dtype, momentum, device: device.toString() });
        norm.forward(input(0, [4, C], dtype, device, 4 * rank));
        expect(norm.buffers().map((b) => b.dtype)).toEqual([dtype, dtype, 'int64']);
        return flatten(norm.buffers());
      });
      expectEqual(results, await flatten(alone.buffers()), bound);
    }
  }
});
