// Modules that are checkpointed, in every parallel form: the bits of the same ranks without checkpoints, and the same collectives on all of them.
import { afterEach, describe, expect, test, vi } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import type { ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { Pipeline } from '../lib/distributed/pipeline/pipeline.js';
import { ProcessGroup } from '../lib/distributed/process_group.js';
import { simulate } from '../lib/distributed/simulate.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';

const { nn, optim } = sg;
const [VOCAB, TIME, ROWS] = [13, 6, 4];

interface Setting {
  readonly sizes: MeshSizes;
  readonly sequenceParallel?: boolean;
  readonly schedule?: ScheduleName;
  readonly reshardAfterForward?: boolean;
  readonly autocast?: boolean;
}
interface Checkpoints {
  readonly which: sg.ModuleChoice;
  readonly options?: sg.CheckpointModulesOptions;
  /** Called when all else has been. */
  readonly last?: boolean;
}
interface Run {
  readonly losses: number[];
  readonly weights: Record<string, number[]>;
  /** Collectives of a step, without those that gather and reduce parameters. */
  readonly calls: number;
}

const read = async (t: sg.Tensor): Promise<number[]> => Array.from((await t.detach().to('float64').toTypedArray()) as Float64Array);
const batch = (device: sg.Device): sg.Tensor =>
  sg
    .arange(0, ROWS * TIME, 1, { dtype: 'int64', device })
    .mul(7)
    .remainder(VOCAB)
    .reshape([ROWS, TIME]);

async function train(mesh: DeviceMesh, { sequenceParallel, schedule, reshardAfterForward, autocast }: Setting, checkpoints: Checkpoints | null): Promise<Run> {
  const { device } = mesh;
  const model = new nn.GPT({ vocabSize: VOCAB, layers: 4, heads: 2, dim: 8, context: TIME, dropout: 0.2, dtype: autocast ? 'float32' : 'float64', device });
  const apply = (): void => void (checkpoints && sg.checkpointModules(model, checkpoints.which, checkpoints.options));
  if (!checkpoints?.last) apply();
  if (mesh.size('tp') > 1) parallelize(model, mesh, gptPlan(model, { sequenceParallel }));
  const pipeline = mesh.size('pp') > 1 ? new Pipeline(model, { mesh, schedule, microBatches: 2, stagesPerRank: schedule === 'zbv' ? 2 : undefined }) : null;
  const sharded = mesh.size('dpShard') > 1;
  if (sharded)
    for (const m of pipeline ? pipeline.children() : [...model.transformer.h, model])
      fullyShard(m, { mesh, reshardAfterForward, gradientReduction: pipeline ? 'sum' : 'mean' });
  const outer = !sharded && !pipeline && mesh.size('dpReplicate') > 1 ? new DistributedDataParallel(model, { group: mesh.group('dpReplicate') }) : model;
  if (checkpoints?.last) apply();
  const trained = (pipeline ?? model).parameters();
  const opt = new optim.SGD(trained, { lr: 0.5 });
  const [rank, each] = [mesh.rank('dpReplicate', 'dpShard'), ROWS / mesh.size('dpReplicate', 'dpShard')];
  const losses: number[] = [];
  const labels: string[] = [];
  const note = (self: ProcessGroup, options: { label?: string } | undefined): void => {
    if (self.device === device && !/parameters|gradients of/.test(options?.label ?? '')) labels.push(options?.label ?? '');
  };
  listeners.push(note);
  for (let step = 0; step < 2; step++) {
    labels.length = 0;
    const rows = batch(device)
      .slice(0, rank * each, (rank + 1) * each)
      .contiguous();
    if (pipeline) losses.push(await (await pipeline.step(rows, rows)).loss.item());
    else {
      const loss = sg.amp.autocast(autocast ? 'bfloat16' : null, () => outer.forward(rows, rows) as sg.Tensor);
      loss.backward();
      losses.push(await loss.item());
    }
    opt.step();
    opt.zeroGrad();
  }
  const weights: Record<string, number[]> = {};
  for (const [name, p] of (pipeline ?? model).namedParameters()) weights[name] = await read(p);
  return { losses, weights, calls: labels.length };
}

type Listener = (self: ProcessGroup, options: { label?: string } | undefined) => void;
let listeners: Listener[] = [];
for (const name of ['allReduce', 'allGather', 'reduceScatter'] as const) {
  const original = ProcessGroup.prototype[name] as (...args: unknown[]) => unknown;
  vi.spyOn(ProcessGroup.prototype, name).mockImplementation(function (this: ProcessGroup, ...args: unknown[]) {
    for (const listener of listeners) listener(this, args[1] as { label?: string });
    return original.apply(this, args) as never;
  });
}
afterEach(() => {
  listeners = [];
});

const onMesh = (setting: Setting, checkpoints: Checkpoints | null): Promise<Run[]> => {
  const ranks = Object.values(setting.sizes).reduce((n, k) => n * k!, 1);
  const seeded = (fn: () => Promise<Run>): Promise<Run> => sg.withGenerator(new sg.Generator(4), fn);
  return simulate(ranks, ({ world }) => seeded(async () => train(await initDeviceMesh(setting.sizes, { group: world }), setting, checkpoints)));
};

const blocks = 'transformer.h.*';
const forms: Record<string, Checkpoints> = {
  'every block': { which: blocks },
  'every second block, last': { which: nn.GPTBlock, options: { every: 2 }, last: true },
  'but for products': { which: blocks, options: { keep: 'expensive' } },
  'products without the wide one': { which: blocks, options: { keep: 'expensive', recompute: ['gelu'] } },
  'attention alone, last': { which: blocks, options: { recompute: 'attention' }, last: true },
  'layers within blocks': { which: ['transformer.h.*.attn', 'transformer.h.*.mlp', 'transformer.h.*'] },
};
const settings: Record<string, Setting> = {
  'tp 2': { sizes: { tp: 2 } },
  'tp 2, sequence parallel': { sizes: { tp: 2 }, sequenceParallel: true },
  'dpReplicate 2': { sizes: { dpReplicate: 2 } },
  'dpShard 2': { sizes: { dpShard: 2 } },
  'dpShard 2, kept whole, autocast': { sizes: { dpShard: 2 }, reshardAfterForward: false, autocast: true },
  'dpShard 2 × tp 2': { sizes: { dpShard: 2, tp: 2 }, sequenceParallel: true },
  'pp 2': { sizes: { pp: 2 }, schedule: '1f1b' },
  'pp 2, zero bubbles': { sizes: { pp: 2 }, schedule: 'zbv' },
  'pp 2 × dpShard 2': { sizes: { pp: 2, dpShard: 2 }, schedule: '1f1b' },
};

describe.each(Object.entries(settings))('%s', (_, setting) => {
  const known = new Map<string, Promise<Run[]>>();
  const once = (name: string, on: Setting): Promise<Run[]> => {
    if (!known.has(name)) known.set(name, onMesh(on, null));
    return known.get(name)!;
  };
  test.each(Object.entries(forms))('%s', async (_, checkpoints) => {
    const without = await once('without checkpoints', setting);
    const [one] = await once('one process', { ...setting, sizes: {}, sequenceParallel: false });
    const found = await onMesh(setting, checkpoints);
    expect(found.map(({ losses, weights }) => ({ losses, weights }))).toEqual(without.map(({ losses, weights }) => ({ losses, weights })));
    // ranks of other axes see other rows, and micro-batches have masks of their own
    if (Object.keys(setting.sizes).join() === 'tp') expectClose(found[0]!.losses, one!.losses, 1e-12, 'losses');
    const calls = found.map((r) => r.calls);
    if (!setting.sizes.pp) expect(new Set(calls).size).toBe(1);
    // what is kept is not sent again; the pieces of a sequence are gathered for a product that runs again
    const gathered = setting.sequenceParallel && Array.isArray(checkpoints.options?.recompute) ? 4 : 0;
    if (setting.sizes.tp && checkpoints.options?.every === undefined) {
      const before = without[0]!.calls;
      if (checkpoints.options) expect(calls[0]).toBe(before + gathered);
      else expect(calls[0]).toBeGreaterThan(before);
    }
  });
});
