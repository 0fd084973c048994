// Sharded training is one process on the whole batch: losses, gathered gradients and weights after some steps, for every number of ranks and
// way to shard; what ranks keep is their share, and nothing is left behind.
import { describe, expect, test } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import { type FullyShardOptions, fullyShard, setRequiresGradientSync } from '../lib/distributed/fully_shard.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';
import { BATCH, rows, WIDTH } from './helpers/ranks.js';

const { nn, optim } = sg;

interface Options {
  dropout?: number;
  checkpoint?: 'none' | 'inside' | 'outside';
}

/** 7 rows do not divide by any number of ranks above 1, biases of 3 leave ranks without a row. */
class Block extends nn.Module {
  up: sg.nn.Linear;
  down: sg.nn.Linear;
  narrow: sg.nn.Linear;
  wide: sg.nn.Linear;
  drop: sg.nn.Dropout;
  constructor(
    on: sg.nn.FactoryOptions,
    private readonly o: Options,
  ) {
    super();
    this.up = new nn.Linear(WIDTH, 7, on);
    this.down = new nn.Linear(7, WIDTH, on);
    this.narrow = new nn.Linear(WIDTH, 3, on);
    this.wide = new nn.Linear(3, WIDTH, on);
    this.drop = new nn.Dropout(o.dropout ?? 0);
  }
  override forward(x: sg.Tensor): sg.Tensor {
    const body = (h: sg.Tensor): sg.Tensor => this.drop.forward(this.wide.forward(this.narrow.forward(this.down.forward(this.up.forward(h).tanh())).tanh()));
    return x.add(this.o.checkpoint === 'inside' ? sg.checkpoint(body, x) : body(x));
  }
}

/** Blocks between two uses of one weight, a frozen layer among them. */
class Model extends nn.Module {
  tied: sg.nn.Linear;
  head: sg.nn.Linear;
  frozen: sg.nn.Linear;
  blocks: sg.nn.ModuleList<Block>;
  norm: sg.nn.LayerNorm;
  constructor(
    on: sg.nn.FactoryOptions,
    private readonly o: Options = {},
  ) {
    super();
    this.tied = new nn.Linear(WIDTH, WIDTH, on);
    this.frozen = new nn.Linear(WIDTH, WIDTH, on);
    this.frozen.requiresGrad_(false);
    this.blocks = new nn.ModuleList(Array.from({ length: 3 }, () => new Block(on, o)));
    this.norm = new nn.LayerNorm(WIDTH, on);
    this.head = new nn.Linear(WIDTH, WIDTH, on);
    this.head.weight = this.tied.weight;
  }
  override forward(x: sg.Tensor): sg.Tensor {
    let h = this.frozen.forward(this.tied.forward(x));
    for (const block of this.blocks) h = this.o.checkpoint === 'outside' ? sg.checkpoint((y: sg.Tensor) => block.forward(y), h) : block.forward(h);
    return this.head.forward(this.norm.forward(h));
  }
}

const lossOf = (y: sg.Tensor, x: sg.Tensor): sg.Tensor => sg.mseLoss(y, x);
type Step = (model: Model, x: sg.Tensor) => sg.Tensor;
const plain: Step = (model, x) => {
  const loss = lossOf(model.forward(x), x);
  loss.backward();
  return loss;
};

/** Runs with a generator of its own, since ranks share a thread. */
const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(1), fn);
const read = async (t: sg.Tensor): Promise<number[]> => Array.from((await t.detach().to('float64').toTypedArray()) as Float64Array);
/** All of a tensor that lies as the parameter does. */
const gathered = (t: sg.Tensor, p: sg.Tensor): Promise<number[]> => read(sg.noGrad(() => fullTensor(setLayout(t.detach(), layoutOf(p)!))));

interface Run {
  losses: number[];
  /** Of the last step. */
  gradients: number[][];
  weights: number[][];
}

function alone(o: Options, steps: number, dtype: sg.DType, step: Step = plain): Promise<Run> {
  return seeded(async () => {
    const model = new Model({ dtype }, o);
    const opt = new optim.SGD(model.parameters(), { lr: 0.1, momentum: 0.9 });
    const losses: number[] = [];
    let gradients: number[][] = [];
    for (let s = 0; s < steps; s++) {
      losses.push(await step(model, rows('cpu', 0, BATCH, dtype)).item());
      gradients = await Promise.all(model.parameters().map((p) => (p.grad ? read(p.grad) : [])));
      opt.step();
      opt.zeroGrad();
    }
    return { losses, gradients, weights: await Promise.all(model.parameters().map(read)) };
  });
}

interface Case extends Omit<FullyShardOptions, 'mesh'> {
  model?: Options;
  /** Shard the blocks by themselves too. */
  blocks?: boolean;
}

function sharded(sizes: MeshSizes, { model: o = {}, blocks = true, ...options }: Case, steps: number, dtype: sg.DType, step: Step = plain): Promise<Run[]> {
  const run = async ({ world, device, rank }: SimulatedRank): Promise<Run> => {
    const mesh = await initDeviceMesh(sizes, { group: world });
    const model = new Model({ dtype, device }, o);
    if (rank > 0) sg.noGrad(() => model.parameters().forEach((p) => p.mul_(2))); // those of rank 0 count
    if (blocks) for (const block of model.blocks) fullyShard(block, { mesh, ...options });
    fullyShard(model, { mesh, ...options });
    const opt = new optim.SGD(model.parameters(), { lr: 0.1, momentum: 0.9 });
    const losses: number[] = [];
    let gradients: number[][] = [];
    for (let s = 0; s < steps; s++) {
      const n = BATCH / world.size;
      const loss = await step(model, rows(device, rank * n, (rank + 1) * n, dtype)).item();
      const all = await world.allGather(sg.tensor([loss], { dtype: 'float64', device }));
      losses.push((await read(all)).reduce((a, b) => a + b, 0) / world.size);
      gradients = await Promise.all(model.parameters().map((p) => (p.grad ? gathered(p.grad, p) : [])));
      opt.step();
      opt.zeroGrad();
    }
    return { losses, gradients, weights: await Promise.all(model.parameters().map((p) => gathered(p, p))) };
  };
  const total = (sizes.dpShard ?? 1) * (sizes.dpReplicate ?? 1);
  return simulate(total, (of) => seeded(() => run(of)));
}

function expectSame(ranks: readonly Run[], one: Run, bound: number): void {
  for (const { losses, gradients, weights } of ranks) {
    expect(weights).toEqual(ranks[0]!.weights); // to the bit
    expectClose(losses, one.losses, bound, 'losses');
    expectClose(gradients.flat(), one.gradients.flat(), bound, 'gradients of the last step');
    one.weights.forEach((w, i) => expectClose(weights[i]!, w, bound, `parameter ${i}`));
  }
}

const meshes: [string, MeshSizes][] = [
  ['1 rank', { dpShard: 1 }],
  ['2 ranks', { dpShard: 2 }],
  ['3 ranks', { dpShard: 3 }],
  ['4 ranks', { dpShard: 4 }],
  ['2 copies over 2 ranks each', { dpReplicate: 2, dpShard: 2 }],
];
const cases: [string, Case][] = [
  ['blocks and the rest', {}],
  ['one group', { blocks: false }],
  ['gathered again in backward, the outermost too', { reshardAfterForward: true }],
  ['kept from forward to backward', { reshardAfterForward: false }],
  ['dropout', { model: { dropout: 0.3 } }],
  ['checkpoints inside of blocks', { model: { checkpoint: 'inside', dropout: 0.3 } }],
  ['checkpoints around blocks', { model: { checkpoint: 'outside', dropout: 0.3 } }],
];

describe.each(meshes)('%s', (_, sizes) => {
  test.each(cases)('%s', async (_, options) => {
    expectSame(await sharded(sizes, options, 1, 'float64'), await alone(options.model ?? {}, 1, 'float64'), 1e-12);
    expectSame(await sharded(sizes, options, 10, 'float64'), await alone(options.model ?? {}, 10, 'float64'), 1e-10);
  });
});

test('float32, one step and 10 of SGD', async () => {
  expectSame(await sharded({ dpShard: 3 }, {}, 1, 'float32'), await alone({}, 1, 'float32'), 1e-5);
  expectSame(await sharded({ dpReplicate: 2, dpShard: 2 }, {}, 10, 'float32'), await alone({}, 10, 'float32'), 1e-4);
});

/** Cuts the batch into three; the loss is that of the whole. */
const accumulating =
  (before: (model: Model, last: boolean) => void): Step =>
  (model, x) => {
    const n = x.shape[0]!;
    const total = sg.zeros([], { dtype: x.dtype, device: x.device });
    for (let i = 0; i < 3; i++) {
      const part = x.slice(0, Math.floor((i * n) / 3), Math.floor(((i + 1) * n) / 3));
      before(model, i === 2);
      const loss = lossOf(model.forward(part), part).mul(part.shape[0]! / n);
      loss.backward();
      sg.noGrad(() => total.add_(loss.detach()));
    }
    return total;
  };

test.each<[string, Step]>([
  ['reduced at once', accumulating(() => {})],
  ['whole until the last', accumulating((model, last) => layoutOf(model.tied.weight) && setRequiresGradientSync(model, last))],
  [
    'two forwards, one backward',
    (model, x) => {
      const [a, b] = [x.slice(0, 0, x.shape[0]! / 2), x.slice(0, x.shape[0]! / 2)];
      const loss = lossOf(model.forward(a), a)
        .add(lossOf(model.forward(b), b))
        .mul(0.5);
      loss.backward();
      return loss;
    },
  ],
  [
    'a graph that is kept for a second backward',
    (model, x) => {
      const loss = lossOf(model.forward(x), x).mul(0.5);
      loss.backward({ retainGraph: true });
      loss.backward();
      return loss.mul(2);
    },
  ],
  [
    'evaluation between forward and backward',
    (model, x) => {
      const loss = lossOf(model.forward(x), x);
      sg.noGrad(() => model.forward(x));
      loss.backward();
      return loss;
    },
  ],
])('micro-batches: %s', async (_, step) => {
  const one = await alone({}, 4, 'float64', step);
  expectClose(one.weights.flat(), (await alone({}, 4, 'float64')).weights.flat(), 1e-12, 'the reference');
  for (const options of [{}, { reshardAfterForward: false }, { model: { checkpoint: 'outside' as const } }])
    expectSame(await sharded({ dpReplicate: 2, dpShard: 2 }, options, 4, 'float64', step), one, 1e-10);
});

test('an uneven batch, by the count of all ranks', async () => {
  const parts = [5, 1, 0, 18];
  const loss = (model: Model, x: sg.Tensor): sg.Tensor =>
    sg.crossEntropy(
      model.forward(x),
      sg
        .tensor(
          Array.from({ length: x.shape[0]! }, (_, i) => i % WIDTH),
          { dtype: 'int64', device: x.device },
        )
        .reshape([x.shape[0]!]),
      { normalizer: BATCH },
    );
  const one = seeded(() => new Model({ dtype: 'float64' }));
  const all = rows('cpu');
  const begins = parts.map((_, r) => parts.slice(0, r).reduce((a, b) => a + b, 0));
  for (const [r, n] of parts.entries()) if (n > 0) loss(one, all.slice(0, begins[r], begins[r]! + n)).backward();
  const expected = await Promise.all(one.parameters().map((p) => (p.grad ? read(p.grad) : [])));
  const made = await simulate(4, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ dpShard: 4 }, { group: world });
    const model = seeded(() => new Model({ dtype: 'float64', device }));
    for (const block of model.blocks) fullyShard(block, { mesh, gradientReduction: 'sum' });
    fullyShard(model, { mesh, gradientReduction: 'sum' });
    loss(model, rows(device, begins[rank], begins[rank]! + parts[rank]!)).backward();
    return Promise.all(model.parameters().map((p) => (p.grad ? gathered(p.grad, p) : [])));
  });
  for (const gradients of made) gradients.forEach((g, i) => expectClose(g, expected[i]!, 1e-12, `gradient ${i}`));
  await expect(
    simulate(2, async ({ world, device }) => {
      const model = fullyShard(new Model({ dtype: 'float64', device }), { mesh: await initDeviceMesh({ dpShard: 2 }, { group: world }) });
      loss(model, rows(device, 0, 4)).backward();
    }),
  ).rejects.toThrow(/Model: the loss has a normalizer.*gradientReduction: 'sum'/);
});

/** Experts that rows choose by themselves: some are used twice, some never, and differently on each rank. */
class Experts extends nn.Module {
  gate: sg.nn.Linear;
  experts: sg.nn.ModuleList<sg.nn.Linear>;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.gate = new nn.Linear(WIDTH, WIDTH, on);
    this.experts = new nn.ModuleList(Array.from({ length: 4 }, () => new nn.Linear(WIDTH, WIDTH, on)));
  }
  override forward(x: sg.Tensor, uses: readonly (readonly number[])[]): sg.Tensor {
    const gate = this.gate.forward(x).sigmoid();
    const out = uses.map((list, row) => list.reduce((h, e) => [...this.experts][e]!.forward(h).tanh(), x.slice(0, row, row + 1)));
    return x.add(sg.cat(out).mul(gate));
  }
}
class Mixture extends nn.Module {
  first: Experts;
  second: Experts;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.first = new Experts(on);
    this.second = new Experts(on);
  }
  override forward(x: sg.Tensor, uses: readonly (readonly number[])[]): sg.Tensor {
    return this.second.forward(this.first.forward(x, uses), uses);
  }
}

test('modules that data use differently on each rank; one that nobody uses stays as it is', async () => {
  const steps = [
    [[0, 0, 1], [2], [], [1]],
    [[], [], [2, 1], [0, 0]],
    [[1], [1], [1], [1, 1, 1]],
  ];
  const train = async (model: Mixture, from: number, to: number, device: sg.Device | string): Promise<void> => {
    const opt = new optim.AdamW(model.parameters(), { lr: 0.01, weightDecay: 0.1 });
    for (const uses of steps) {
      const x = rows(device, from, to);
      lossOf(model.forward(x, uses.slice(from, to)), x).backward();
      opt.step();
      opt.zeroGrad();
    }
  };
  const one = seeded(() => new Mixture({ dtype: 'float64' }));
  await train(one, 0, 4, 'cpu');
  const expected = await Promise.all(one.parameters().map(read));
  const made = await simulate(4, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ dpShard: 2, dpReplicate: 2 }, { group: world });
    const model = seeded(() => new Mixture({ dtype: 'float64', device }));
    for (const part of [model.first, model.second]) fullyShard(part, { mesh });
    fullyShard(model, { mesh });
    await train(model, rank, rank + 1, device);
    return Promise.all(model.parameters().map((p) => gathered(p, p)));
  });
  for (const weights of made) weights.forEach((w, i) => expectClose(w, expected[i]!, 1e-10, `parameter ${i}`));
});

test('ranks that are at different modules are told so', async () => {
  const run = simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const model = new Mixture({ device });
    for (const part of [model.first, model.second]) fullyShard(part, { mesh });
    fullyShard(model, { mesh });
    const x = sg.zeros([1, WIDTH], { device });
    const y = (rank === 0 ? model.first : model.second).forward(x, [[0]]);
    await y.toArray();
  });
  await expect(run).rejects.toThrow(/allGather.*Experts/s);
});

test('results in objects of a class', async () => {
  class Result {
    constructor(readonly y: sg.Tensor) {}
  }
  class Wrapped extends nn.Module {
    layer: sg.nn.Linear;
    constructor(on: sg.nn.FactoryOptions) {
      super();
      this.layer = new nn.Linear(WIDTH, WIDTH, on);
    }
    override forward(x: sg.Tensor): Result {
      return new Result(this.layer.forward(this.layer.forward(x)).keep());
    }
  }
  const one = seeded(() => new Wrapped({ dtype: 'float64' }));
  lossOf(one.forward(rows('cpu', 0, 4)).y, rows('cpu', 0, 4)).backward();
  const expected = await read(one.layer.weight.grad!);
  const made = await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const model = fullyShard(
      seeded(() => new Wrapped({ dtype: 'float64', device })),
      { mesh },
    );
    const x = rows(device, 2 * rank, 2 * rank + 2);
    lossOf(model.forward(x).y, x).backward();
    return gathered(model.layer.weight.grad!, model.layer.weight);
  });
  for (const g of made) expectClose(g, expected, 1e-12, 'gradient');
});

/** One layer called again and again, as in networks that share weights over depth. */
class Repeated extends nn.Module {
  layer: sg.nn.Linear;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.layer = new nn.Linear(WIDTH, WIDTH, on);
  }
  override forward(x: sg.Tensor): { y: sg.Tensor; steps: sg.Tensor[] } {
    const steps = [x];
    for (let i = 0; i < 3; i++) steps.push(this.layer.forward(steps.at(-1)!).tanh());
    return { y: steps.at(-1)!, steps };
  }
}

test('a module called several times, results in objects', async () => {
  const one = seeded(() => new Repeated({ dtype: 'float64' }));
  const loss = (m: Repeated, x: sg.Tensor): sg.Tensor => {
    const { y, steps } = m.forward(x);
    return lossOf(y, x).add(lossOf(steps[1]!, x));
  };
  loss(one, rows('cpu', 0, 4)).backward();
  const expected = await read(one.layer.weight.grad!);
  for (const reshardAfterForward of [true, false]) {
    const made = await simulate(2, async ({ world, device, rank }) => {
      const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
      const model = seeded(() => new Repeated({ dtype: 'float64', device }));
      fullyShard(model.layer, { mesh, reshardAfterForward });
      fullyShard(model, { mesh });
      loss(model, rows(device, 2 * rank, 2 * rank + 2)).backward();
      return gathered(model.layer.weight.grad!, model.layer.weight);
    });
    for (const g of made) expectClose(g, expected, 1e-12, 'gradient');
  }
});

test('16-bit parameters while they are gathered, and autocast', async () => {
  const one = await alone({}, 3, 'float32');
  const mixed = await sharded({ dpShard: 2 }, { mixedPrecision: { paramDType: 'bfloat16' } }, 3, 'float32', (model, x) => {
    const loss = lossOf(model.forward(x.to('bfloat16')).float(), x);
    loss.backward();
    for (const p of model.parameters()) if (p.grad) expect([p.dtype, p.grad.dtype]).toEqual(['float32', 'float32']);
    return loss;
  });
  expectSame(mixed, one, 0.05);
  expectSame(await sharded({ dpShard: 2 }, { mixedPrecision: { reduceDType: 'bfloat16' } }, 3, 'float32'), one, 0.01);
  expectSame(await sharded({ dpShard: 2, dpReplicate: 2 }, { mixedPrecision: { reduceDType: 'float16' } }, 3, 'float32'), one, 0.01);
  const autocast: Step = (model, x) => {
    const loss = sg.amp.autocast('bfloat16', () => lossOf(model.forward(x), x));
    loss.backward();
    return loss;
  };
  for (const checkpoint of ['none', 'inside', 'outside'] as const) {
    const reference = await alone({ checkpoint }, 3, 'float32', autocast);
    expectSame(await sharded({ dpShard: 2 }, { model: { checkpoint } }, 3, 'float32', autocast), reference, 0.01);
  }
});

test('a rank keeps its share of 16 bytes a parameter, and nothing is left over by a step', async () => {
  const N = 4;
  await simulate(N, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: N }, { group: world });
    sg.collectGarbage();
    const before = sg.memory(device).live;
    const model = new nn.GPT({ vocabSize: 512, layers: 4, heads: 4, dim: 64, context: 32, device });
    const psi = model.parameters().reduce((n, p) => n + p.numel, 0);
    for (const block of model.transformer.h) fullyShard(block, { mesh, mixedPrecision: { paramDType: 'bfloat16' } });
    fullyShard(model, { mesh, mixedPrecision: { paramDType: 'bfloat16' } });
    sg.collectGarbage(); // the head's own weight, before it was tied
    await sg.synchronize(device);
    const share = (n: number): void => {
      const bytes = sg.memory(device).live - before;
      expect(bytes / ((n * psi) / N), `${n} bytes a parameter`).toBeGreaterThan(0.99);
      expect(bytes / ((n * psi) / N), `${n} bytes a parameter`).toBeLessThan(1.05);
    };
    share(4);
    const opt = new optim.AdamW(model.parameters(), { lr: 1e-3 });
    const counts: number[] = [];
    for (let s = 0; s < 6; s++) {
      sg.scope(() => {
        const tokens = sg.randint(0, 512, [2, 32], { device });
        model.forward(tokens, tokens).backward();
        opt.step();
      });
      share(16);
      opt.zeroGrad();
      share(12);
      counts.push(sg.memory(device).count);
    }
    expect(new Set(counts.slice(1)).size, counts.join(' ')).toBe(1);
    sg.scope(() => {
      sg.noGrad(() => model.forward(sg.zeros([1, 8], { dtype: 'int64', device })));
    });
    share(12);
    expect(sg.memory(device).count).toBe(counts.at(-1));
  });
});

test('whole parameters are there for one block and the next, and no more', async () => {
  const peaks = await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const peakOf = (layers: number): number => {
      const model = new nn.Sequential(...Array.from({ length: layers }, () => new nn.Linear(256, 256, { device })));
      for (const layer of model.children()) fullyShard(layer, { mesh });
      fullyShard(model, { mesh });
      const step = (): void =>
        sg.scope(() =>
          model
            .forward(sg.ones([1, 256], { device }))
            .sum()
            .backward(),
        );
      step();
      model.zeroGrad();
      const before = sg.memory(device).live;
      sg.resetPeakMemory(device);
      step();
      const { live, peak } = sg.memory(device);
      model.zeroGrad();
      for (const p of model.parameters()) p.dispose();
      return (peak - before - (live - before)) / (256 * 257 * 4); // beyond the gradients
    };
    return [peakOf(4), peakOf(12)];
  });
  for (const [few, many] of peaks) {
    expect(few!).toBeLessThan(5.5);
    expect(many! - few!).toBeLessThan(0.5);
  }
});

test('the next gather runs while a block computes, a reduction while the one before it does', async () => {
  const logs = await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const model = new nn.Sequential(...Array.from({ length: 3 }, () => new nn.Linear(4, 4, { device })));
    for (const layer of model.children()) fullyShard(layer, { mesh });
    fullyShard(model, { mesh });
    let log: string[] = [];
    for (const name of ['allGather', 'reduceScatter'] as const) {
      const call = world[name].bind(world) as (x: sg.Tensor, o: { label?: string }) => never;
      world[name] = (x: sg.Tensor, o: { label?: string } = {}) => {
        log.push(`${name === 'allGather' ? 'gather' : 'reduce'} ${/"(\d)"/.exec(o.label ?? '')?.[1] ?? '?'}`);
        return call(x, o);
      };
    }
    model.children().forEach((layer, i) => {
      layer.registerForwardPreHook(() => void log.push(`forward ${i}`));
      layer.registerFullBackwardHook(() => void log.push(`backward ${i}`));
    });
    for (let step = 0; step < 2; step++) {
      log = [];
      model
        .forward(sg.ones([1, 4], { device, requiresGrad: true }))
        .sum()
        .backward();
    }
    return log;
  });
  const expected = [
    ...['gather 0', 'gather 1', 'forward 0', 'gather 2', 'forward 1', 'forward 2'],
    ...['gather 2', 'gather 1', 'backward 2', 'reduce 2', 'gather 0', 'backward 1', 'reduce 1', 'backward 0', 'reduce 0'],
  ];
  for (const log of logs) expect(log).toEqual(expected);
});

/** What else a network may do: layers inside of layers, whole layers that are frozen, others that are left out, results that come later. */
class Deep extends nn.Module {
  inner: Model;
  before: sg.nn.Linear;
  frozen: sg.nn.Linear;
  skip = -1;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.before = new nn.Linear(WIDTH, WIDTH, on);
    this.inner = new Model(on);
    this.frozen = new nn.Linear(WIDTH, WIDTH, on);
    this.frozen.requiresGrad_(false);
  }
  override async forward(x: sg.Tensor): Promise<sg.Tensor> {
    const h = this.inner.forward(this.skip === 0 ? x : this.before.forward(x));
    await Promise.resolve();
    return this.skip === 1 ? h : this.frozen.forward(h).tanh();
  }
}

test('nested and frozen groups, layers left out in some steps, an asynchronous forward, hooks of parameters', async () => {
  const train = async (model: Deep, x: sg.Tensor): Promise<void> => {
    const opt = new optim.SGD(model.parameters(), { lr: 0.1 });
    for (const skip of [-1, 0, 1, -1, -1]) {
      model.skip = skip;
      lossOf(await model.forward(x), x).backward();
      opt.step();
      opt.zeroGrad();
    }
  };
  const watch = (model: Deep): { seen: number } => {
    const counts = { seen: 0 };
    const p = model.before.weight;
    p.registerHook((g) => sg.mul(g, 2));
    p.registerPostAccumulateGradHook((leaf) => {
      counts.seen += Number(leaf.grad !== null);
    });
    return counts;
  };
  const one = seeded(() => new Deep({ dtype: 'float64' }));
  const counts = watch(one);
  await seeded(() => train(one, rows('cpu')));
  const expected = await Promise.all(one.parameters().map(read));
  const made = await simulate(4, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ dpShard: 4 }, { group: world });
    const model = seeded(() => new Deep({ dtype: 'float64', device }));
    for (const part of [...model.inner.blocks, model.inner, model.before, model.frozen]) fullyShard(part, { mesh });
    fullyShard(model, { mesh });
    const own = watch(model);
    await seeded(() => train(model, rows(device, 6 * rank, 6 * rank + 6)));
    return { weights: await Promise.all(model.parameters().map((p) => gathered(p, p))), seen: own.seen };
  });
  for (const { weights, seen } of made) {
    weights.forEach((w, i) => expectClose(w, expected[i]!, 1e-10, `parameter ${i}`));
    expect([seen, counts.seen]).toEqual([4, 4]); // one step leaves it out
  }
});

test('GPT: the bits of data parallelism, on TCP too; generation', async () => {
  const tokens = (device: sg.Device, step: number, rank: number): sg.Tensor =>
    sg.tensor([Array.from({ length: 16 }, (_, i) => (7 * i + 5 * step + rank) % 61)], { dtype: 'int64', device });
  const train = (kind: 'ddp' | 'sharded', transport: 'shm' | 'tcp'): Promise<{ weights: number[]; text: number[] }[]> =>
    simulate(
      2,
      async ({ world, device, rank }) => {
        const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
        const model = seeded(() => new nn.GPT({ vocabSize: 61, layers: 2, heads: 2, dim: 16, context: 32, device }));
        const ddp = kind === 'ddp' ? new DistributedDataParallel(model, { group: world }) : null;
        if (!ddp) for (const part of [...model.transformer.h, model]) fullyShard(part, { mesh });
        const opt = new optim.AdamW(model.parameters(), { lr: 0.01 });
        for (let s = 0; s < 4; s++) {
          const x = tokens(device, s, rank);
          (ddp ?? model).forward(x, x).backward();
          opt.step();
          opt.zeroGrad();
        }
        const weights = await Promise.all(model.parameters().map((p) => (ddp ? read(p) : gathered(p, p))));
        const text = await read(model.generate(tokens(device, 0, 0), { maxNewTokens: 5, temperature: 0 }));
        return { weights: weights.flat(), text };
      },
      { transport },
    );
  const [ddp, shm, tcp] = [await train('ddp', 'shm'), await train('sharded', 'shm'), await train('sharded', 'tcp')];
  expect(shm).toEqual(ddp);
  expect(tcp).toEqual(ddp);
});

test('grad() through a sharded module leaves its parameters alone, and cannot give their gradients', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const make = (): sg.nn.Sequential => seeded(() => new nn.Sequential(new nn.Linear(4, 4, { device }), new nn.Linear(4, 4, { device })));
    const [plainModel, model] = [make(), make()];
    for (const layer of model.children()) fullyShard(layer, { mesh });
    fullyShard(model, { mesh });
    const x = sg.ones([1, 4], { device, requiresGrad: true });
    const of = (m: sg.nn.Sequential): Promise<number[]> => read(sg.grad(m.forward(x).tanh().sum(), [x])[0]!);
    expect(await of(model)).toEqual(await of(plainModel));
    for (const p of model.parameters()) expect(p.grad).toBeNull();
    expect(() => sg.grad(model.forward(x).sum(), [model.parameters()[0]!])).toThrow(
      /grad: the pieces of a Linear "0" get their gradients .* call backward\(\)/,
    );
    model.forward(x).sum().backward();
    for (const p of model.parameters()) expect(p.grad).not.toBeNull();
  });
});

test('after an error in forward or backward the next step is right', async () => {
  const one = await alone({}, 3, 'float64');
  let calls = 0;
  const step: Step = (model, x) => {
    if (layoutOf(model.tied.weight)) {
      const remove = [...model.blocks][1]!.registerForwardHook(() => {
        throw new Error('in forward');
      });
      expect(() => model.forward(x)).toThrow('in forward');
      remove();
      const off = model.norm.registerFullBackwardHook(() => {
        throw new Error('in backward');
      });
      expect(() => lossOf(model.forward(x), x).backward()).toThrow('in backward');
      off();
      calls++;
      for (const p of model.parameters()) if (p.grad) p.grad = null;
      expect(model.parameters().every((p) => layoutOf(p) !== null)).toBe(true);
    }
    return plain(model, x);
  };
  expectSame(await sharded({ dpShard: 2 }, {}, 3, 'float64', step), one, 1e-10);
  expect(calls).toBe(6);
});

test('misuse is named', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const make = (): Model => new Model({ device });
    expect(() => fullyShard(3 as never, { mesh })).toThrow(/fullyShard: expected a module, got 3/);
    expect(() => fullyShard(make(), {} as never)).toThrow(/fullyShard: give the mesh as \{ mesh \}/);
    expect(() => fullyShard(make(), { mesh, axis: 'dp' as never })).toThrow(/is no axis of this mesh/);
    expect(() => fullyShard(make(), { mesh, axis: 'dpShard', replicateAxis: 'dpShard' })).toThrow(/both dpShard/);
    expect(() => fullyShard(make(), { mesh, gradientReduction: 'avg' as never })).toThrow(/gradientReduction must be mean or sum/);
    expect(() => fullyShard(make(), { mesh, mixedPrecision: { paramDType: 'int32' as never } })).toThrow(
      /paramDType must be float32, bfloat16, float16 or float64/,
    );
    if (device.index === 1) expect(() => fullyShard(new Model({}), { mesh })).toThrow(/parameter tied.weight is on cpu:0, the mesh on cpu:1/);
    expect(() => setRequiresGradientSync(make(), false)).toThrow(/expected a module with fullyShard/);
    const twice = fullyShard(make(), { mesh });
    expect(() => fullyShard(twice, { mesh })).toThrow(/the Model is sharded already/);
    const tied = make();
    fullyShard(tied.tied, { mesh });
    expect(() => fullyShard(tied, { mesh })).toThrow(/parameter head.weight is also one of a Linear that is sharded by itself; shard a module that has both/);
    const inner = make();
    fullyShard(inner, { mesh });
    expect(() => fullyShard([...inner.blocks][0]!, { mesh })).toThrow(/parameter up.weight is also one of a Model that is sharded by itself/);
    const doubled = make();
    doubled.norm.to('float64');
    expect(() => fullyShard(doubled, { mesh })).toThrow(/tied.weight is float32 and norm.weight is float64: parameters of a group have one dtype/);
  });
});
