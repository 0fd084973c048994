// Every family of operations against PyTorch: results and gradients, in float32 and float64. The cases, with their options under
// our names, are in test/golden/*.json; scripts/goldens.py wrote them.
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { type Case, Golden } from './helpers/golden.js';
import { expectClose } from './helpers/metric.js';
import { read } from './helpers/tensors.js';

type Options = Case['options'];
type Call = (x: Tensor[], o: Options) => Tensor | Tensor[];

const reduction =
  (fn: (x: Tensor, dims?: number | readonly number[] | null, keepdim?: boolean) => Tensor): Call =>
  (x, o) =>
    fn(x[0]!, o.dim ?? null, o.keepdim ?? false);
const along =
  (fn: (x: Tensor, dim: number) => Tensor): Call =>
  (x, o) =>
    fn(x[0]!, o.dim);
/** Losses and the like: tensors, then all options as one object. */
const withOptions =
  (fn: (...args: any[]) => Tensor): Call =>
  (x, o) =>
    fn(...x, o);
const spread =
  (fn: typeof sg.variance): Call =>
  (x, { dim, ...o }) =>
    fn(x[0]!, dim ?? null, o);
const convolution =
  (fn: (x: Tensor, w: Tensor, bias?: Tensor | null, options?: any) => Tensor): Call =>
  (x, o) =>
    fn(x[0]!, x[1]!, x[2]!, o);
const pool =
  (fn: typeof sg.maxPool2d): Call =>
  (x, { kernelSize, ...o }) =>
    fn(x[0]!, kernelSize, o);

/** What x.index(…) takes, from its JSON form. */
const items = (at: any[], tensors: Tensor[]): sg.IndexItem[] =>
  at.map((item) =>
    Array.isArray(item?.slice)
      ? sg.slice(...(item.slice.length === 1 ? [null, item.slice[0]] : item.slice))
      : item?.tensor !== undefined
        ? tensors[item.tensor]!
        : item,
  );

// How PyTorch's calls are written here, where they are not sg[kind](...tensors).
const calls: Record<string, Call> = {
  leakyRelu: (x, o) => sg.leakyRelu(x[0]!, o.negativeSlope),
  elu: (x, o) => sg.elu(x[0]!, o.alpha),
  gelu: withOptions(sg.gelu),
  clamp: (x, o) => sg.clamp(x[0]!, o.min, o.max),
  sum: reduction(sg.sum),
  mean: reduction(sg.mean),
  prod: reduction(sg.prod),
  amax: reduction(sg.max),
  amin: reduction(sg.min),
  any: reduction(sg.any),
  all: reduction(sg.all),
  logsumexp: reduction(sg.logsumexp),
  argmax: along(sg.argmax),
  argmin: along(sg.argmin),
  var: spread(sg.variance),
  std: spread(sg.std),
  norm: (x, o) => sg.norm(x[0]!, o.ord, o.dim),
  cumsum: along(sg.cumsum),
  cumprod: along(sg.cumprod),
  // values and positions where PyTorch gives both
  max: (x, o) => (o.dim === undefined ? sg.max(x[0]!) : [sg.max(x[0]!, o.dim), sg.argmax(x[0]!, o.dim)]),
  min: (x, o) => (o.dim === undefined ? sg.min(x[0]!) : [sg.min(x[0]!, o.dim), sg.argmin(x[0]!, o.dim)]),
  einsum: (x, o) => sg.einsum(o.equation, ...x),
  softmax: along(sg.softmax),
  logSoftmax: along(sg.logSoftmax),
  layerNorm: (x, o) => sg.layerNorm(x[0]!, x[0]!.size(-1), x[1], x[2], o.eps),
  rmsNorm: (x, o) => sg.rmsNorm(x[0]!, x[0]!.size(-1), x[1], o.eps),
  groupNorm: (x, o) => sg.groupNorm(x[0]!, o.groups, x[1], x[2]),
  conv1d: convolution(sg.conv1d),
  conv2d: convolution(sg.conv2d),
  convTranspose1d: convolution(sg.convTranspose1d),
  convTranspose2d: convolution(sg.convTranspose2d),
  maxPool2d: pool(sg.maxPool2d),
  avgPool2d: pool(sg.avgPool2d),
  gather: (x, o) => sg.gather(x[0]!, o.dim, x[1]!),
  scatter: (x, o) => sg.scatter(x[0]!, o.dim, x[1]!, x[2]!),
  scatterAdd: (x, o) => sg.scatterAdd(x[0]!, o.dim, x[1]!, x[2]!),
  indexSelect: (x, o) => sg.indexSelect(x[0]!, o.dim, x[1]!),
  indexAdd: (x, o) => sg.indexAdd(x[0]!, o.dim, x[1]!, x[2]!),
  maskedFill: (x, o) => sg.maskedFill(x[0]!, x[1]!, o.value),
  embedding: withOptions(sg.embedding),
  oneHot: (x, o) => sg.oneHot(x[0]!, o.numClasses),
  index: (x, o) => x[0]!.index(...items(o.at, x.slice(1))),
  indexPut: (x, o) => sg.indexPut(x[0]!, [x[1]!, x[2]!], x[3]!, { accumulate: o.accumulate }),
  cat: (x, o) => sg.cat(x, o.dim),
  stack: (x, o) => sg.stack(x, o.dim),
  split: (x, o) => sg.split(x[0]!, o.size, o.dim),
  chunk: (x, o) => sg.chunk(x[0]!, o.chunks, o.dim),
  pad: (x, { pad, ...o }) => sg.pad(x[0]!, pad, o),
  roll: (x, o) => sg.roll(x[0]!, o.shifts, o.dims),
  flip: (x, o) => sg.flip(x[0]!, o.dims),
  repeat: (x, o) => sg.repeat(x[0]!, o.repeats),
  repeatInterleave: (x, o) => sg.repeatInterleave(x[0]!, o.repeats, o.dim),
  tril: (x, o) => sg.tril(x[0]!, o.diagonal),
  triu: (x, o) => sg.triu(x[0]!, o.diagonal),
  diagonal: (x, o) => sg.diagonal(x[0]!, o.offset),
  movedim: (x, o) => sg.movedim(x[0]!, o.source, o.destination),
  sort: (x, { dim, ...o }) => sg.sort(x[0]!, dim, o),
  argsort: (x, { dim, ...o }) => sg.argsort(x[0]!, dim, o),
  topk: (x, { k, dim, ...o }) => sg.topk(x[0]!, k, dim, o),
  kthvalue: (x, o) => sg.kthvalue(x[0]!, o.k, o.dim, o.keepdim),
  maxWithIndices: (x, o) => sg.maxWithIndices(x[0]!, o.dim, o.keepdim),
  minWithIndices: (x, o) => sg.minWithIndices(x[0]!, o.dim, o.keepdim),
  medianWithIndices: (x, o) => sg.medianWithIndices(x[0]!, o.dim, o.keepdim),
  aminmax: (x, o) => sg.aminmax(x[0]!, o.dim),
  mode: (x, o) => sg.mode(x[0]!, o.dim),
  cummax: (x, o) => sg.cummax(x[0]!, o.dim),
  cummin: (x, o) => sg.cummin(x[0]!, o.dim),
  crossEntropy: (x, o) => sg.crossEntropy(x[0]!, x[1]!, { weight: x[2], ...o }),
  nllLoss: withOptions(sg.nllLoss),
  mseLoss: withOptions(sg.mseLoss),
  l1Loss: withOptions(sg.l1Loss),
  huberLoss: withOptions(sg.huberLoss),
  smoothL1Loss: withOptions(sg.smoothL1Loss),
  binaryCrossEntropyWithLogits: (x, o) => sg.binaryCrossEntropyWithLogits(x[0]!, x[1]!, { posWeight: x[2], ...o }),
  klDiv: withOptions(sg.klDiv),
  scaledDotProductAttention: (x, o) => sg.scaledDotProductAttention(x[0]!, x[1]!, x[2]!, { mask: x[3], ...o }),
  ctcLoss: (x, { inputLengths, targetLengths, ...o }) => sg.ctcLoss(sg.logSoftmax(x[0]!, -1), x[1]!, inputLengths, targetLengths, o),
  cross: (x, o) => sg.cross(x[0]!, x[1]!, o.dim),
  tensordot: (x, o) => sg.tensordot(x[0]!, x[1]!, o.dims),
  cdist: (x, o) => sg.cdist(x[0]!, x[1]!, o.p === 'inf' ? Infinity : o.p),
  diagEmbed: (x, o) => sg.diagEmbed(x[0]!, o.offset, o.dim1, o.dim2),
  diag: (x, o) => sg.diag(x[0]!, o.offset),
  bincount: (x, o) => sg.bincount(x[0]!, { weights: x[1], ...o }),
  histc: (x, o) => sg.histc(x[0]!, o.bins, o.low, o.high),
  searchsorted: withOptions(sg.searchsorted),
  bucketize: withOptions(sg.bucketize),
  interpolate: withOptions(sg.interpolate),
  im2col: (x, { kernelSize, ...o }) => sg.im2col(x[0]!, kernelSize, o),
  col2im: (x, { outputSize, kernelSize, ...o }) => sg.col2im(x[0]!, outputSize, kernelSize, o),
  pixelShuffle: (x, o) => sg.pixelShuffle(x[0]!, o.upscaleFactor),
  pixelUnshuffle: (x, o) => sg.pixelUnshuffle(x[0]!, o.downscaleFactor),
  channelShuffle: (x, o) => sg.channelShuffle(x[0]!, o.groups),
  rotaryEmbedding: (x, o) => sg.rotaryEmbedding(x[0]!, x[1]!, x[2]!, o),
};

// Goldens are computed in float64 and stored in float32.
const tolerances = { float32: { forward: 3e-6, gradient: 1e-5 }, float64: { forward: 2e-7, gradient: 2e-7 } };
const families = [
  'pointwise',
  'reductions',
  'matmul',
  'normalizations',
  'convolutions',
  'indexing',
  'shaping',
  'sorting',
  'losses',
  'attention',
  'images',
  'products',
  'counting',
  'ctc',
];
// Tables of angles are constants; they stay float32.
const isTable = (c: Case, i: number): boolean => c.kind === 'rotaryEmbedding' && i > 0;

function check(golden: Golden, c: Case, float: 'float32' | 'float64', device: string): void {
  const call = calls[c.kind] ?? ((x: Tensor[]) => (sg as unknown as Record<string, (...x: Tensor[]) => Tensor>)[c.kind]!(...x));
  const inputs = Array.from({ length: c.inputs }, (_, i) => golden.tensor(`${c.name}/in${i}`, isTable(c, i) ? 'float32' : float, device));
  for (const i of c.grads) inputs[i]!.requiresGrad = true;
  const outputs = [call(inputs, c.options)].flat();
  expect(outputs.length).toBe(c.outputs);
  outputs.forEach((y, i) => {
    expect([...y.shape], `shape of result ${i}`).toEqual([...golden.shape(`${c.name}/out${i}`)]);
    expectClose(read(y).data, golden.values(`${c.name}/out${i}`), tolerances[float].forward, `result ${i}`);
  });
  // steps such as floor have gradient 0 in PyTorch and none here
  const roots = golden
    .names(`${c.name}/cot`)
    .map(Number)
    .filter((i) => outputs[i]!.requiresGrad);
  roots.forEach((i, k) => outputs[i]!.backward({ gradient: golden.tensor(`${c.name}/cot${i}`, float, device), retainGraph: k < roots.length - 1 }));
  for (const i of c.grads) {
    const gradient = inputs[i]!.grad ?? sg.zerosLike(inputs[i]!);
    expectClose(read(gradient).data, golden.values(`${c.name}/grad${i}`), tolerances[float].gradient, `gradient of input ${i}`);
    gradient.dispose();
  }
}

for (const family of families) {
  const golden = new Golden(family);
  describe.each(devices)(`${family} on %s`, (device) => {
    test.each(golden.cases.map((c) => [`${c.name} ${JSON.stringify(c.options)}`, c] as const))('%s', (_, c) => {
      for (const float of ['float32', 'float64'] as const) sg.scope(() => check(golden, c, float, device));
    });
  });
}
