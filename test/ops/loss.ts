// Rows of the losses: each reduction, ignored targets, class weights, smoothing.

import type { DType, Tensor } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, type Input, type Row } from '../helpers/op_table.js';
import { along, logSoftmaxOf, map, mean, type Nd, nd, permute, reduce, reshape, sum } from '../helpers/reference.js';

type Reduction = 'mean' | 'sum' | 'none';
const reductions: readonly Reduction[] = ['mean', 'sum', 'none'];

function reduced(loss: Nd, reduction: Reduction): Nd {
  return reduction === 'none' ? loss : reduce(loss, null, false, reduction === 'sum' ? sum : mean);
}

type Loss = (x: Tensor, target: Tensor, options: { reduction: Reduction }) => Tensor;
/** A loss of one element against one target. */
function elementwise(name: string, fn: Loss, of: (x: number, target: number) => number, x: Input = float([3, 4]), target: Input = float([3, 4])): Row[] {
  return reductions.map((reduction) => ({
    name: `${name}, ${reduction}`,
    inputs: [x, target],
    fn: (a, b) => fn(a!, b!, { reduction }),
    ref: (a, b) => reduced(map(of, a!, b!), reduction),
    tolerance: 5,
  }));
}

const huber =
  (delta: number) =>
  (x: number, y: number): number =>
    Math.abs(x - y) < delta ? (x - y) ** 2 / 2 : delta * (Math.abs(x - y) - delta / 2);
const smooth =
  (beta: number) =>
  (x: number, y: number): number =>
    huber(beta)(x, y) / beta;
const bce = (x: number, y: number): number => Math.max(x, 0) - x * y + Math.log1p(Math.exp(-Math.abs(x)));

interface Classes {
  readonly ignoreIndex?: number;
  readonly labelSmoothing?: number;
}

/** PyTorch's cross-entropy of logits [M, C]; the mean divides by the weights of the rows that count. */
function crossEntropy(logits: Nd, targets: Nd, weight: Nd | null, reduction: Reduction, { ignoreIndex = -100, labelSmoothing = 0 }: Classes): Nd {
  const classes = logits.shape[1]!;
  const w = (c: number): number => weight?.data[c] ?? 1;
  const logs = along(logits, 1, logSoftmaxOf);
  let weights = 0;
  const losses = nd(targets.shape, (i) => {
    const target = targets.data[i]!;
    if (target === ignoreIndex) return 0;
    weights += w(target);
    const row = Array.from(logs.data.subarray(i * classes, (i + 1) * classes));
    return -(1 - labelSmoothing) * w(target) * row[target]! - (labelSmoothing / classes) * sum(row.map((l, c) => w(c) * l));
  });
  return reduction === 'mean' ? reduce(losses, null, false, (v) => sum(v) / weights) : reduced(losses, reduction);
}

const targets: Input = { shape: [6], low: 0, high: 5, dtype: 'int64' };
const variants: Classes[] = [{}, { labelSmoothing: 0.1 }, { ignoreIndex: 2 }, { ignoreIndex: 1, labelSmoothing: 0.2 }];

const classification: Row[] = reductions.flatMap((reduction) => [
  ...variants.map(
    (options): Row => ({
      name: `crossEntropy, ${reduction}, ${JSON.stringify(options)}`,
      inputs: [float([6, 5], -3, 3), targets],
      fn: (x, t) => sg.crossEntropy(x!, t!, { reduction, ...options }),
      ref: (x, t) => crossEntropy(x!, t!, null, reduction, options),
      tolerance: 4,
    }),
  ),
  {
    name: `crossEntropy, ${reduction}, class weights`,
    inputs: [float([6, 5], -3, 3), { ...targets, dtype: 'int32' }, { ...float([5], 0.3, 2), constant: true }],
    fn: (x, t, w) => sg.crossEntropy(x!, t!, { reduction, weight: w!, labelSmoothing: 0.1, ignoreIndex: 3 }),
    ref: (x, t, w) => crossEntropy(x!, t!, w!, reduction, { labelSmoothing: 0.1, ignoreIndex: 3 }),
    tolerance: 4,
  },
  {
    name: `nllLoss, ${reduction}`,
    inputs: [float([6, 5], -3, 0), targets],
    fn: (x, t) => sg.nllLoss(x!, t!, { reduction, ignoreIndex: 2 }),
    ref: (x, t) => nll(x!, t!, reduction),
    tolerance: 4,
  },
]);

function nll(logs: Nd, t: Nd, reduction: Reduction): Nd {
  const losses = nd(t.shape, (i) => (t.data[i] === 2 ? 0 : -logs.data[i * 5 + t.data[i]!]!));
  const counted = t.data.filter((c) => c !== 2).length;
  return reduction === 'mean' ? reduce(losses, null, false, (v) => sum(v) / counted) : reduced(losses, reduction);
}

const vocabulary: Row = {
  name: 'crossEntropy of a large vocabulary',
  inputs: [
    { shape: [9, 1037], low: -9, high: 9, constant: true },
    { shape: [9], low: 0, high: 1037, dtype: 'int64' },
  ],
  fn: (x, t) => sg.crossEntropy(x!, t!, { reduction: 'none' }),
  ref: (x, t) => crossEntropy(x!, t!, null, 'none', {}),
  tolerance: 2,
};

const count: Input = { shape: [], low: 7, high: 8, dtype: 'int64' };

const normalized: readonly Row[] = [
  {
    name: 'crossEntropy by a normalizer',
    inputs: [float([6, 5], -3, 3), targets],
    fn: (x, t) => sg.crossEntropy(x!, t!, { normalizer: 12, ignoreIndex: 2 }),
    ref: (x, t) => map((v) => v / 12, crossEntropy(x!, t!, null, 'sum', { ignoreIndex: 2 })),
    tolerance: 4,
  },
  {
    name: 'crossEntropy by a counted normalizer, class weights and smoothing',
    inputs: [float([6, 5], -3, 3), targets, { ...float([5], 0.3, 2), constant: true }, count],
    fn: (x, t, w, n) => sg.crossEntropy(x!, t!, { normalizer: n!, ignoreIndex: 3, weight: w!, labelSmoothing: 0.1 }),
    ref: (x, t, w, n) => map((v) => v / n!.data[0]!, crossEntropy(x!, t!, w!, 'sum', { ignoreIndex: 3, labelSmoothing: 0.1 })),
    tolerance: 4,
  },
  {
    name: 'crossEntropy by a normalizer of nothing',
    inputs: [float([6, 5], -3, 3), { shape: [6], low: 2, high: 3, dtype: 'int64' }, { ...count, low: 0, high: 1 }],
    fn: (x, t, n) => sg.crossEntropy(x!, t!, { normalizer: n!, ignoreIndex: 2 }),
    ref: () => nd([], () => 0),
  },
  {
    name: 'nllLoss by a counted normalizer',
    inputs: [float([6, 5], -3, 0), targets, count],
    fn: (x, t, n) => sg.nllLoss(x!, t!, { normalizer: n!, ignoreIndex: 2 }),
    ref: (x, t, n) => map((v) => v / n!.data[0]!, nll(x!, t!, 'sum')),
    tolerance: 4,
  },
];

const probability: Input = float([3, 4], 0.05, 0.95);

const volumes: Row = {
  name: 'crossEntropy of [N, C, d]',
  inputs: [float([2, 5, 3]), { shape: [2, 3], low: 0, high: 5, dtype: 'int64' }],
  fn: (x, t) => sg.crossEntropy(x!, t!),
  ref: (x, t) => crossEntropy(reshape(permute(x!, [0, 2, 1]), [6, 5]), reshape(t!, [6]), null, 'mean', {}),
  tolerance: 4,
};

const product = (x: Nd, w: Nd, b: Nd): Nd => {
  const [m, k, n] = [x.shape[0]!, x.shape[1]!, w.shape[0]!];
  return nd([m, n], (i) => {
    const [r, c] = [Math.floor(i / n), i % n];
    return b.data[c]! + sum(Array.from({ length: k }, (_, j) => x.data[r * k + j]! * w.data[c * k + j]!));
  });
};
const hidden: Input[] = [float([6, 3], -2, 2), float([5, 3], -2, 2), targets, float([5], -1, 1)];

/** Logits of 16-bit inputs are rounded before the loss is taken: test/16-linear-cross-entropy.test.ts. */
const fromHidden: readonly Row[] = [
  ...reductions.map(
    (reduction): Row => ({
      name: `linearCrossEntropy, ${reduction}`,
      inputs: hidden,
      dtypes: ['float32', 'float64'],
      fn: (x, w, t, b) => sg.linearCrossEntropy(x!, w!, t!, { bias: b!, reduction, ignoreIndex: 2 }),
      ref: (x, w, t, b) => crossEntropy(product(x!, w!, b!), t!, null, reduction, { ignoreIndex: 2 }),
      tolerance: 8,
    }),
  ),
  {
    name: 'linearCrossEntropy, class weights and smoothing',
    dtypes: ['float32', 'float64'],
    inputs: [...hidden, { ...float([5], 0.3, 2), constant: true }],
    fn: (x, w, t, b, c) => sg.linearCrossEntropy(x!, w!, t!, { bias: b!, weight: c!, labelSmoothing: 0.1, ignoreIndex: 3 }),
    ref: (x, w, t, b, c) => crossEntropy(product(x!, w!, b!), t!, c!, 'mean', { labelSmoothing: 0.1, ignoreIndex: 3 }),
    tolerance: 8,
  },
];

/** The loss of 16-bit logits is float32: it is a sum over a vocabulary, and later over a batch. */
const wide = (dtype: DType): DType => (dtype === 'float64' ? 'float64' : 'float32');
const widened = (rows: readonly Row[]): Row[] => rows.map((r) => (/^(linearC|c)rossEntropy/.test(r.name) ? { ...r, result: wide } : r));

export const rows: readonly Row[] = [
  ...widened([...classification, vocabulary, ...normalized, volumes, ...fromHidden]),
  ...elementwise('mseLoss', sg.mseLoss, (x, y) => (x - y) ** 2),
  ...elementwise('l1Loss', sg.l1Loss, (x, y) => Math.abs(x - y)),
  ...elementwise('huberLoss', (x, y, o) => sg.huberLoss(x, y, { ...o, delta: 0.7 }), huber(0.7)),
  ...elementwise('smoothL1Loss', (x, y, o) => sg.smoothL1Loss(x, y, { ...o, beta: 0.7 }), smooth(0.7)),
  ...elementwise('binaryCrossEntropyWithLogits', sg.binaryCrossEntropyWithLogits, bce, float([3, 4], -4, 4), float([3, 4], 0, 1)),
  ...elementwise('binaryCrossEntropy', sg.binaryCrossEntropy, (p, y) => -(y * Math.log(p) + (1 - y) * Math.log1p(-p)), probability, float([3, 4], 0, 1)),
  ...elementwise('klDiv', sg.klDiv, (x, y) => y * (Math.log(y) - x), float([3, 4], -4, 0), probability),
  ...elementwise(
    'klDiv of logarithms',
    (x, y, o) => sg.klDiv(x, y, { ...o, logTarget: true }),
    (x, y) => Math.exp(y) * (y - x),
    float([3, 4], -4, 0),
    float([3, 4], -4, 0),
  ),
  {
    name: 'klDiv, batchmean',
    inputs: [float([3, 4], -4, 0), probability],
    fn: (x, y) => sg.klDiv(x!, y!, { reduction: 'batchmean' }),
    ref: (x, y) =>
      reduce(
        map((a, b) => b * (Math.log(b) - a), x!, y!),
        null,
        false,
        (v) => sum(v) / 3,
      ),
    tolerance: 5,
  },
  {
    name: 'binaryCrossEntropyWithLogits, weights',
    inputs: [float([3, 4], -4, 4), float([3, 4], 0, 1), { ...float([4], 0.5, 3), constant: true }],
    fn: (x, y, w) => sg.binaryCrossEntropyWithLogits(x!, y!, { posWeight: w! }),
    ref: (x, y, w) =>
      reduce(
        map((a, b, c) => (1 - b) * a + (1 + (c - 1) * b) * (Math.log1p(Math.exp(-Math.abs(a))) + Math.max(-a, 0)), x!, y!, w!),
        null,
        false,
        mean,
      ),
    tolerance: 5,
  },
  {
    name: 'cosineSimilarity',
    inputs: [float([3, 4]), float([3, 4])],
    fn: (a, b) => sg.cosineSimilarity(a!, b!),
    ref: (a, b) =>
      map(
        (p, q, r) => p / Math.sqrt(q * r),
        ...[
          [a!, b!],
          [a!, a!],
          [b!, b!],
        ].map(([u, v]) =>
          reduce(
            map((s, t) => s * t, u!, v!),
            1,
            false,
            sum,
          ),
        ),
      ),
    tolerance: 6,
  },
];
