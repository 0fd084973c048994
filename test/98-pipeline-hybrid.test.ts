// Pipelines beside every other kind of parallelism: a GPT on up to eight ranks trains as one process does, with dropout, reduced precision, gradients
// that overflow, sharded and offloaded optimizers.
import { describe, expect, test } from 'vitest';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { materialize } from '../lib/distributed/materialize.js';
import type { ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { Pipeline } from '../lib/distributed/pipeline/pipeline.js';
import { simulate } from '../lib/distributed/simulate.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import { ZeroRedundancyOptimizer } from '../lib/distributed/zero_redundancy_optimizer.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';
import { onMesh, type Run, read, seeded, TIME, tokens, type Values, VOCAB } from './helpers/pipelines.js';

const { nn, optim, amp } = sg;
const [ROWS, MICRO_BATCHES] = [8, 2];

interface Setting {
  readonly sizes: MeshSizes;
  readonly schedule?: ScheduleName;
  readonly stagesPerRank?: number;
  readonly zero?: 1 | 'offload';
  readonly low?: boolean;
  /** In the second step, of one stage of one copy. */
  readonly overflow?: boolean;
}
interface Found extends Run {
  readonly scales: number[];
  readonly skipped: number;
}

const DATA = ['dpReplicate', 'dpShard'] as const;

function makeModel(device: string, low: boolean): sg.nn.GPT {
  return new nn.GPT({ vocabSize: VOCAB, layers: 3, heads: 2, dim: 8, context: TIME, dropout: 0.1, dtype: low ? 'float32' : 'float64', device });
}

async function whole(parameters: Iterable<[string, sg.Tensor]>, of: (p: sg.Tensor) => sg.Tensor | null): Promise<Values> {
  const found: Values = {};
  for (const [name, p] of parameters) {
    const [value, layout] = [of(p), layoutOf(p)];
    if (value) found[name] = await read(sg.noGrad(() => (layout ? fullTensor(setLayout(value.detach().clone(), layout)) : value)));
  }
  return found;
}

type Stepper = sg.optim.AdamW | ZeroRedundancyOptimizer<sg.optim.AdamW> | sg.optim.CPUOffloadOptimizer<sg.optim.AdamW>;

/** What both do around a step; `run` adds gradients and gives the loss. */
async function steps(
  module: sg.nn.Module,
  opt: Stepper,
  scaler: sg.amp.GradScaler | undefined,
  low: boolean,
  run: (step: number) => Promise<sg.Tensor> | sg.Tensor,
): Promise<Found> {
  const found: Found = { losses: [], norms: [], gradients: {}, parameters: {}, scales: [], skipped: 0 };
  for (let s = 0; s < (scaler ? 3 : 2); s++) {
    const loss = await (low ? amp.autocast('bfloat16', () => run(s)) : run(s));
    found.losses.push(await loss.item());
    if (s === 0) found.gradients = await whole(module.namedParameters(), (p) => p.grad);
    if (opt instanceof ZeroRedundancyOptimizer) found.norms.push(await opt.step({ scaler, maxNorm: 0.3 })!.item());
    else {
      if (scaler && !(opt instanceof optim.CPUOffloadOptimizer)) scaler.unscale_(opt);
      found.norms.push(opt instanceof optim.CPUOffloadOptimizer ? 0 : await optim.clipGradNorm(module.parameters(), 0.3).item());
      if (scaler) scaler.step(opt as never);
      else opt.step();
    }
    scaler?.update();
    opt.zeroGrad();
    if (scaler) found.scales.push(await scaler.scale(sg.ones([], { device: module.parameters()[0]!.device })).item());
  }
  found.parameters = await whole(module.namedParameters(), (p) => p);
  return found;
}

/** One parameter, if it is there, has a gradient that is too large in the second step. */
function plantOverflow(module: sg.nn.Module): void {
  const p = new Map(module.namedParameters()).get('transformer.h.2.ln_1.bias');
  let calls = 0;
  p?.registerHook((g) => (++calls > MICRO_BATCHES && calls <= 2 * MICRO_BATCHES ? g.mul(Number.POSITIVE_INFINITY) : g));
}

function alone({ sizes, low = false, overflow = false, zero }: Setting): Promise<Found> {
  return seeded(async () => {
    const model = makeModel('cpu', low);
    if (overflow) plantOverflow(model);
    const opt = new optim.AdamW(model.parameters(), { lr: 0.05 });
    const scaler = overflow ? new amp.GradScaler({ initScale: 8 }) : undefined;
    const copies = (sizes.dpReplicate ?? 1) * (sizes.dpShard ?? 1);
    const made = zero === 'offload' ? new optim.CPUOffloadOptimizer(model.parameters(), (p) => new optim.AdamW(p, { lr: 0.05 })) : opt;
    return steps(model, made, scaler, low, (s) => {
      const normalizer = tokens('cpu', s, 0, ROWS).targets.ne(-100).sum();
      const losses: sg.Tensor[] = [];
      for (let micro = 0; micro < MICRO_BATCHES; micro++) {
        // the same rows together as on the ranks, so that dropout is the same
        const n = ROWS / copies / MICRO_BATCHES;
        const parts = Array.from({ length: copies }, (_, copy) => tokens('cpu', s, (copy * MICRO_BATCHES + micro) * n, (copy * MICRO_BATCHES + micro + 1) * n));
        const loss = model.forward(sg.cat(parts.map((b) => b.inputs)), sg.cat(parts.map((b) => b.targets)), { normalizer });
        (scaler?.scale(loss) ?? loss).backward();
        losses.push(loss.detach());
      }
      return losses.reduce((a, b) => a.add(b));
    });
  });
}

async function inStages(
  mesh: DeviceMesh,
  device: string,
  { sizes, schedule = '1f1b', stagesPerRank, zero, low = false, overflow = false }: Setting,
): Promise<Found> {
  const model = makeModel('meta', low);
  if (sizes.tp) parallelize(model, mesh, gptPlan(model, { sequenceParallel: true }));
  const pipeline = new Pipeline(model, { mesh, schedule, stagesPerRank, microBatches: MICRO_BATCHES });
  if (sizes.dpShard) for (const block of model.transformer.h) if (pipeline.children().includes(block)) fullyShard(block, { mesh, gradientReduction: 'sum' });
  materialize(pipeline);
  if (overflow && mesh.rank('dpReplicate', 'tp') === mesh.size('dpReplicate', 'tp') - 1) plantOverflow(pipeline);
  const make = (p: sg.Tensor[]): sg.optim.AdamW => new optim.AdamW(p, { lr: 0.05 });
  const all = pipeline.parameters();
  const opt = zero === 1 ? new ZeroRedundancyOptimizer(all, make, { mesh }) : zero === 'offload' ? new optim.CPUOffloadOptimizer(all, make) : make(all);
  const scaler = overflow ? new amp.GradScaler({ initScale: 8, group: mesh.world, device: mesh.device }) : undefined;
  const [rank, ranks] = [mesh.rank(...DATA), mesh.size(...DATA)];
  return steps(pipeline, opt, scaler, low, async (s) => {
    const { inputs, targets } = tokens(device, s, (ROWS / ranks) * rank, (ROWS / ranks) * (rank + 1));
    return (await pipeline.step(inputs, targets, { scaler })).loss;
  });
}

function expectAlike(ranks: readonly Found[], one: Found, low: boolean): void {
  const [now, later] = low ? [3e-2, 0.1] : [1e-12, 1e-10];
  for (const { losses, norms, gradients, parameters, scales } of ranks) {
    expectAllClose({ norms }, { norms: one.norms }, later, 'step');
    expectAllClose({ losses, norms }, { losses: one.losses, norms: one.norms }, later, 'step');
    const own = (all: Values, like: Values): Values => Object.fromEntries(Object.keys(like).map((name) => [name, all[name]!]));
    expectAllClose(gradients, own(one.gradients, gradients), now, 'gradient');
    if (!low) expectAllClose(parameters, own(one.parameters, parameters), later, 'parameter');
    for (const other of ranks) {
      const both = Object.keys(parameters).filter((name) => name in other.parameters);
      expect(own(other.parameters, Object.fromEntries(both.map((n) => [n, []])))).toEqual(own(parameters, Object.fromEntries(both.map((n) => [n, []]))));
    }
    expect(scales).toEqual(one.scales);
  }
  expect([...new Set(ranks.flatMap((r) => Object.keys(r.parameters)))].sort()).toEqual(Object.keys(one.parameters).sort());
}

const settings: Setting[] = [
  { sizes: { pp: 2, tp: 2, dpShard: 2 } },
  { sizes: { pp: 2, tp: 2, dpReplicate: 2 }, schedule: 'interleaved', stagesPerRank: 2 },
  { sizes: { pp: 2, tp: 2, dpReplicate: 2 }, schedule: 'zbv', zero: 1 },
  { sizes: { pp: 2, dpReplicate: 2, dpShard: 2 } },
  { sizes: { pp: 2, dpReplicate: 2 }, zero: 1 },
  { sizes: { pp: 2, tp: 2 }, schedule: 'gpipe', zero: 'offload' },
];

describe('float64', () => {
  test.each(settings)('%o', async (setting) => {
    expectAlike(await onMesh(setting.sizes, (mesh, device) => inStages(mesh, device, setting)), await alone(setting), false);
  });
});

describe('autocast to bfloat16', () => {
  test.each<Setting>([
    { sizes: { pp: 2, tp: 2, dpShard: 2 }, low: true },
    { sizes: { pp: 2, tp: 2, dpReplicate: 2 }, low: true },
    { sizes: { pp: 2 }, schedule: 'zb-h1', low: true },
  ])('%o', async (setting) => {
    expectAlike(await onMesh(setting.sizes, (mesh, device) => inStages(mesh, device, setting)), await alone(setting), true);
  });
});

describe('a gradient that overflows on one rank is a step that all ranks leave out', () => {
  test.each<Setting>([
    { sizes: { pp: 2, dpReplicate: 2 }, overflow: true },
    { sizes: { pp: 2 }, schedule: 'zbv', overflow: true },
    { sizes: { pp: 2, tp: 2, dpReplicate: 2 }, zero: 1, overflow: true },
  ])('%o', async (setting) => {
    const found = await onMesh(setting.sizes, (mesh, device) => inStages(mesh, device, setting));
    const one = await alone(setting);
    expect(one.scales).toEqual([8, 4, 4]);
    for (const run of [one, ...found]) run.norms.splice(1, 1); // of gradients that are no numbers
    expectAlike(found, one, false);
  });
});

test('a reduction of sharded stages that does not fit the loss is named before anything is computed, on every rank', async () => {
  const texts = await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ pp: 2 }, { group: world });
    const gpt = new sg.nn.GPT({ vocabSize: 7, layers: 2, heads: 1, dim: 4, context: 4, device });
    const pipeline = new Pipeline(gpt, { mesh, microBatches: 2 });
    for (const block of pipeline.children()) if (block instanceof sg.nn.GPTBlock) fullyShard(block, { mesh });
    const tokens = sg.zeros([2, 4], { dtype: 'int64', device });
    return pipeline.step(tokens, tokens).then(
      () => '',
      (error: Error) => error.message,
    );
  });
  for (const text of texts)
    expect(text).toMatch(/^Pipeline: the loss is divided by .*, but fullyShard of .*GPTBlock.* has gradientReduction 'mean'; pass 'sum'/);
});
