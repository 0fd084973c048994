// Every module against PyTorch: from given parameters under PyTorch's state-dict keys, results, gradients of inputs and of
// parameters, and the buffers after a training step; and what the default initialisations draw.
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { type Case, Golden } from './helpers/golden.js';
import { expectAllClose, expectClose } from './helpers/metric.js';
import { read } from './helpers/tensors.js';

const { nn } = sg;
type Options = Case['options'];

/** Modules that take options alone, or `arguments` alone. */
const plain = (kind: string) => (o: Options) =>
  new (nn as unknown as Record<string, new (...args: unknown[]) => sg.nn.Module>)[kind]!(...((o.arguments as unknown[]) ?? [o]));

class ListModel extends nn.Module {
  layers = new nn.ModuleList([new nn.Linear(4, 4), new nn.Linear(4, 4)]);
  override forward(x: Tensor): Tensor {
    let y = x;
    for (const layer of this.layers) y = layer.forward(y).relu();
    return y;
  }
}
class DictModel extends nn.Module {
  heads = new nn.ModuleDict({ left: new nn.Linear(4, 2), right: new nn.Linear(4, 2) });
  override forward(x: Tensor): Tensor {
    return this.heads.get('left')!.forward(x).mul(this.heads.get('right')!.forward(x));
  }
}

// PyTorch's constructors, written our way; a kind that is missing here takes its options as one object.
const makers: Record<string, (o: Options) => sg.nn.Module> = {
  Linear: ({ inFeatures, outFeatures, ...o }) => new nn.Linear(inFeatures, outFeatures, o),
  Embedding: ({ numEmbeddings, embeddingDim, ...o }) => new nn.Embedding(numEmbeddings, embeddingDim, o),
  LayerNorm: ({ normalizedShape, ...o }) => new nn.LayerNorm(normalizedShape, o),
  RMSNorm: ({ normalizedShape, ...o }) => new nn.RMSNorm(normalizedShape, o),
  GroupNorm: ({ numGroups, numChannels, ...o }) => new nn.GroupNorm(numGroups, numChannels, o),
  BatchNorm1d: ({ numFeatures, ...o }) => new nn.BatchNorm1d(numFeatures, o),
  BatchNorm2d: ({ numFeatures, ...o }) => new nn.BatchNorm2d(numFeatures, o),
  Dropout: (o) => new nn.Dropout(o.p),
  LeakyReLU: (o) => new nn.LeakyReLU(o.negativeSlope),
  ELU: (o) => new nn.ELU(o.alpha),
  Softmax: (o) => new nn.Softmax(o.dim),
  LogSoftmax: (o) => new nn.LogSoftmax(o.dim),
  SwiGLU: (o) => new nn.SwiGLU(o.dim, o.hidden),
  MultiheadAttention: ({ embedDim, numHeads, ...o }) => new nn.MultiheadAttention(embedDim, numHeads, o),
  TransformerEncoderLayer: ({ dModel, nhead, isCausal, ...o }) => new nn.TransformerEncoderLayer(dModel, nhead, { dropout: 0, ...o }),
  Conv1d: ({ inChannels, outChannels, kernelSize, ...o }) => new nn.Conv1d(inChannels, outChannels, kernelSize, o),
  Conv2d: ({ inChannels, outChannels, kernelSize, ...o }) => new nn.Conv2d(inChannels, outChannels, kernelSize, o),
  ConvTranspose1d: ({ inChannels, outChannels, kernelSize, ...o }) => new nn.ConvTranspose1d(inChannels, outChannels, kernelSize, o),
  ConvTranspose2d: ({ inChannels, outChannels, kernelSize, ...o }) => new nn.ConvTranspose2d(inChannels, outChannels, kernelSize, o),
  TransformerDecoderLayer: ({ dModel, nhead, ...o }) => new nn.TransformerDecoderLayer(dModel, nhead, o),
  TransformerEncoder: ({ dModel, nhead, ...o }) =>
    new nn.TransformerEncoder(() => new nn.TransformerEncoderLayer(dModel, nhead, o), 2, new nn.LayerNorm(dModel)),
  TransformerDecoder: ({ dModel, nhead, ...o }) => new nn.TransformerDecoder(() => new nn.TransformerDecoderLayer(dModel, nhead, o), 2),
  Transformer: ({ dModel, nhead, ...o }) => new nn.Transformer(dModel, nhead, o),
  PixelShuffle: (o) => new nn.PixelShuffle(o.factor),
  PixelUnshuffle: (o) => new nn.PixelUnshuffle(o.factor),
  Unfold: ({ kernelSize, ...o }) => new nn.Unfold(kernelSize, o),
  Fold: ({ outputSize, kernelSize, ...o }) => new nn.Fold(outputSize, kernelSize, o),
  MaxPool2d: ({ kernelSize, ...o }) => new nn.MaxPool2d(kernelSize, o),
  AvgPool2d: ({ kernelSize, ...o }) => new nn.AvgPool2d(kernelSize, o),
  LSTM: ({ inputSize, hiddenSize, ...o }) => new nn.LSTM(inputSize, hiddenSize, o),
  GRU: ({ inputSize, hiddenSize, ...o }) => new nn.GRU(inputSize, hiddenSize, o),
  Sequential: () => new nn.Sequential(new nn.Linear(4, 6), new nn.GELU(), new nn.Linear(6, 2)),
  ModuleList: () => new ListModel(),
  ModuleDict: () => new DictModel(),
};
/** Borders take their padding, and constant ones a value. */
const padding = (kind: string) => (o: Options) =>
  new (nn as unknown as Record<string, new (padding: number[], value?: number) => sg.nn.Module>)[kind]!(o.padding, o.value);
const build = (kind: string, options: Options): sg.nn.Module => (makers[kind] ?? (/Pad[12]d$/.test(kind) ? padding(kind) : plain(kind)))(options);

/** Calls the forward as the case did; states of recurrent modules come out flat. */
function forward(c: Case, module: any, x: Tensor[]): Tensor[] {
  if (c.kind === 'MultiheadAttention') return [module.forward(...x.slice(0, 3), ...(x.length === 4 ? [{ keyPaddingMask: x[3] }] : []))];
  if (c.kind === 'TransformerEncoderLayer') return [module.forward(x[0], { keyPaddingMask: x[1] ?? null, isCausal: c.options.isCausal ?? false })];
  const memory = { memory: { keyPaddingMask: x[2] ?? null }, tgt: { isCausal: true } };
  if (c.kind.startsWith('TransformerDecoder')) return [module.forward(x[0], x[1], memory)];
  if (c.kind === 'Transformer') return [module.forward(x[0], x[1], { src: memory.memory, ...memory })];
  if (c.kind === 'LSTM') return module.forward(x[0], x[1] && [x[1], x[2]]).flat();
  return [module.forward(...x)].flat();
}

const modules = new Golden('modules');
const numbersUnder = (prefix: string): Record<string, ArrayLike<number>> =>
  Object.fromEntries(modules.names(prefix).map((key) => [key, modules.values(`${prefix}${key}`) as Float32Array]));

const tolerances = { float32: { forward: 5e-6, gradient: 2e-5 }, float64: { forward: 3e-7, gradient: 3e-7 } };

function check(c: Case, float: 'float32' | 'float64', device: string): void {
  const module = build(c.kind, c.options).to(float).to(device);
  const keys = modules.names(`${c.name}/state/`);
  expect(Object.keys(module.stateDict()), "keys and their order are PyTorch's").toEqual(expect.arrayContaining(keys));
  const loaded = module.loadStateDict(Object.fromEntries(keys.map((key) => [key, modules.tensor(`${c.name}/state/${key}`, float)])));
  expect(loaded).toEqual({ missing: [], unexpected: [] });
  module.train(c.training);
  const inputs = Array.from({ length: c.inputs }, (_, i) => modules.tensor(`${c.name}/in${i}`, float, device));
  for (const i of c.grads) inputs[i]!.requiresGrad = true;

  const outputs = forward(c, module, inputs);
  expect(outputs.length).toBe(c.outputs);
  outputs.forEach((y, i) => {
    expect([...y.shape]).toEqual([...modules.shape(`${c.name}/out${i}`)]);
    expectClose(read(y).data, modules.values(`${c.name}/out${i}`), tolerances[float].forward, `result ${i}`);
  });
  outputs.forEach((y, i) => y.backward({ gradient: modules.tensor(`${c.name}/cot${i}`, float, device), retainGraph: i < outputs.length - 1 }));
  for (const i of c.grads) expectClose(read(inputs[i]!.grad!).data, modules.values(`${c.name}/grad${i}`), tolerances[float].gradient, `gradient of input ${i}`);

  const gradients = Object.fromEntries([...module.namedParameters()].map(([key, p]) => [key, read(p.grad!).data]));
  expectAllClose(gradients, numbersUnder(`${c.name}/param/`), tolerances[float].gradient, 'gradient of');
  const state = module.stateDict();
  for (const [key, expected] of Object.entries(numbersUnder(`${c.name}/after/`)))
    expectClose(read(state[key]!).data, expected, tolerances[float].forward, `${key} afterwards`);
}

describe.each(devices)('modules on %s', (device) => {
  test.each(modules.cases.map((c) => [`${c.name} ${JSON.stringify(c.options)}${c.training ? '' : ', eval'}`, c] as const))('%s', (_, c) => {
    for (const float of ['float32', 'float64'] as const) sg.scope(() => check(c, float, device));
  });
});

describe('initialisation', () => {
  const golden = new Golden('initialization');

  interface Statistics {
    readonly mean: number;
    readonly std: number;
    readonly bound: number;
    readonly count: number;
  }

  /** Two samples of one law agree within a few standard errors; the bound of a bounded law within a step to it. */
  function compare(t: Tensor, expected: Statistics, bounded: boolean, label: string): void {
    const { data } = read(t);
    expect(data.length, label).toBe(expected.count);
    const mean = data.reduce((a, b) => a + b, 0) / data.length;
    const std = Math.sqrt(data.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(1, data.length - 1));
    const error = 6 / Math.sqrt(expected.count);
    expect(Math.abs(std - expected.std), `${label}: deviation ${std}, PyTorch's ${expected.std}`).toBeLessThanOrEqual(error * expected.std + 1e-5);
    expect(Math.abs(mean - expected.mean), `${label}: mean ${mean}, PyTorch's ${expected.mean}`).toBeLessThanOrEqual(2 * error * Math.max(expected.std, 1e-5));
    if (!bounded) return;
    const bound = data.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    expect(Math.abs(bound - expected.bound), `${label}: bound ${bound}, PyTorch's ${expected.bound}`).toBeLessThanOrEqual(
      (20 / expected.count) * expected.bound + 1e-5,
    );
  }

  test.each(golden.cases.filter((c) => c.kind === 'module').map((c) => [c.module, c] as const))('%s', (kind, c) => {
    sg.manualSeed(3);
    const parameters = Object.fromEntries(build(kind, c.options).namedParameters());
    expect(Object.keys(parameters)).toEqual(Object.keys(c.parameters));
    for (const [key, expected] of Object.entries(c.parameters as Record<string, Statistics>))
      compare(parameters[key]!, expected, kind !== 'Embedding', `${kind} ${key}`);
  });

  // what PyTorch takes by name, we take in this order
  const draw: Record<string, (t: Tensor, o: Options) => unknown> = {
    uniform_: (t, o) => nn.init.uniform_(t, o.a, o.b),
    normal_: (t, o) => nn.init.normal_(t, o.mean, o.std),
    truncNormal_: (t, o) => nn.init.truncNormal_(t, 0, o.std, o.a, o.b),
    xavierUniform_: (t, o) => nn.init.xavierUniform_(t, o.gain),
    xavierNormal_: (t) => nn.init.xavierNormal_(t),
    kaimingUniform_: (t, o) => nn.init.kaimingUniform_(t, { a: o.a, mode: o.mode === 'fan_out' ? 'fanOut' : 'fanIn', nonlinearity: o.nonlinearity }),
    kaimingNormal_: (t, o) => nn.init.kaimingNormal_(t, { nonlinearity: o.nonlinearity }),
  };

  test.each(golden.cases.filter((c) => c.kind === 'function').map((c) => [`${c.function} ${JSON.stringify(c.options)}`, c] as const))('%s', (_, c) => {
    sg.manualSeed(3);
    const t = sg.empty(c.shape);
    draw[c.function]!(t, c.options);
    compare(t, c.weight, !/^(normal|xavierNormal|kaimingNormal)_/.test(c.function), c.function);
  });

  test('orthogonal_', () => {
    const c = golden.cases.find((x) => x.kind === 'orthogonal')!;
    sg.manualSeed(3);
    const w = sg.empty(c.shape);
    nn.init.orthogonal_(w, c.gain);
    const deviation = w
      .t()
      .matmul(w)
      .sub(sg.eye(c.shape[1]).mul(c.gain ** 2));
    expect(deviation.abs().max().itemSync()).toBeLessThan(1e-4);
  });
});
