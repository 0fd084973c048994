// Checkpoints of pipelines: every rank writes its stages under the names of the whole model, and any other cut of the model over ranks, one process
// included, loads them and goes on as the run that was saved would have; optimizer, schedule and scaler too.
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { checkpoint } from '../lib/cli/checkpoint.js';
import { loadCheckpoint } from '../lib/distributed/checkpoint/load.js';
import { saveCheckpoint, saveCheckpointAsync } from '../lib/distributed/checkpoint/save.js';
import { loadTensors } from '../lib/distributed/checkpoint/tensors.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf } from '../lib/distributed/distribute.js';
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

const { nn, optim, amp } = sg;
type Values = Record<string, ArrayLike<number>>;
const [VOCAB, TIME, LAYERS, ROWS, BEFORE, AFTER] = [12, 5, 6, 16, 2, 2];
let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'shardgrad-pipeline-'));
});
afterAll(() => rm(root, { recursive: true, force: true }));

interface Topology {
  readonly sizes: MeshSizes;
  readonly schedule?: ScheduleName;
  readonly stagesPerRank?: number;
  readonly zero?: 1 | 2 | 3 | 'offload';
}
const ranksOf = ({ sizes }: Topology): number => Object.values(sizes).reduce((n, k) => n * k!, 1);

/** Nothing to it: one process without a pipeline. */
const topologies: Record<string, Topology> = {
  'one process': { sizes: {} },
  'pp 2': { sizes: { pp: 2 } },
  'pp 4': { sizes: { pp: 4 }, schedule: 'gpipe' },
  'interleaved pp 2': { sizes: { pp: 2 }, schedule: 'interleaved', stagesPerRank: 3 },
  'zbv pp 3': { sizes: { pp: 3 }, schedule: 'zbv' },
  'pp 2 × tp 2, offloaded': { sizes: { pp: 2, tp: 2 }, zero: 'offload' },
  'pp 2 × dpShard 2, ZeRO-3': { sizes: { pp: 2, dpShard: 2 }, zero: 3 },
  'pp 2 × dpReplicate 2 × dpShard 2, ZeRO-2': { sizes: { pp: 2, dpReplicate: 2, dpShard: 2 }, zero: 2 },
  'pp 3 × dpReplicate 2, ZeRO-1': { sizes: { pp: 3, dpReplicate: 2 }, zero: 1 },
  'pp 2 × dpReplicate 2 × tp 2, ZeRO-1': { sizes: { pp: 2, dpReplicate: 2, tp: 2 }, zero: 1 },
};

function makeModel(device: string): sg.nn.GPT {
  return new nn.GPT({ vocabSize: VOCAB, layers: LAYERS, heads: 2, dim: 8, context: TIME, dtype: 'float64', device });
}

type AdamW = sg.optim.AdamW;
class Run {
  readonly model: sg.nn.Module;
  readonly optimizer: AdamW;
  readonly schedule: sg.optim.CosineAnnealingLR;
  readonly scaler: sg.amp.GradScaler;
  private readonly stepper: AdamW | ZeroRedundancyOptimizer<AdamW> | sg.optim.CPUOffloadOptimizer<AdamW>;
  step = 0;
  losses: number[] = [];

  constructor(
    { sizes, schedule = '1f1b', stagesPerRank, zero }: Topology,
    private readonly mesh: DeviceMesh,
  ) {
    const group = mesh.world;
    const model = makeModel(sizes.pp ? 'meta' : String(mesh.device));
    if (sizes.tp) parallelize(model, mesh, gptPlan(model));
    this.model = model;
    if (sizes.pp) {
      const pipeline = new Pipeline(model, { mesh, schedule, stagesPerRank, microBatches: 4 });
      const options = { mesh, gradientReduction: 'sum', reshardAfterForward: zero === 3 } as const;
      if (zero === 2 || zero === 3) for (const m of pipeline.children()) if (m.parameters().length > 0) fullyShard(m, options);
      this.model = materialize(pipeline);
    }
    const make = (parameters: sg.Tensor[]): AdamW =>
      new optim.AdamW(
        [
          { params: parameters.filter((p) => p.ndim >= 2), weightDecay: 0.1 },
          { params: parameters.filter((p) => p.ndim < 2), weightDecay: 0 },
        ],
        { lr: 0.05 },
      );
    const all = this.model.parameters();
    if (zero === 1) this.stepper = new ZeroRedundancyOptimizer(all, make, { mesh });
    else this.stepper = zero === 'offload' ? new optim.CPUOffloadOptimizer(all, make) : make(all);
    this.optimizer = this.stepper instanceof optim.Optimizer ? this.stepper : this.stepper.optimizer;
    this.schedule = new optim.CosineAnnealingLR(this.optimizer, { tMax: 10 });
    this.scaler = new amp.GradScaler({ initScale: 8, growthInterval: 3, group });
  }

  get state(): { model: sg.nn.Module; optimizer: AdamW; schedule: sg.optim.CosineAnnealingLR; scaler: sg.amp.GradScaler } {
    const { model, optimizer, schedule, scaler } = this;
    return { model, optimizer, schedule, scaler };
  }

  async train(steps: number): Promise<void> {
    const { mesh, model, scaler, stepper } = this;
    const data = ['dpReplicate', 'dpShard'] as const;
    const [rank, ranks] = [mesh.rank(...data), mesh.size(...data)];
    for (const end = this.step + steps; this.step < end; this.step++) {
      const token = (row: number, t: number): number => (this.step * 7 + row * 5 + t * 3 + (row * t) ** 2) % VOCAB;
      const grid = (ahead: number): sg.Tensor =>
        sg.tensor(
          Array.from({ length: ROWS / ranks }, (_, i) => Array.from({ length: TIME }, (_, t) => token((rank * ROWS) / ranks + i, t + ahead))),
          { dtype: 'int64', device: mesh.device },
        );
      if (model instanceof Pipeline) this.losses.push(await (await model.step(grid(0), grid(1), { scaler })).loss.item());
      else {
        const loss = (model as sg.nn.GPT).forward(grid(0), grid(1));
        scaler.scale(loss).backward();
        this.losses.push(await loss.item());
      }
      if (stepper instanceof optim.Optimizer) {
        scaler.unscale_(stepper);
        optim.clipGradNorm(model.parameters(), 0.5);
        scaler.step(stepper);
      } else stepper.step({ scaler, maxNorm: 0.5 });
      scaler.update();
      stepper.zeroGrad();
      this.schedule.step();
    }
  }

  async values(): Promise<Values> {
    const found: Values = {};
    for (const [name, p] of this.model.namedParameters()) {
      const whole = layoutOf(p) ? fullTensor(p) : p.detach();
      found[name] = (await whole.toTypedArray()) as Float64Array;
    }
    return found;
  }
}

const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(3), fn);
const on = <T>(topology: Topology, fn: (mesh: DeviceMesh, rank: number) => Promise<T>): Promise<T[]> =>
  simulate(ranksOf(topology), ({ world, rank }) => seeded(async () => fn(await initDeviceMesh(topology.sizes, { group: world }), rank)));

interface Result {
  readonly losses: readonly number[];
  readonly parameters: Values;
}
/** The run that is never interrupted, with what it had when the others are saved. */
let one: Result;
beforeAll(async () => {
  const results = await on({ sizes: {} }, async (mesh) => {
    const run = new Run({ sizes: {} }, mesh);
    await run.train(BEFORE + AFTER);
    return { losses: run.losses, parameters: await run.values() };
  });
  one = results[0]!;
});

function expectSame(results: readonly Result[], losses: readonly number[]): void {
  for (const result of results) {
    expectAllClose({ losses: result.losses }, { losses }, 1e-10, 'loss');
    const own = Object.fromEntries(Object.keys(result.parameters).map((name) => [name, one.parameters[name]!]));
    expectAllClose(result.parameters, own, 1e-10, 'parameter');
  }
}

const folderOf = (name: string): string => join(root, name.replaceAll(/\W+/g, '-'));

describe.each(Object.entries(topologies))('saved by %s', (name, topology) => {
  beforeAll(async () => {
    const results = await on(topology, async (mesh, rank) => {
      const run = new Run(topology, mesh);
      await run.train(BEFORE);
      const save = rank % 2 ? saveCheckpoint : async (...args: Parameters<typeof saveCheckpointAsync>) => (await saveCheckpointAsync(...args)).done;
      await save(folderOf(name), { ...run.state, step: run.step }, { group: mesh.world });
      await run.train(AFTER);
      return { losses: run.losses, parameters: await run.values() };
    });
    expectSame(results, one.losses);
  });

  test.each(Object.entries(topologies))('%s goes on', async (_, other) => {
    const results = await on(other, async (mesh) => {
      sg.randn([3]); // another state of the generator
      const run = new Run(other, mesh);
      for (const p of run.model.parameters()) sg.noGrad(() => p.fill_(0.25));
      const saved = await loadCheckpoint(folderOf(name), run.state, { group: mesh.world });
      expect(saved.step).toBe(BEFORE);
      run.step = saved.step;
      await run.train(AFTER);
      return { losses: run.losses, parameters: await run.values() };
    });
    expectSame(results, one.losses.slice(BEFORE));
    expect([...new Set(results.flatMap((r) => Object.keys(r.parameters)))].sort()).toEqual(Object.keys(one.parameters).sort());
  });
});

test('each tensor is written once, also an embedding that two ranks have, and its state', async () => {
  const names: Record<string, string[]> = {};
  for (const name of Object.keys(topologies)) {
    const folder = join(folderOf(name), 'step-00000002');
    const elements = new Map<string, number>();
    for (const file of (await readdir(folder)).filter((f) => f.endsWith('.safetensors'))) {
      const bytes = await readFile(join(folder, file));
      const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString()) as Record<string, { shape: number[] }>;
      for (const [tensor, { shape }] of Object.entries(header).filter(([key]) => key !== '__metadata__'))
        elements.set(tensor, (elements.get(tensor) ?? 0) + shape.reduce((n, k) => n * k, 1));
    }
    names[name] = [...elements].map(([tensor, n]) => `${tensor} ${n}`).sort();
    expect(elements.has('model.lm_head.weight')).toBe(false);
    expect(elements.get('optimizer.state.transformer.wte.weight.exp_avg')).toBe(VOCAB * 8);
  }
  for (const found of Object.values(names)) expect(found).toEqual(names['one process']);
});

describe('the command', () => {
  async function run(...args: string[]): Promise<string> {
    let out = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      out += text;
      return true;
    });
    try {
      expect(await checkpoint(args)).toBe(0);
      return out;
    } finally {
      vi.restoreAllMocks();
    }
  }

  test.each(Object.keys(topologies))('of %s', async (name) => {
    const folder = folderOf(name);
    const shown = await run('inspect', folder, '--tensors');
    const count = 2 + 12 * LAYERS + 2;
    expect(shown).toContain(`  model        ${count} tensors,`);
    expect(shown).toContain(`  optimizer    ${2 * count} tensors,`);
    expect(await run('verify', folder)).toContain(`${3 * count} tensors`);
    const file = join(root, 'merged.safetensors');
    expect(await run('merge', folder, file)).toContain(`${count + 1} tensors of model`);
    // with the names of the model, all of them
    const whole = makeModel('cpu');
    whole.loadStateDict(await sg.io.loadSafetensors(file));
    await on(topologies['pp 4']!, async (mesh) => {
      const pipeline = materialize(new Pipeline(makeModel('meta'), { mesh, microBatches: 4 }));
      pipeline.loadStateDict(await sg.io.loadSafetensors(file, { device: mesh.device }));
      for (const [key, p] of pipeline.namedParameters())
        expect(await p.detach().toArray()).toEqual(await new Map(whole.namedParameters()).get(key)!.detach().toArray());
    });
  });
});

test('loadTensors fills the stages of a pipeline, a shared tensor under its first name or all of them', async () => {
  const whole = makeModel('cpu');
  const { 'lm_head.weight': _, ...rest } = whole.stateDict();
  for (const [i, state] of [whole.stateDict(), rest].entries()) {
    const folder = join(root, `plain-${i}`);
    await sg.io.saveShardedSafetensors(folder, state);
    const topology = topologies['pp 2 × dpShard 2, ZeRO-3']!;
    const ranks = await on(topology, async (mesh) => {
      const run = new Run(topology, mesh);
      await loadTensors(folder, run.model);
      return run.values();
    });
    for (const found of ranks) for (const [key, p] of whole.namedParameters()) if (found[key]) expect(found[key]).toEqual(await p.detach().toTypedArray());
  }
});

test('mistakes are named', async () => {
  await on({ sizes: { pp: 2 } }, async (mesh, rank) => {
    const run = new Run({ sizes: { pp: 2 } }, mesh);
    const { model } = run.model as Pipeline;
    const where = { group: mesh.world, timeoutMs: 5000 };
    await run.train(1);
    const folder = join(root, 'mistakes');
    await expect(saveCheckpoint(folder, { model, step: 1 }, where)).rejects.toThrow(
      /saveCheckpoint: model: "transformer.* is on device meta .* that of the Pipeline/,
    );
    await expect(saveCheckpoint(folder, { optimizer: run.optimizer, step: 1 }, where)).rejects.toThrow(
      /parameters of a Pipeline, which is not among the states/,
    );
    const odd = new optim.SGD(rank ? [{ params: run.model.parameters() }] : [{ params: run.model.parameters() }, { params: [] }], { lr: 1, momentum: 0.9 });
    await expect(saveCheckpoint(folder, { model: run.model, odd, step: 1 }, where)).rejects.toThrow(
      /odd.paramGroups has 2 items on one stage and 1 on another/,
    );
    await saveCheckpoint(folder, { model: run.model, step: 1 }, where);
    await expect(loadCheckpoint(folder, { model }, where)).rejects.toThrow(/loadCheckpoint: model: "transformer.* is on device meta/);
    // it would be in no checkpoint, and without memory on every rank
    const stray = makeModel('meta');
    stray.registerBuffer('scale', sg.ones([1], { device: mesh.device }));
    expect(() => new Pipeline(stray, { mesh, microBatches: 2 })).toThrow(
      'Pipeline: buffer "scale" is in none of the layers that pipelineLayers() of GPT gives',
    );
    await expect(loadCheckpoint(folder, { model: new nn.Linear(2, 2) }, where)).rejects.toThrow(/keys do not match Linear/);
  });
});
