// Tensor parallelism with what else there is, for a model with grouped queries and gated blocks: every form of data parallelism, clipping, frozen
// weights, loss scaling, recomputation, checkpoints that another mesh loads.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadCheckpoint } from '../lib/distributed/checkpoint/load.js';
import { saveCheckpoint } from '../lib/distributed/checkpoint/save.js';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { simulate } from '../lib/distributed/simulate.js';
import { gateUpBlocks, qkvBlocks } from '../lib/distributed/tensor_parallel/column_linear.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';
import { type Values, whole } from './helpers/whole.js';

const { nn, optim } = sg;
const [BATCH, TIME, DIM, HEADS, KEYS, HEAD, HIDDEN] = [4, 8, 8, 4, 2, 3, 10] as const;

/** A block of a Llama, as far as matters here. */
class Block extends nn.Module {
  norm1: sg.nn.RMSNorm;
  qkv: sg.nn.Linear;
  proj: sg.nn.Linear;
  norm2: sg.nn.RMSNorm;
  gateUp: sg.nn.Linear;
  down: sg.nn.Linear;
  constructor(on: sg.nn.FactoryOptions, bias: boolean) {
    super();
    this.norm1 = new nn.RMSNorm(DIM, on);
    this.qkv = new nn.Linear(DIM, (HEADS + 2 * KEYS) * HEAD, { ...on, bias });
    this.proj = new nn.Linear(HEADS * HEAD, DIM, { ...on, bias });
    this.norm2 = new nn.RMSNorm(DIM, on);
    this.gateUp = new nn.Linear(DIM, 2 * HIDDEN, { ...on, bias });
    this.down = new nn.Linear(HIDDEN, DIM, { ...on, bias });
  }
  override forward(x: sg.Tensor): sg.Tensor {
    const qkv = this.qkv.forward(this.norm1.forward(x));
    const [b, t, width] = qkv.shape as [number, number, number];
    // of this rank: at least one key head
    const total = width / HEAD;
    const keys = Math.max(1, Math.round((total * KEYS) / (HEADS + 2 * KEYS)));
    const queries = total - 2 * keys;
    const [q, k, v] = sg.split(qkv, [queries * HEAD, keys * HEAD, keys * HEAD], -1).map((p) => p.reshape([b, t, -1, HEAD]).permute([0, 2, 1, 3]));
    const y = sg.scaledDotProductAttention(q!, k!, v!, { causal: true });
    const h = x.add(this.proj.forward(y.permute([0, 2, 1, 3]).reshape([b, t, -1])));
    const [gate, up] = sg.chunk(this.gateUp.forward(this.norm2.forward(h)), 2, -1);
    return h.add(this.down.forward(sg.silu(gate!).mul(up!)));
  }
}
class Model extends nn.Module {
  input: sg.nn.Linear;
  blocks: sg.nn.ModuleList<Block>;
  last: sg.nn.RMSNorm;
  constructor(device: string, bias = true) {
    super();
    const on = { dtype: 'float64', device } as const;
    this.input = new nn.Linear(DIM, DIM, on);
    this.blocks = new nn.ModuleList([new Block(on, bias), new Block(on, bias)]);
    this.last = new nn.RMSNorm(DIM, on);
  }
  override forward(x: sg.Tensor): sg.Tensor {
    let y = this.input.forward(x);
    for (const block of this.blocks) y = sg.checkpoint((z: sg.Tensor) => block.forward(z), y);
    return this.last.forward(y).square().mean();
  }
}

function planOf(mesh: DeviceMesh, sequenceParallel: boolean): Parameters<typeof parallelize>[2] {
  const sequence = { style: 'sequence' } as const;
  return {
    'blocks.*.qkv': { style: 'column', sequenceParallel, blocks: qkvBlocks(mesh, { heads: HEADS, keyValueHeads: KEYS, headDim: HEAD }) },
    'blocks.*.proj': { style: 'row', sequenceParallel },
    'blocks.*.gateUp': { style: 'column', sequenceParallel, blocks: gateUpBlocks(HIDDEN) },
    'blocks.*.down': { style: 'row', sequenceParallel },
    ...(sequenceParallel && { input: { style: 'scatterSequence' }, 'blocks.*.norm1': sequence, 'blocks.*.norm2': sequence, last: sequence }),
  };
}

const rows = (device: string, from: number, to: number): sg.Tensor =>
  sg
    .fromTypedArray(
      Float64Array.from({ length: BATCH * TIME * DIM }, (_, i) => Math.sin(i * 1.7)),
      [BATCH, TIME, DIM],
      { device },
    )
    .slice(0, from, to)
    .contiguous();

interface Setting {
  readonly sequenceParallel?: boolean;
  readonly frozen?: readonly string[];
  readonly bias?: boolean;
}

/** The norm of the gradients, clipped gradients, and parameters after three clipped steps. */
async function train(device: string, mesh: DeviceMesh | null, { sequenceParallel = false, frozen = [], bias }: Setting): Promise<Values[]> {
  const data = ['dpReplicate', 'dpShard'] as const;
  sg.manualSeed(2);
  const model = new Model(device, bias);
  for (const [name, p] of model.namedParameters()) p.requiresGrad = !frozen.includes(name);
  if (mesh) parallelize(model, mesh, planOf(mesh, sequenceParallel));
  const sharded = mesh !== null && mesh.size('dpShard') > 1;
  if (mesh && sharded) for (const part of [...model.blocks, model]) fullyShard(part, { mesh });
  const outer = mesh && !sharded && mesh.size('dpReplicate') > 1 ? new DistributedDataParallel(model, { group: mesh.group('dpReplicate') }) : model;
  const opt = new optim.SGD(model.parameters(), { lr: 0.1 });
  const [rank, each] = mesh ? [mesh.rank(...data), BATCH / mesh.size(...data)] : [0, BATCH];
  const found: Values[] = [];
  for (let step = 0; step < 3; step++) {
    const loss = outer.forward(rows(device, rank * each, (rank + 1) * each)) as sg.Tensor;
    // with a piece of the sequence, the mean is that of the piece
    (mesh && sequenceParallel ? loss.div(mesh.size('tp')) : loss).backward();
    const norm = optim.clipGradNorm(model.parameters(), 0.01);
    if (step === 0) found.push({ norm: [await norm.item()] }, await whole(model, (p) => p.grad));
    opt.step();
    opt.zeroGrad();
  }
  return [...found, await whole(model, (p) => p)];
}

const everyMesh: [MeshSizes, boolean][] = [
  [{ tp: 2 }, false],
  [{ tp: 2 }, true],
  [{ tp: 4 }, false],
  [{ tp: 4 }, true],
  [{ dpReplicate: 2, tp: 4 }, true],
  [{ dpShard: 2, tp: 4 }, false],
  [{ dpShard: 2, tp: 4 }, true],
  [{ dpReplicate: 2, dpShard: 2, tp: 2 }, true],
];
const settings: Setting[] = [{}, { bias: false }, { frozen: ['blocks.0.qkv.weight', 'blocks.1.norm1.weight', 'input.bias'] }];
test.each(everyMesh.flatMap(([sizes, sequenceParallel]) => settings.map((s) => [sizes, { ...s, sequenceParallel }] as const)))(
  'clipped steps on %o: %o',
  async (sizes, setting) => {
    const expected = await train('cpu', null, setting);
    const ranks = Object.values(sizes).reduce((a, b) => a! * b!, 1)!;
    const found = await simulate(ranks, async ({ world, device }) => train(String(device), await initDeviceMesh(sizes, { group: world }), setting));
    for (const values of found) {
      values.forEach((v, i) => expectAllClose(v, expected[i]!, i < 2 ? 1e-12 : 1e-10, ['norm', 'gradient', 'parameter'][i]!));
      expect(values).toEqual(found[0]);
    }
  },
);

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'shardgrad-tensor-parallel-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

test('a checkpoint of one mesh is loaded by another, optimizer included', async () => {
  const tokens = (device: string, seed: number): sg.Tensor =>
    sg
      .tensor(
        Array.from({ length: 24 }, (_, i) => (i * seed + (i >> 2)) % 11),
        { dtype: 'int64', device },
      )
      .reshape([2, 12]);
  const start = (device: string, mesh: DeviceMesh | null, seed: number): { gpt: sg.nn.GPT; opt: sg.optim.AdamW } => {
    sg.manualSeed(seed);
    const gpt = new nn.GPT({ vocabSize: 11, layers: 1, heads: 6, dim: 12, context: 12, dtype: 'float64', device });
    if (mesh) parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel: mesh.size('tp') === 3 }));
    return { gpt, opt: new optim.AdamW(gpt.parameters(), { lr: 0.01 }) };
  };
  const steps = (device: string, { gpt, opt }: { gpt: sg.nn.GPT; opt: sg.optim.AdamW }, from: number): void => {
    for (let i = from; i < from + 2; i++) {
      gpt.forward(tokens(device, i + 1), tokens(device, i + 2)).backward();
      opt.step();
      opt.zeroGrad();
    }
  };
  const alone = start('cpu', null, 1);
  steps('cpu', alone, 0);
  steps('cpu', alone, 2);
  const expected = await whole(alone.gpt, (p) => p);
  await simulate(2, async ({ world, device }) => {
    const run = start(String(device), await initDeviceMesh({ tp: 2 }, { group: world }), 1);
    steps(String(device), run, 0);
    await saveCheckpoint(root, { model: run.gpt, optimizer: run.opt, step: 2 }, { group: world });
  });
  const found = await simulate(3, async ({ world, device }) => {
    const run = start(String(device), await initDeviceMesh({ tp: 3 }, { group: world }), 9);
    await loadCheckpoint(join(root, 'latest'), { model: run.gpt, optimizer: run.opt }, { group: world });
    steps(String(device), run, 2);
    return whole(run.gpt, (p) => p);
  });
  for (const values of found) expectAllClose(values, expected, 1e-10, 'parameter');
});

test('a gradient that is not finite on one rank skips the step on all', async () => {
  await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    sg.manualSeed(2);
    const model = parallelize(new Model(String(device)), mesh, planOf(mesh, false));
    const opt = new optim.SGD(model.parameters(), { lr: 0.1 });
    const scaler = new sg.amp.GradScaler({ initScale: 8, group: mesh.group('tp'), device });
    const before = await whole(model, (p) => p);
    scaler.scale(model.forward(rows(String(device), 0, 2))).backward();
    const part = model.blocks.get(0).down.weight.grad!;
    if (rank === 1) sg.noGrad(() => part.fill_(Number.POSITIVE_INFINITY));
    scaler.step(opt);
    scaler.update();
    expect(await whole(model, (p) => p)).toEqual(before);
    expect(await scaler.getScale()).toBe(4);
  });
});

test('layers refuse second derivatives by name', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const model = parallelize(new nn.Sequential(new nn.Linear(4, 4, { device })), mesh, { '0': { style: 'column' } });
    const y = (model.forward(sg.ones([2, 4], { device })) as sg.Tensor).sum();
    expect(() => sg.grad(y, model.parameters(), { createGraph: true })).toThrow(/createGraph: no second derivative of ColumnParallelLinear "0"/);
  });
});
