// Models of the package's own transformer modules, spread by transformerPlan, are what they are in one process: with dropout, masks of every kind,
// cross-attention, grouped and rotary heads, and heads and features that do not divide.
import { describe, expect, test } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { layoutOf } from '../lib/distributed/distribute.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { simulate } from '../lib/distributed/simulate.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import { transformerPlan } from '../lib/distributed/tensor_parallel/transformer_plan.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';
import { type Values, whole } from './helpers/whole.js';

const { nn, optim } = sg;
const [BATCH, TIME, VOCAB] = [4, 7, 11];
const numbers = (shape: readonly number[], device: string, seed = 1): sg.Tensor =>
  sg.fromTypedArray(
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin((i + 1) * seed * 1.3)),
    [...shape],
    { device },
  );

interface Setting {
  readonly heads: number;
  readonly keyHeads?: number;
  readonly dropout?: number;
  readonly normFirst?: boolean;
  readonly sequenceParallel?: boolean;
  readonly kdim?: number;
  readonly rotary?: boolean;
  readonly masks?: 'padding' | 'per head' | 'learned';
  readonly bias?: boolean;
}

/** An encoder, queries that attend to what it makes, and a gated block. */
class Model extends nn.Module {
  embed: sg.nn.Embedding;
  layers: sg.nn.ModuleList<sg.nn.TransformerEncoderLayer>;
  keys: sg.nn.Linear;
  cross: sg.nn.MultiheadAttention;
  gated: sg.nn.SwiGLU;
  head: sg.nn.Linear;
  slopes: sg.nn.Parameter;
  constructor(
    device: string,
    private readonly setting: Setting,
  ) {
    super();
    const { heads, keyHeads, dropout = 0, normFirst, kdim, rotary, bias = true } = setting;
    const [on, width] = [{ dtype: 'float64', device } as const, 2 * heads];
    this.embed = new nn.Embedding(VOCAB, width, on);
    const options = { dimFeedforward: 10, dropout, normFirst, bias, ...on };
    this.layers = new nn.ModuleList(['relu', 'gelu'].map((activation) => new nn.TransformerEncoderLayer(width, heads, { ...options, activation } as object)));
    this.keys = new nn.Linear(width, kdim ?? width, on);
    this.cross = new nn.MultiheadAttention(width, heads, { dropout, numKeyValueHeads: keyHeads, kdim, vdim: kdim, rotary, bias, ...on });
    this.gated = new nn.SwiGLU(width, 7, on);
    this.head = new nn.Linear(width, VOCAB, on);
    this.slopes = new nn.Parameter(numbers([1, heads, 1, 1], device));
  }
  override forward(tokens: sg.Tensor): sg.Tensor {
    const { masks, heads } = this.setting;
    const device = String(tokens.device);
    const [b, t] = tokens.shape as [number, number];
    const causal = sg.triu(sg.ones([t, t], { dtype: 'bool', device }), 1);
    const padding = sg.tensor([false, false, false, false, true, false, true], { device }).expand([b, t]);
    const given: sg.nn.AttentionMasks = !masks
      ? { isCausal: true }
      : masks === 'padding'
        ? { attnMask: causal, keyPaddingMask: padding }
        : masks === 'per head'
          ? { attnMask: numbers([heads, t, t], device).repeat([b, 1, 1]), keyPaddingMask: padding }
          : { attnMask: this.slopes.mul(numbers([t, t], device)) };
    let x = this.embed.forward(tokens);
    for (const layer of this.layers) x = layer.forward(x, given);
    const memory = this.keys.forward(x);
    const y = this.cross.forward(x.slice(1, 0, 5), memory, memory, masks === 'learned' ? { attnMask: given.attnMask!.slice(2, 0, 5) } : {});
    const logits = this.head.forward(this.gated.forward(y.add(x.slice(1, 0, 5))));
    return sg.crossEntropy(logits.reshape([-1, VOCAB]), tokens.slice(1, 2, 7).reshape([-1]));
  }
}

const batch = (device: string, step: number, from: number, to: number): sg.Tensor =>
  sg
    .tensor(
      Array.from({ length: BATCH * TIME }, (_, i) => Math.floor(Math.abs(Math.sin((i + 1) * (step + 2)) * 1000)) % VOCAB),
      { dtype: 'int64', device },
    )
    .reshape([BATCH, TIME])
    .slice(0, from, to)
    .contiguous();

/** Loss and gradients of the first step, parameters after three. */
async function train(device: string, mesh: DeviceMesh | null, setting: Setting): Promise<Values[]> {
  const data = ['dpReplicate', 'dpShard'] as const;
  const [ranks, rank] = mesh ? [mesh.size(...data), mesh.rank(...data)] : [1, 0];
  return sg.withGenerator(new sg.Generator(5), async () => {
    const model = new Model(device, setting);
    if (mesh) parallelize(model, mesh, { ...transformerPlan(model, setting), embed: { style: 'vocabEmbedding' } });
    const sharded = mesh !== null && mesh.size('dpShard') > 1;
    if (sharded) for (const part of [...model.layers, model.cross, model]) fullyShard(part, { mesh });
    const outer = mesh && !sharded && ranks > 1 ? new DistributedDataParallel(model, { group: mesh.group('dpReplicate'), findUnusedParameters: true }) : model;
    const opt = new optim.SGD(model.parameters(), { lr: 0.3 });
    const found: Values[] = [];
    for (let step = 0; step < 3; step++) {
      const loss = outer.forward(batch(device, step, (rank * BATCH) / ranks, ((rank + 1) * BATCH) / ranks));
      loss.backward();
      if (step === 0 && ranks === 1) found.push({ loss: [await loss.item()] });
      if (step === 0) found.push(await whole(model, (p) => p.grad));
      opt.step();
      opt.zeroGrad();
    }
    return [...found, await whole(model, (p) => p)];
  });
}

const settings: Setting[] = [
  { heads: 12 },
  { heads: 12, dropout: 0.2, masks: 'padding' },
  { heads: 12, dropout: 0.2, masks: 'per head', normFirst: true, bias: false },
  { heads: 12, masks: 'learned', rotary: true },
  { heads: 12, keyHeads: 6, dropout: 0.2, kdim: 5 },
  { heads: 12, keyHeads: 2, rotary: true, kdim: 5 },
];
const bounds = [1e-12, 1e-12, 1e-10];

describe.each([1, 2, 3, 4])('%i ranks', (tp) => {
  const fitting = settings.filter(({ keyHeads = 12 }) => keyHeads % tp === 0 || tp % keyHeads === 0);
  test.each(fitting.flatMap((s): Setting[] => [s, { ...s, sequenceParallel: true }]))('%o', async (setting) => {
    const expected = await train('cpu', null, setting);
    const found = await simulate(tp, async ({ world, device }) => train(String(device), await initDeviceMesh({ tp }, { group: world }), setting));
    for (const values of found) {
      values.forEach((v, i) => expectAllClose(v, expected[i]!, bounds[i]!, ['loss', 'gradient of', 'parameter'][i]!));
      expect(values.slice(1), 'the same bits on all ranks').toEqual(found[0]!.slice(1));
    }
  });
});

test.each([false, true])('heads that do not divide, sequence parallel %s', async (sequenceParallel) => {
  for (const setting of [
    { heads: 5, dropout: 0.2, masks: 'per head', sequenceParallel },
    { heads: 10, keyHeads: 5, dropout: 0.2, kdim: 5, sequenceParallel },
  ] as const) {
    const expected = await train('cpu', null, setting);
    const found = await simulate(3, async ({ world, device }) => train(String(device), await initDeviceMesh({ tp: 3 }, { group: world }), setting));
    for (const values of found) values.forEach((v, i) => expectAllClose(v, expected[i]!, bounds[i]!, 'value of'));
  }
});

test.each<MeshSizes>([{ dpShard: 2, tp: 2 }, { dpShard: 2 }])('fully sharded on %o, with dropout of attention weights', async (sizes) => {
  const setting: Setting = { heads: 12, dropout: 0.2, masks: 'learned', sequenceParallel: true };
  const [, ...expected] = await train('cpu', null, setting);
  const ranks = Object.values(sizes).reduce((a, b) => a! * b!, 1)!;
  const found = await simulate(ranks, async ({ world, device }) => train(String(device), await initDeviceMesh({ tp: 1, ...sizes }, { group: world }), setting));
  for (const values of found) values.forEach((v, i) => expectAllClose(v, expected[i]!, 1e-10, 'value of'));
});

test('a run of layers hands its pieces on; the masks of the heads are those of their rank', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const on = { dtype: 'float64', device: String(device) } as const;
    const layer = (): sg.nn.TransformerEncoderLayer => new nn.TransformerEncoderLayer(8, 4, { ...on, dimFeedforward: 6 });
    const model = new nn.Sequential(layer(), layer(), new nn.Linear(8, 8, on), layer());
    const plan = transformerPlan(model, { sequenceParallel: true });
    expect(plan).toMatchObject({
      0: { style: 'blockOnSequence', first: true, last: false },
      1: { style: 'blockOnSequence', first: false, last: true },
      3: { style: 'blockOnSequence', first: true, last: true },
      '3.self_attn': { style: 'attention', sequenceParallel: true },
      '0.dropout': { style: 'features', size: 6 },
    });
    parallelize(model, mesh, plan);
    const times: (readonly number[])[] = [];
    for (const m of model.modules()) if (m instanceof nn.LayerNorm) m.registerForwardHook((_m, [x]) => void times.push((x as sg.Tensor).shape));
    expect(model.forward(sg.zeros([2, 5, 8], on)).shape).toEqual([2, 5, 8]);
    expect(times).toEqual(Array.from({ length: 6 }, () => [2, world.rank === 0 ? 3 : 2, 8]));
    expect((model.get(0) as sg.nn.TransformerEncoderLayer).self_attn.shared).toMatchObject({ heads: 2, keyHeads: 2, first: 2 * world.rank });
  });
});

test('misuse is named', async () => {
  await simulate(3, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 3 }, { group: world });
    const on = { device: String(device) };
    expect(() => transformerPlan(3 as never)).toThrow(/transformerPlan: expected a module, got/);
    expect(() => transformerPlan(new nn.Linear(2, 2, on))).toThrow(/no TransformerEncoderLayer, MultiheadAttention or SwiGLU in Linear/);
    expect(() => transformerPlan(new nn.MultiheadAttention(4, 2, on))).toThrow(/the model itself is a MultiheadAttention; put it into another/);
    const alone = new nn.TransformerEncoderLayer(4, 4, on);
    expect(() => transformerPlan(alone, { sequenceParallel: true })).toThrow(/the model itself is a TransformerEncoderLayer/);
    expect(Object.keys(transformerPlan(alone))).toContain('self_attn');
    expect(() => transformerPlan(new nn.Sequential(alone, alone), { sequenceParallel: true })).toThrow(/the layer at "1" is elsewhere as well/);
    const few = new nn.Sequential(new nn.TransformerEncoderLayer(4, 4, on));
    expect(() => parallelize(few, mesh, transformerPlan(few))).toThrow(/parallelize: 4 heads of "0.self_attn" leave one of 3 ranks without any/);
    for (const p of few.get(0).children()[0]!.parameters()) expect(layoutOf(p)).toBe(null);
    const grouped = new nn.Sequential(new nn.MultiheadAttention(8, 8, { numKeyValueHeads: 2, ...on }));
    expect(() => parallelize(grouped, mesh, transformerPlan(grouped))).toThrow(/8 query heads do not divide over 3 ranks/);
    expect(() => parallelize(new nn.Sequential(new nn.Linear(2, 2, on)), mesh, { 0: { style: 'attention' } })).toThrow(
      /the style attention is for MultiheadAttention/,
    );
  });
});
