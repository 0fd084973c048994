// Every entry of the table of combinations, run: a small model trains with both features on, on simulated ranks, and losses, gradients, their norm
// and the parameters after some steps are those of one process. What is not in the table is refused.
import { describe, expect, test } from 'vitest';
import { combine, type Feature, features, type Pair, refusal, testedPairs } from '../lib/distributed/combinations.js';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshAxis, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { setLayout } from '../lib/distributed/distribute.js';
import { fullyShard, setRequiresGradientSync } from '../lib/distributed/fully_shard.js';
import type { CommunicationHook } from '../lib/distributed/hooks/hook.js';
import { Layout } from '../lib/distributed/layout.js';
import { Pipeline } from '../lib/distributed/pipeline/pipeline.js';
import { Shard } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import { SyncBatchNorm } from '../lib/distributed/sync_batch_norm.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import type { ParallelPlan } from '../lib/distributed/tensor_parallel/plan.js';
import { ZeroRedundancyOptimizer } from '../lib/distributed/zero_redundancy_optimizer.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';
import { read, type Values, whole } from './helpers/whole.js';

const { nn, optim } = sg;
type Has = (feature: Feature) => boolean;
const [BATCH, TIME, DIM, HIDDEN, STEPS] = [8, 4, 8, 6, 3];
const DATA = ['dpReplicate', 'dpShard'] as const;

/** What a feature cannot be without, where nothing else gives it. */
const needs: { readonly [F in Feature]?: (has: Has) => Feature[] } = {
  // over the copies that hybrid sharding has
  zero1: (has) => ((['zero2', 'zero3', 'hybrid'] as const).some(has) ? ['hybrid', 'zero3'] : (['pipeline', 'zeroBubble'] as const).some(has) ? [] : ['ddp']),
  hybrid: (has) => (has('zero2') ? [] : ['zero3']),
  sequenceParallel: () => ['tensorParallel'],
  communicationHook: () => ['ddp'],
  unusedParameters: () => ['ddp'],
  staticGraph: () => ['ddp'],
  join: () => ['ddp'],
  zeroBubble: () => ['pipeline'],
};
const spread: readonly Feature[] = ['ddp', 'zero2', 'zero3', 'tensorParallel', 'pipeline'];

function closure(pair: Pair): Set<Feature> {
  const found = new Set<Feature>(pair);
  for (const f of pair) for (const other of needs[f]?.((g) => found.has(g)) ?? []) found.add(other);
  if (!spread.some((f) => found.has(f))) found.add(found.has('clipGradNorm') ? 'zero3' : 'ddp');
  return found;
}

function sizesOf(has: Has): MeshSizes {
  const sizes: MeshSizes = {};
  if (has('pipeline')) Object.assign(sizes, { pp: 2 });
  if (has('ddp') || has('hybrid') || (has('pipeline') && !has('zero2') && !has('zero3'))) Object.assign(sizes, { dpReplicate: 2 });
  if (has('zero2') || has('zero3')) Object.assign(sizes, { dpShard: 2 });
  if (has('tensorParallel')) Object.assign(sizes, { tp: 2 });
  return sizes;
}

class Block extends nn.Module {
  norm: sg.nn.LayerNorm;
  up: sg.nn.Linear;
  down: sg.nn.Linear;
  drop: sg.nn.Dropout;
  spare: sg.nn.Linear;
  constructor(
    private readonly has: Has,
    on: sg.nn.FactoryOptions,
  ) {
    super();
    this.norm = new nn.LayerNorm(DIM, on);
    this.up = new nn.Linear(DIM, HIDDEN, on);
    this.down = new nn.Linear(HIDDEN, DIM, on);
    this.drop = new nn.Dropout(0.2);
    this.spare = new nn.Linear(DIM, DIM, on);
  }
  /** `spares`: what share of the rows, from the first, go through the layer that is not always used. */
  override forward(x: sg.Tensor, spares: number): sg.Tensor {
    const body = (y: sg.Tensor): sg.Tensor => this.drop.forward(this.down.forward(sg.gelu(this.up.forward(this.norm.forward(y)))));
    const y = x.add(this.has('checkpoint') ? sg.checkpoint(body, x) : body(x));
    if (spares === 0) return y;
    const rows = x.shape[0]! * spares;
    const through = y.add(this.spare.forward(y));
    return rows === x.shape[0] ? through : sg.cat([through.slice(0, 0, rows), y.slice(0, rows)], 0);
  }
}

class Model extends nn.Module {
  tied: sg.nn.Linear;
  blocks: sg.nn.ModuleList<Block>;
  last: sg.nn.LayerNorm;
  batch: sg.nn.BatchNorm1d | null = null;
  head: sg.nn.Linear;
  constructor(has: Has, on: sg.nn.FactoryOptions) {
    super();
    this.tied = new nn.Linear(DIM, DIM, on);
    this.blocks = new nn.ModuleList([new Block(has, on), new Block(has, on)]);
    this.last = new nn.LayerNorm(DIM, on);
    if (has('syncBatchNorm')) this.batch = new nn.BatchNorm1d(DIM, on);
    this.head = new nn.Linear(DIM, DIM, on);
    if (has('shared')) this.head.weight = this.tied.weight;
    if (has('frozen')) for (const p of [this.tied.bias!, this.blocks.get(0).up.weight, this.blocks.get(1).norm.weight!]) p.requiresGrad = false;
  }
  override forward(x: sg.Tensor, spares: number): sg.Tensor {
    let y = this.tied.forward(x);
    if (this.batch) y = this.batch.forward(y.permute([0, 2, 1])).permute([0, 2, 1]);
    for (const block of this.blocks) y = block.forward(y, spares);
    return this.head.forward(this.last.forward(y)).square().mean();
  }
  /** Without the loss, and without layers that are not always used. */
  pipelineLayers(): sg.nn.PipelineLayer[] {
    return [
      { modules: [this.tied], forward: (x) => this.tied.forward(x!) },
      ...[...this.blocks].map((block) => ({ modules: [block], forward: (x: sg.Tensor) => block.forward(x, 1) })),
      { modules: [this.last, this.head], forward: (x) => this.head.forward(this.last.forward(x!)) },
    ];
  }
}

function planOf(sequenceParallel: boolean): ParallelPlan {
  const sequence = { style: 'sequence' } as const;
  return {
    'blocks.*.up': { style: 'column', sequenceParallel },
    'blocks.*.down': { style: 'row', sequenceParallel },
    ...(sequenceParallel && {
      tied: { style: 'scatterSequence' },
      'blocks.*.norm': sequence,
      'blocks.*.drop': sequence,
      'blocks.*.spare': sequence,
      last: { style: 'gatherSequence', gradient: 'slice' },
    }),
  };
}

/** A hook of one's own, which changes nothing. */
const plainHook: CommunicationHook = {
  name: 'plain',
  *reduce({ buffer, label }, { ensemble, divisor }) {
    yield ensemble.allReduce(buffer, { op: { premulSum: 1 / divisor }, label });
  },
};

interface Run {
  /** Of every step that all ranks took. */
  readonly losses: number[];
  readonly norms: number[];
  /** Of the first step. */
  gradients: Values;
  parameters: Values;
  buffers: Values;
}

async function train(has: Has, device: string, mesh: DeviceMesh | null): Promise<Run> {
  const dtype = dtypeOf(has);
  const model = new Model(has, { dtype, device });
  if (mesh) spreadOver(model, mesh, has);
  if (mesh && has('pipeline')) return trainPipeline(has, model, mesh);
  const ddp = mesh && has('ddp') ? wrapped(model, mesh, has) : null;
  const outer = ddp ?? model;
  const sgd = (params: sg.Tensor[]): sg.optim.SGD => new optim.SGD(params, { lr: 0.1, momentum: 0.9, stochasticRounding: has('stochasticRounding') });
  const opt = mesh && has('zero1') ? new ZeroRedundancyOptimizer(model.parameters(), sgd, { mesh }) : sgd(model.parameters());
  // data parallelism has the same gradients everywhere; a rank without data could not take part in the scaler's own reduction
  const scaler = has('gradScaler') ? new sg.amp.GradScaler({ initScale: 8, device, ...(mesh && !has('join') && { group: mesh.group() }) }) : undefined;
  const micros = microsOf(has);
  const [rank, ranks] = mesh ? [mesh.rank(...dataAxes(mesh)), mesh.size(...dataAxes(mesh))] : [0, 1];
  const run: Run = { losses: [], norms: [], gradients: {}, parameters: {}, buffers: {} };

  const step = async (s: number): Promise<void> => {
    // where some data end early, the second half of the ranks have nothing in the last step, and count in the mean all the same
    const halved = has('join') && s === STEPS - 1;
    const share = halved && !mesh ? 0.5 : 1;
    const losses: sg.Tensor[] = [];
    for (let micro = 0; micro < micros; micro++) {
      const n = (BATCH / micros / ranks) * share;
      const x = rows(device, dtype, ((s * micros + micro) * BATCH) / micros + rank * n, n);
      const spares = !has('unusedParameters') ? 1 : s === 1 ? 0 : mesh ? Number(rank < ranks / 2) : 0.5 / share;
      const forward = (): sg.Tensor => (outer.forward(x, spares) as sg.Tensor).mul(share / micros);
      const backward = (): void => {
        const loss = has('autocast') ? sg.amp.autocast('bfloat16', forward) : forward();
        losses.push(loss.detach());
        (scaler?.scale(loss) ?? loss).backward();
      };
      const last = micro === micros - 1;
      if (mesh && (has('zero2') || has('zero3'))) setRequiresGradientSync(model, last);
      if (ddp && !last) ddp.noSync(backward);
      else backward();
    }
    if (!halved) {
      const loss = losses.reduce((a, b) => a.add(b));
      await mesh?.group().allReduce(loss, { op: 'avg' });
      run.losses.push(await loss.item());
    }
    if (s === 0) run.gradients = await whole(model, (p) => p.grad);
    const norm = update(opt, model, scaler, has('clipGradNorm') ? 0.05 : undefined);
    if (norm && !halved) run.norms.push(await norm.item());
  };
  if (ddp && has('join')) {
    const mine = Array.from({ length: rank < ranks / 2 ? STEPS : STEPS - 1 }, (_, s) => s);
    for await (const s of ddp.join(mine, { states: opt instanceof ZeroRedundancyOptimizer ? [] : [opt] })) await step(s);
  } else {
    for (let s = 0; s < STEPS; s++) await step(s);
  }
  run.parameters = await whole(model, (p) => p);
  for (const [name, b] of model.namedBuffers()) run.buffers[name] = await read(b);
  return run;
}

const dtypeOf = (has: Has): sg.DType => (has('stochasticRounding') ? 'bfloat16' : has('autocast') ? 'float32' : 'float64');

/** Of a step; a pipeline makes two of each batch. */
const microsOf = (has: Has): number => (has('accumulation') ? 2 : 1) * (has('pipeline') ? 2 : 1);

/** The same with the model's layers on two ranks. */
async function trainPipeline(has: Has, model: Model, mesh: DeviceMesh): Promise<Run> {
  const dtype = dtypeOf(has);
  const batches = has('accumulation') ? 2 : 1;
  const pipeline = new Pipeline(model, {
    mesh,
    schedule: has('zeroBubble') ? 'zb-h1' : '1f1b',
    microBatches: 2,
    loss: (y) =>
      y
        .square()
        .mean()
        .mul(1 / batches),
  });
  const blocks = pipeline.modules().filter((m) => m instanceof Block);
  shard(blocks, pipeline.children(), mesh, has);
  const sgd = (params: sg.Tensor[]): sg.optim.SGD => new optim.SGD(params, { lr: 0.1, momentum: 0.9, stochasticRounding: has('stochasticRounding') });
  const opt = has('zero1') ? new ZeroRedundancyOptimizer(pipeline.parameters(), sgd, { mesh }) : sgd(pipeline.parameters());
  const scaler = has('gradScaler') ? new sg.amp.GradScaler({ initScale: 8, device: mesh.device, group: mesh.group() }) : undefined;
  const [rank, ranks] = [mesh.rank(...dataAxes(mesh)), mesh.size(...dataAxes(mesh))];
  const run: Run = { losses: [], norms: [], gradients: {}, parameters: {}, buffers: {} };
  for (let s = 0; s < STEPS; s++) {
    let total = 0;
    for (let batch = 0; batch < batches; batch++) {
      const n = BATCH / batches / 2 / ranks;
      const given = [0, 1].map((micro) => {
        const inputs = rows(String(mesh.device), dtype, ((s * batches + batch) * 2 + micro) * n * ranks + rank * n, n);
        return { inputs, targets: inputs };
      });
      const step = (): ReturnType<typeof pipeline.step> => pipeline.step(given, undefined, { scaler });
      const { loss } = await (has('autocast') ? sg.amp.autocast('bfloat16', step) : step());
      total += await loss.item();
    }
    run.losses.push(total);
    if (s === 0) run.gradients = await whole(pipeline, (p) => p.grad);
    const norm = update(opt, pipeline, scaler, has('clipGradNorm') ? 0.05 : undefined);
    if (norm) run.norms.push(await norm.item());
  }
  run.parameters = await whole(pipeline, (p) => p);
  return run;
}

function update(
  opt: sg.optim.SGD | ZeroRedundancyOptimizer<sg.optim.SGD>,
  model: sg.nn.Module,
  scaler: sg.amp.GradScaler | undefined,
  maxNorm: number | undefined,
): sg.Tensor | undefined {
  let norm: sg.Tensor | undefined;
  if (opt instanceof ZeroRedundancyOptimizer) norm = opt.step({ scaler, maxNorm });
  else {
    if (maxNorm !== undefined) {
      scaler?.unscale_(opt);
      norm = optim.clipGradNorm(model.parameters(), maxNorm);
    }
    if (scaler) scaler.step(opt);
    else opt.step();
  }
  scaler?.update();
  opt.zeroGrad();
  return norm;
}

const dataAxes = (mesh: DeviceMesh): MeshAxis[] => DATA.filter((axis) => mesh.axes.includes(axis));

function rows(device: string, dtype: sg.DType, from: number, n: number): sg.Tensor {
  const values = Float64Array.from({ length: n * TIME * DIM }, (_, i) => Math.sin((from * TIME * DIM + i) * 1.7));
  return sg.fromTypedArray(values, [n, TIME, DIM], { device }).to(dtype);
}

function spreadOver(model: Model, mesh: DeviceMesh, has: Has): void {
  if (has('syncBatchNorm')) SyncBatchNorm.convert(model, mesh.group(...dataAxes(mesh)));
  if (has('tensorParallel')) parallelize(model, mesh, planOf(has('sequenceParallel')));
  if (!has('pipeline')) shard([...model.blocks], [model], mesh, has);
}

function shard(blocks: readonly sg.nn.Module[], around: readonly sg.nn.Module[], mesh: DeviceMesh, has: Has): void {
  if (!has('zero2') && !has('zero3')) return;
  // both: the first block keeps what is gathered, the second does not
  blocks.forEach((block, i) => void fullyShard(block, { mesh, reshardAfterForward: has('zero3') && !(has('zero2') && i === 0) }));
  for (const m of around) if (!blocks.includes(m)) fullyShard(m, { mesh, ...(has('zero2') && { reshardAfterForward: false }) });
}

function wrapped(model: Model, mesh: DeviceMesh, has: Has): DistributedDataParallel<Model> {
  return new DistributedDataParallel(model, {
    group: mesh.group('dpReplicate'),
    findUnusedParameters: has('unusedParameters'),
    staticGraph: has('staticGraph'),
    ...(has('communicationHook') && { hook: plainHook }),
  });
}

/** All values as one, where some are nothing but the errors of the products in bfloat16 that they come from. */
function flat(values: Values): Values {
  const names = Object.keys(values).sort();
  return { all: names.flatMap((name) => Array.from(values[name]!)) };
}

/** Of the larger elements, those that are not the same bit for bit; the last bits of small ones say nothing. */
function shareOfOthers(found: ArrayLike<number>, expected: ArrayLike<number>): number {
  const large = Array.from(expected, (x, i) => [x, found[i]!] as const).filter(([x]) => Math.abs(x) > 1 / 16);
  return large.filter(([x, y]) => x !== y).length / large.length;
}

describe.each(testedPairs())('%s', (a, b) => {
  test(`with ${b}`, async () => {
    const on = closure([a, b]);
    const has: Has = (f) => on.has(f);
    const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(5), fn);
    const one = await seeded(() => train(has, 'cpu', null));
    const sizes = sizesOf(has);
    const count = Object.values(sizes).reduce((n, k) => n * k!, 1)!;
    const ranks = await simulate(count, ({ world, device }) => seeded(async () => train(has, String(device), await initDeviceMesh(sizes, { group: world }))));
    // products in bfloat16 are rounded in other places
    const [now, later] = has('autocast') || has('stochasticRounding') ? [2e-2, 2e-2] : [1e-12, 1e-10];
    for (const { losses, norms, gradients, parameters, buffers } of ranks) {
      expectAllClose({ losses, norms }, { losses: one.losses, norms: one.norms }, later, 'step');
      // with a pipeline, those of its stages
      const own = (all: Values, like: Values): Values => Object.fromEntries(Object.keys(all).flatMap((name) => (name in like ? [[name, all[name]!]] : [])));
      const rounded = has('stochasticRounding');
      const seen = rounded ? flat : (all: Values): Values => all;
      expectAllClose({ loss: [losses[0]!], ...seen(gradients) }, { loss: [one.losses[0]!], ...seen(own(one.gradients, gradients)) }, now, 'first step');
      expectAllClose(seen(parameters), seen(own(one.parameters, parameters)), later, 'parameter');
      // gradients differ in their last bits; with other random numbers it would be a third
      if (rounded) expect(shareOfOthers(flat(parameters)['all']!, flat(own(one.parameters, parameters))['all']!)).toBeLessThan(0.1);
      expectAllClose(buffers, one.buffers, later, 'buffer');
      const others = ranks.map((r) => own(r.parameters, parameters));
      for (const other of others) expect(other).toEqual(own(parameters, other));
    }
    const names = new Set(ranks.flatMap((r) => Object.keys(r.parameters)));
    expect([...names].sort()).toEqual(Object.keys(one.parameters).sort());
    expect([...new Set(ranks.flatMap((r) => Object.keys(r.gradients)))].sort()).toEqual(Object.keys(one.gradients).sort());
  });
});

describe('what is not in the table', () => {
  const all = Object.keys(features) as Feature[];
  const tested = new Set(testedPairs().map((pair) => pair.join(' ')));
  const others = all.flatMap((a, i) => all.slice(i + 1).flatMap((b) => (tested.has(`${a} ${b}`) ? [] : [[a, b] as const])));

  test.each(others)('%s with %s is refused', (a, b) => {
    const p = sg.zeros([2]);
    combine('first', [p], [a]);
    expect(() => combine('second', [p], [b])).toThrow(sg.ValueError);
    expect(() => combine('second', [p], [b])).toThrow(
      refusal(a, b) ?? /have not been tested together; compare a run with one process, and pass allowUntested: true$/,
    );
    expect(() => combine('both', [sg.zeros([2])], [a, b])).toThrow(sg.ValueError);
  });

  test('allowUntested warns once instead, but for what cannot work', async () => {
    const warnings: Error[] = [];
    const listen = (w: Error): void => void warnings.push(w);
    process.on('warning', listen);
    for (let i = 0; i < 2; i++) {
      const p = sg.zeros([2]);
      combine('parallelize', [p], ['sequenceParallel', 'tensorParallel']);
      combine('DistributedDataParallel', [p], ['ddp', 'syncBatchNorm'], { allowUntested: true });
      combine('DistributedDataParallel', [p], ['ddp', 'syncBatchNorm'], { allowUntested: true }); // once more takes the place of the first
      expect(() => combine('fullyShard', [p], ['zero3'], { allowUntested: true })).toThrow(/do not go together: fullyShard reduces/);
    }
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', listen);
    expect(warnings.map((w) => w.message)).toEqual([
      'DistributedDataParallel: sequence parallelism and SyncBatchNorm have not been tested together; compare a run with one process',
    ]);
    expect(() => combine('x', [], [], { allowUntested: 1 as never })).toThrow('x: allowUntested must be true or false, got 1');
  });

  test('a layout over tp counts, whoever made it', async () => {
    await simulate(2, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
      const p = setLayout(sg.zeros([2], { device }), new Layout(mesh, [4], { tp: Shard(0) }));
      expect(() => combine('join', [p], ['join'])).toThrow(/tensor parallelism and join have not been tested/);
    });
  });

  test('constructors ask', async () => {
    await simulate(2, async ({ world, device, rank }) => {
      const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
      const make = (): sg.nn.Sequential => new nn.Sequential(new nn.Linear(4, 4, { device }), new nn.BatchNorm1d(4, { device }));
      const sharded = fullyShard(make(), { mesh });
      expect(() => new DistributedDataParallel(sharded, { group: world })).toThrow(
        /DistributedDataParallel and fullyShard do not go together: fullyShard reduces/,
      );
      expect(() => new ZeroRedundancyOptimizer(sharded.parameters(), (p) => new optim.SGD(p, { lr: 1 }), { mesh, axis: 'dpShard' })).toThrow(sg.ValueError);
      const ddp = new DistributedDataParallel(make(), { group: world });
      expect(() => fullyShard(ddp.module, { mesh })).toThrow(/DistributedDataParallel and fullyShard do not go together/);
      const tp = await initDeviceMesh({ tp: 2 }, { group: world });
      expect(() => parallelize(ddp.module, tp, { '0': { style: 'column' } })).toThrow(
        'parallelize: DistributedDataParallel has taken the parameters already; call parallelize before it',
      );
      const zero = new ZeroRedundancyOptimizer(ddp.parameters(), (p) => new optim.SGD(p, { lr: 1 }), { mesh, axis: 'dpShard' });
      zero.zeroGrad();
      expect(() => ddp.join([rank])).toThrow(/ZeroRedundancyOptimizer and join do not go together: a rank whose data have ended takes no step/);
      await world.barrier();
    });
  });
});
