// What estimateMemory says before anything is allocated, beside what memory() shows when the same training runs on simulated ranks.
import { describe, expect, test, vi } from 'vitest';

// read when the device is first asked for
vi.hoisted(() => {
  process.env['SHARDGRAD_EMULATED_GPUS'] ??= '4';
});

import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { estimateMemory, type MemoryPlan } from '../lib/distributed/estimate_memory.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { PowerSGD } from '../lib/distributed/hooks/power_sgd.js';
import { materialize } from '../lib/distributed/materialize.js';
import type { MemoryEstimate } from '../lib/distributed/memory_estimate.js';
import { simulate } from '../lib/distributed/simulate.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import { ZeroRedundancyOptimizer } from '../lib/distributed/zero_redundancy_optimizer.js';
import * as sg from '../lib/index.js';

const { amp, nn, optim } = sg;
const { gpus } = sg.cuda.report();

interface Shown {
  readonly state: number;
  readonly activations: number;
  readonly gradients: number;
  readonly optimizer: number;
  readonly casts: number;
  /** All of these but the activations. */
  readonly held: number;
  readonly peak: number;
  /** Of the host, where it is another device. */
  readonly host: number;
}

/** What memory() shows of a training on this rank. */
async function shownBy<M extends sg.nn.Module>(make: () => M, mesh: DeviceMesh, plan: MemoryPlan<M>): Promise<Shown> {
  const { device } = mesh;
  const live = (): number => sg.memory(device).live;
  const host = sg.device(device.type === 'cuda' ? `cpu:${device.index}` : device);
  // what tests before have left is reached until their promises are forgotten
  for (let round = 0; round < 3; round++) {
    await new Promise((resolve) => setImmediate(resolve));
    sg.collectGarbage();
  }
  const base = live();
  const hostBase = sg.memory(host).live;
  const whole = make();
  const model = spread(whole, mesh, plan);
  if (model instanceof DistributedDataParallel) await model.ready;
  const opt = plan.optimizer!(model.parameters(), mesh);
  sg.collectGarbage();
  const state = live() - base;
  sg.resetPeakMemory(device);
  sg.resetPeakMemory(host);
  const { inFlight = 1, microBatches = inFlight } = plan;
  let [activations, gradients, optimizer, held] = [0, 0, 0, 0];
  for (let step = 0; step < 3; step++) {
    const before = live();
    activations = 0;
    sg.scope(() => {
      const losses: sg.Tensor[] = [];
      const backward = (): void => {
        activations = Math.max(activations, live() - gradientsOf(whole) - before);
        losses.shift()!.backward();
      };
      const microBatch = (): void => {
        losses.push(plan.loss(model as M, device));
        if (losses.length === inFlight) backward();
      };
      for (let i = 0; i < microBatches; i++) {
        if (model instanceof DistributedDataParallel && i < microBatches - 1) model.noSync(microBatch);
        else microBatch();
      }
      while (losses.length > 0) backward();
      gradients = gradientsOf(whole);
      const now = live();
      opt.step();
      if (step === 0) optimizer = live() - now;
    });
    held = live() - base;
    opt.zeroGrad();
  }
  const { peak } = sg.memory(device);
  const now = live();
  amp.clearCasts(whole.parameters());
  return {
    state,
    activations,
    gradients,
    optimizer,
    casts: now - live(),
    held,
    peak: peak - base,
    host: host === device ? 0 : sg.memory(host).peak - hostBase,
  };
}

/** With what else is in their buckets. */
function gradientsOf(model: sg.nn.Module): number {
  return [...new Set(model.parameters().flatMap((p) => p.grad?.storage ?? []))].reduce((n, s) => n + s.bytes, 0);
}

function spread<M extends sg.nn.Module>(model: M, mesh: DeviceMesh, { tensorParallel, fullyShard: shard, ddp }: MemoryPlan<M>): sg.nn.Module {
  if (tensorParallel) parallelize(model, mesh, typeof tensorParallel === 'function' ? tensorParallel(model, mesh) : tensorParallel);
  if (shard) {
    const { modules, ...options } = shard === true ? { modules: undefined } : shard;
    for (const m of modules?.(model) ?? []) fullyShard(m, { ...options, mesh });
    fullyShard(model, { ...options, mesh });
  }
  const options = typeof ddp === 'function' ? ddp() : ddp === true ? {} : ddp;
  return options ? new DistributedDataParallel(model, { ...options, group: mesh.group('dpReplicate') }) : model;
}

/** Bytes, or a hundredth of them: what ranks compare once is garbage that nobody may have collected yet. */
function expectShown(e: MemoryEstimate, shown: Shown): void {
  const estimated: Shown = {
    state: e.parameters + e.buffers,
    activations: e.activations + e.gathered,
    gradients: e.gradients,
    optimizer: e.optimizer,
    casts: e.casts,
    held: e.parameters + e.buffers + e.gradients + e.optimizer + e.casts + e.temporaries,
    peak: e.peak,
    host: Object.values(e.elsewhere).reduce((a, b) => a + b, 0),
  };
  for (const key of Object.keys(shown) as (keyof Shown)[]) {
    expect(Math.abs(estimated[key] - shown[key]) / (shown[key] || 1), `${key}: ${estimated[key]} for ${shown[key]}\n${e}`).toBeLessThan(0.01);
  }
  expect(Object.values(e.atPeak).reduce((a, b) => a + b, 0)).toBe(e.peak);
}

type GPT = sg.nn.GPT;
const CONTEXT = 32;
const gpt =
  (options: Partial<sg.nn.GPTOptions> = {}) =>
  (device: sg.DeviceLike): GPT =>
    new nn.GPT({ vocabSize: 128, layers: 3, heads: 4, dim: 64, context: CONTEXT, ...options, device });
const loss = (model: GPT, device: sg.Device): sg.Tensor => {
  const tokens = sg.zeros([4, CONTEXT], { dtype: 'int32', device });
  return model.forward(tokens, tokens);
};
const autocast = (model: GPT, device: sg.Device): sg.Tensor => amp.autocast('bfloat16', () => loss(model, device));
const adamw = (p: sg.Tensor[]): sg.optim.AdamW => new optim.AdamW(p, { lr: 1e-3 });
const sgd = (p: sg.Tensor[]): sg.optim.SGD => new optim.SGD(p, { lr: 0.1, momentum: 0.9 });
const plain = { loss, optimizer: adamw } as const;
const blocks = { modules: (m: GPT): sg.nn.Module[] => [...m.transformer.h] };
const tensorParallel = (m: GPT): ReturnType<typeof gptPlan> => gptPlan(m);
const sequenceParallel = (m: GPT): ReturnType<typeof gptPlan> => gptPlan(m, { sequenceParallel: true });

interface Case {
  readonly plan: MemoryPlan<GPT>;
  readonly sizes?: MeshSizes;
  readonly make?: (device: sg.DeviceLike) => GPT;
}
const cases: Record<string, Case> = {
  'state on the host': { plan: { ...plain, optimizer: (p) => new optim.CPUOffloadOptimizer(p, adamw) } },
  'state on the host, ZeRO-3': { sizes: { dpShard: 2 }, plan: { ...plain, optimizer: (p) => new optim.CPUOffloadOptimizer(p, adamw), fullyShard: blocks } },
  'one rank': { plan: plain },
  momentum: { plan: { ...plain, optimizer: sgd } },
  'no state': { plan: { ...plain, optimizer: (p) => new optim.SGD(p, { lr: 0.1 }) } },
  'bfloat16 parameters, float32 masters': { plan: plain, make: gpt({ dtype: 'bfloat16' }) },
  'bfloat16 parameters, stochastic rounding': {
    plan: { ...plain, optimizer: (p) => new optim.AdamW(p, { stochasticRounding: true }), microBatches: 2 },
    make: gpt({ dtype: 'bfloat16' }),
  },
  autocast: { plan: { ...plain, loss: autocast } },
  'micro-batches': { plan: { ...plain, microBatches: 3 } },
  'forwards in flight': { plan: { ...plain, inFlight: 3, microBatches: 5 } },
  'dropout, clipping': {
    plan: {
      ...plain,
      optimizer: (p) => {
        const opt = adamw(p);
        return { step: () => opt.step({ maxNorm: 1 }), zeroGrad: () => opt.zeroGrad() };
      },
    },
    make: gpt({ dropout: 0.1 }),
  },
  ddp: { sizes: { dpReplicate: 2 }, plan: { ...plain, ddp: true } },
  'ddp, small buckets, micro-batches': { sizes: { dpReplicate: 3 }, plan: { ...plain, ddp: { bucketBytes: 1e5, firstBucketBytes: 1e4 }, microBatches: 2 } },
  'ddp, PowerSGD, autocast': {
    sizes: { dpReplicate: 2 },
    plan: { ...plain, loss: autocast, ddp: () => ({ hook: new PowerSGD({ rank: 2, startStep: 2 }) }), steps: 3 },
  },
  'ddp, 16-bit gradients': { sizes: { dpReplicate: 2 }, plan: { ...plain, ddp: { gradientDType: 'bfloat16' } }, make: gpt({ dtype: 'bfloat16' }) },
  'ZeRO-1': { sizes: { dpReplicate: 2 }, plan: { loss, ddp: true, optimizer: (p, mesh) => new ZeroRedundancyOptimizer(p, adamw, { mesh }) } },
  'ZeRO-2': { sizes: { dpShard: 2 }, plan: { ...plain, fullyShard: { ...blocks, reshardAfterForward: false } } },
  'ZeRO-3': { sizes: { dpShard: 2 }, plan: { ...plain, fullyShard: blocks } },
  'ZeRO-3, one group': { sizes: { dpShard: 2 }, plan: { ...plain, fullyShard: true } },
  'ZeRO-3, pieces of different sizes': { sizes: { dpShard: 3 }, plan: { ...plain, fullyShard: blocks } },
  'ZeRO-3, 16-bit gathers, micro-batches': {
    sizes: { dpShard: 2 },
    plan: { ...plain, fullyShard: { ...blocks, mixedPrecision: { paramDType: 'bfloat16' } }, microBatches: 2 },
  },
  'ZeRO-3, autocast': { sizes: { dpShard: 2 }, plan: { ...plain, loss: autocast, fullyShard: blocks } },
  hybrid: { sizes: { dpReplicate: 2, dpShard: 2 }, plan: { ...plain, fullyShard: blocks } },
  'tensor parallel': { sizes: { tp: 2 }, plan: { ...plain, tensorParallel } },
  'tensor parallel, uneven vocabulary': { sizes: { tp: 2 }, plan: { ...plain, tensorParallel }, make: gpt({ vocabSize: 101 }) },
  'sequence parallel, autocast': { sizes: { tp: 4 }, plan: { ...plain, loss: autocast, tensorParallel: sequenceParallel } },
  'sequence parallel, ddp': { sizes: { dpReplicate: 2, tp: 2 }, plan: { ...plain, tensorParallel: sequenceParallel, ddp: true } },
  'sequence parallel, ZeRO-3': { sizes: { dpShard: 2, tp: 2 }, plan: { ...plain, tensorParallel: sequenceParallel, fullyShard: blocks } },
};

const kinds = (['cpu', 'cuda'] as const).filter((kind) => kind === 'cpu' || gpus.length > 0);
describe.each(kinds)('on %s', (kind) => {
  const real = Object.keys(cases).filter((name) => kind === 'cpu' || ranksOf(cases[name]!.sizes) <= gpus.length);
  test.each(real)('%s', async (name) => {
    const { sizes = {}, plan, make = gpt() } = cases[name]!;
    const ranks = ranksOf(sizes);
    const run = async (mesh: DeviceMesh): Promise<Shown> => shownBy(() => make(mesh.device), mesh, plan);
    const shown = await simulate(ranks, async ({ world }) => run(await initDeviceMesh(sizes, { group: world })), { device: kind });
    for (const rank of new Set([0, ranks - 1])) {
      expectShown(estimateMemory(make('meta'), { ...plan, mesh: sizes, rank, device: kind }), shown[rank]!);
      expectShown(
        estimateMemory((_mesh, device) => make(device), { ...plan, mesh: sizes, rank, device: kind }),
        shown[rank]!,
      );
    }
  });
});

function ranksOf(sizes: MeshSizes = {}): number {
  return Object.values(sizes).reduce((n: number, size) => n * size, 1);
}

/** Weights in two places, frozen ones, buffers, recomputed blocks. */
class Zoo extends nn.Module {
  conv: sg.nn.Conv2d;
  norm: sg.nn.BatchNorm2d;
  first: sg.nn.Linear;
  frozen: sg.nn.Linear;
  last: sg.nn.Linear;
  constructor(
    device: sg.DeviceLike,
    private readonly recompute: boolean,
  ) {
    super();
    this.conv = new nn.Conv2d(3, 8, 3, { device });
    this.norm = new nn.BatchNorm2d(8, { device });
    this.first = new nn.Linear(8 * 14 * 14, 64, { device });
    this.frozen = new nn.Linear(64, 8 * 14 * 14, { device });
    this.frozen.requiresGrad_(false);
    this.last = new nn.Linear(8 * 14 * 14, 64, { device });
    this.last.weight = this.first.weight;
  }
  override forward(x: sg.Tensor): sg.Tensor {
    const wide = (y: sg.Tensor): sg.Tensor => sg.gelu(this.frozen.forward(sg.relu(this.first.forward(y))));
    const y = sg.relu(this.norm.forward(this.conv.forward(x))).flatten(1);
    return this.last.forward(this.recompute ? sg.checkpoint(wide, y) : wide(y));
  }
}
const zooLoss = (model: Zoo, device: sg.Device): sg.Tensor =>
  model
    .forward(sg.randn([16, 3, 16, 16], { device }))
    .square()
    .mean();

describe.each([false, true])('shared and frozen weights, buffers, recomputation: %s', (recompute) => {
  const make = (device: sg.DeviceLike): Zoo => new Zoo(device, recompute);
  test.each<[MeshSizes, Partial<MemoryPlan<Zoo>>]>([
    [{}, {}],
    [{ dpReplicate: 2 }, { ddp: true }],
    [{ dpShard: 2 }, { fullyShard: { modules: (m) => [m.frozen] } }],
  ])('on %o', async (sizes, spreading) => {
    const plan: MemoryPlan<Zoo> = { loss: zooLoss, optimizer: adamw, ...spreading };
    const shown = await simulate(ranksOf(sizes), async ({ world, device }) => shownBy(() => make(device), await initDeviceMesh(sizes, { group: world }), plan));
    expectShown(estimateMemory(make('meta'), { ...plan, mesh: sizes }), shown[0]!);
    // a model with memory
    expectShown(estimateMemory(make('cpu'), { ...plan, mesh: sizes }), shown[0]!);
  });
});

test('recomputation takes less', () => {
  const [kept, again] = [false, true].map((recompute) => estimateMemory(new Zoo('meta', recompute), { loss: zooLoss }));
  expect(again!.activations).toBeLessThan(0.9 * kept!.activations);
  expect(kept!.optimizer).toBe(0);
});

test('a model that is spread already, by its placements, before and after it has memory', async () => {
  const sizes = { dpShard: 2, tp: 2 };
  const plan = { ...plain, tensorParallel: sequenceParallel, fullyShard: blocks };
  await simulate(4, async ({ world }) => {
    const mesh = await initDeviceMesh(sizes, { group: world });
    const model = gpt()('meta');
    spread(model, mesh, plan);
    const before = estimateMemory(model, plain);
    const shown = await shownBy(() => materialize(model), mesh, plain);
    expectShown(before, shown);
    expectShown(estimateMemory(model, plain), shown);
    expect(before.rank).toBe(world.rank);
    expect(() => estimateMemory(model, plan)).toThrow(/the model is spread already; leave tensorParallel, fullyShard and ddp out/);
    expect(() => estimateMemory(model, { ...plain, mesh: sizes })).toThrow(/the model lies on a mesh already; leave mesh out/);
  });
});

test('a GPU that is not there, many ranks, and what optimizers keep elsewhere', () => {
  const of = (sizes: MeshSizes, extra: Partial<MemoryPlan<GPT>> = {}): MemoryEstimate =>
    estimateMemory(gpt({ vocabSize: 50304, layers: 12, heads: 12, dim: 768, context: 1024 })('meta'), {
      ...plain,
      loss: (m, device) => {
        const tokens = sg.zeros([1, 1024], { dtype: 'int32', device });
        return amp.autocast('bfloat16', () => m.forward(tokens, tokens));
      },
      device: 'cuda:3',
      mesh: sizes,
      ...extra,
    });
  const one = of({});
  expect(one.parameters).toBeGreaterThan(4 * 124e6);
  expect(one.optimizer / one.parameters).toBeCloseTo(2, 2);
  const sixtyFour = of({ dpReplicate: 2, dpShard: 16, tp: 2 }, { tensorParallel: sequenceParallel, fullyShard: blocks });
  expect(one.parameters / sixtyFour.parameters).toBeCloseTo(32, 0);
  expect(sixtyFour.peak).toBeLessThan(one.peak / 4);
  expect(sixtyFour.elsewhere['cpu:0'] ?? 0).toBe(0);
  expect(String(sixtyFour)).toMatch(/^memory of rank 0 of dpReplicate 2 × dpShard 16 × tp 2 on cuda:3\n.*alone +at the peak\n +parameters +14\.\d MiB/);
  expect(sg.cuda.report().gpus.length).toBe(gpus.length);
});

describe('nothing is left of it', () => {
  test('in a model with values, gradients and an optimizer', async () => {
    sg.manualSeed(5);
    const model = gpt({ dropout: 0.5 })('cpu');
    const opt = adamw(model.parameters());
    loss(model, sg.device('cpu')).backward();
    opt.step();
    sg.collectGarbage();
    const state = (): unknown => [
      sg.memory().live,
      sg.defaultGenerator().getState(),
      model.parameters().map((p) => [p.storage, p.storage.version, p.grad, p.shape, p.requiresGrad]),
      model.modules().map((m) => [Object.getOwnPropertyNames(m), m.path]),
    ];
    const before = state();
    for (const more of [{}, { mesh: { dpShard: 2 }, fullyShard: blocks }, { mesh: { dpReplicate: 2 }, ddp: true }]) {
      estimateMemory(model, { ...plain, ...more });
      const failing = (m: GPT, device: sg.Device): sg.Tensor => loss(m, device).add(sg.ones([3], { device }).matmul(sg.ones([2], { device })));
      expect(() => estimateMemory(model, { ...plain, ...more, loss: failing })).toThrow(/matmul/);
      expect(state()).toEqual(before);
    }
    await loss(model, sg.device('cpu')).item();
  });

  test('in a model on device meta, which gets its values', async () => {
    const values = (model: GPT): number[] => model.parameters().flatMap((p) => Array.from(p.toTypedArraySync() as Float32Array));
    const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(7), fn);
    const expected = values(seeded(() => gpt()('cpu')));
    const model = seeded(() => gpt()('meta'));
    estimateMemory(model, plain);
    estimateMemory(model, { ...plain, mesh: { dpShard: 2, tp: 2 }, tensorParallel, fullyShard: blocks });
    expect(values(materialize(model))).toEqual(expected);
  });

  test('in tensors that were made: they are disposed of', () => {
    let kept: sg.Tensor | null = null;
    estimateMemory(gpt()('meta'), {
      loss: (m, device) => {
        kept = sg.ones([4], { device }).keep();
        return loss(m, device);
      },
    });
    expect(() => kept!.add(1)).toThrow(sg.DisposedError);
  });
});

describe('errors', () => {
  const model = gpt()('meta');
  test.each<[string, unknown, unknown, RegExp]>([
    ['no model', 3, plain, /expected a model, or a function that makes one, got 3/],
    ['no plan', model, undefined, /the plan needs \{ loss \}/],
    ['no loss', model, { optimizer: adamw }, /the plan needs \{ loss \}/],
    ['an optimizer', model, { loss, optimizer: 'adamw' }, /optimizer must be a function that makes one of parameters, got a string "adamw"/],
    ['two reductions', model, { loss, ddp: true, fullyShard: true }, /leave ddp out/],
    ['a hook that is bound to a wrapper', model, { loss, ddp: { hook: new PowerSGD() } }, /pass ddp as a function that makes the options/],
    ['a rank outside', model, { loss, mesh: { tp: 2 }, rank: 2 }, /rank/],
    ['an axis', model, { loss, mesh: { px: 2 } }, /there is no axis "px"/],
    ['what is left of nothing', model, { loss, mesh: { tp: -1 } }, /tp must be a whole number/],
    ['device meta', model, { loss, device: 'meta' }, /device meta takes no memory/],
    ['no loss from loss', model, { loss: () => 3 }, /loss must return a tensor, and cannot wait for anything; got 3/],
    ['an async loss', model, { loss: async () => sg.zeros([]) }, /loss must return a tensor, and cannot wait for anything/],
    ['a value', model, { loss: (m: GPT, d: sg.Device) => loss(m, d).mul(loss(m, d).itemSync()) }, /have no values while memory is estimated/],
    ['fewer micro-batches than in flight', model, { loss, inFlight: 4, microBatches: 2 }, /microBatches/],
    ['no module', () => 3, { loss }, /the function must return a module, got 3/],
  ])('%s', (_, given, plan, text) => {
    expect(() => estimateMemory(given as GPT, plan as MemoryPlan<GPT>)).toThrow(text);
    expect(estimateMemory(model, plain).peak).toBeGreaterThan(0);
  });

  test('a model whose copy would not be its own, in which case a function makes it', () => {
    class Closure extends nn.Module {
      inner = new nn.Linear(8, 8, { device: 'meta' });
      body = (x: sg.Tensor): sg.Tensor => this.inner.forward(x);
      override forward(x: sg.Tensor): sg.Tensor {
        return this.body(x).sum();
      }
    }
    const plan: MemoryPlan<Closure> = { loss: (m, device) => m.forward(sg.zeros([2, 8], { device })), mesh: { dpShard: 2 }, fullyShard: true };
    expect(() => estimateMemory(new Closure(), plan)).toThrow(/keeps a function in "body".*pass a function that makes it/);
    expect(estimateMemory(() => new Closure(), plan).parameters).toBe(4 * 36);
    expect(estimateMemory(new Closure(), { loss: plan.loss }).parameters).toBe(4 * 72);
  });
});
