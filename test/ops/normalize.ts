// Rows of softmax and its relatives and of the normalizations.
import * as sg from '../../lib/index.js';
import { float, type Input, type Row } from '../helpers/op_table.js';
import {
  along,
  build,
  logSoftmaxOf,
  logsumexpOf,
  map,
  mean,
  type Nd,
  reduce,
  reshape,
  size,
  softmaxOf,
  sum,
  transpose,
  variance,
} from '../helpers/reference.js';

const constant = (shape: readonly number[], low = -3, high = 3): Input => ({ shape, low, high, constant: true });

const softmaxes = [
  [[2, 3, 5], -1],
  [[2, 3, 5], 0],
  [[4, 3], 0],
  [[1, 1], 1],
  [[5], 0],
].flatMap(([shape, dim]): Row[] => [
  {
    name: `softmax of [${shape}] along ${dim}`,
    inputs: [float(shape as number[])],
    fn: (x) => sg.softmax(x!, dim as number),
    ref: (x) => along(x!, dim as number, softmaxOf),
    tolerance: 2,
  },
  {
    name: `logSoftmax of [${shape}] along ${dim}`,
    inputs: [float(shape as number[])],
    fn: (x) => sg.logSoftmax(x!, dim as number),
    ref: (x) => along(x!, dim as number, logSoftmaxOf),
    tolerance: 2,
  },
]);

/** Rows longer than a vector and a block. */
const wide: Row[] = [
  { name: 'softmax of long rows', inputs: [constant([3, 1037])], fn: (x) => sg.softmax(x!, -1), ref: (x) => along(x!, -1, softmaxOf), tolerance: 2 },
  { name: 'logSoftmax of long rows', inputs: [constant([3, 1037])], fn: (x) => sg.logSoftmax(x!, -1), ref: (x) => along(x!, -1, logSoftmaxOf), tolerance: 2 },
  {
    name: 'softmax of large numbers',
    inputs: [constant([4, 9], 900, 1000)],
    fn: (x) => sg.softmax(x!, -1),
    ref: (x) => along(x!, -1, softmaxOf),
    dtypes: ['float32', 'float64', 'bfloat16'],
    tolerance: 2,
  },
  {
    name: 'logsumexp of large numbers',
    inputs: [constant([4, 9], 900, 1000)],
    fn: (x) => sg.logsumexp(x!, -1),
    ref: (x) => reduce(x!, -1, false, logsumexpOf),
    dtypes: ['float32', 'float64', 'bfloat16'],
  },
  {
    name: 'layerNorm of long rows',
    inputs: [constant([3, 1037]), constant([1037]), constant([1037])],
    fn: (x, w, b) => sg.layerNorm(x!, 1037, w, b),
    ref: (x, w, b) =>
      affine(
        along(x!, -1, (v) => standardized(v, 1e-5)),
        w!,
        b!,
      ),
    tolerance: 3,
  },
  {
    name: 'rmsNorm of long rows',
    inputs: [constant([3, 1037]), constant([1037])],
    fn: (x, w) => sg.rmsNorm(x!, 1037, w, 1e-5),
    ref: (x, w) => map((a, c) => a * c, along(x!, -1, rootMeanSquared), w!),
    tolerance: 3,
  },
];

const sums: Row[] = ([null, -1, 0, [0, 2]] as const).map((dims) => ({
  name: `logsumexp over ${JSON.stringify(dims)}`,
  inputs: [float([2, 3, 4])],
  fn: (x) => sg.logsumexp(x!, dims, dims === 0),
  ref: (x) => reduce(x!, dims, dims === 0, logsumexpOf),
  tolerance: 2,
}));

const standardized = (v: readonly number[], eps: number): number[] => {
  const [m, s] = [mean(v), Math.sqrt(variance(v, 0) + eps)];
  return v.map((x) => (x - m) / s);
};
const rootMeanSquared = (v: readonly number[]): number[] => v.map((x) => x / Math.sqrt(sum(v.map((e) => e * e)) / v.length + 1e-5));
const affine = (x: Nd, w: Nd, b: Nd): Nd => map((a, c, d) => a * c + d, x, w, b);
/** [C] against x [N, C, …]. */
const perChannel = (p: Nd, x: Nd): Nd => reshape(p, [p.data.length, ...x.shape.slice(2).map(() => 1)]);

/** Each image in groups of channels. */
function groupNorm(x: Nd, groups: number): Nd {
  const rows = reshape(x, [x.shape[0]! * groups, size(x.shape) / x.shape[0]! / groups]);
  return reshape(
    along(rows, 1, (v) => standardized(v, 1e-5)),
    x.shape,
  );
}

/** Each channel over images and space. */
function batchNorm(x: Nd, eps: number): Nd {
  const channelsFirst = transpose(x, 0, 1);
  const rows = reshape(channelsFirst, [x.shape[1]!, size(x.shape) / x.shape[1]!]);
  return transpose(
    reshape(
      along(rows, 1, (v) => standardized(v, eps)),
      channelsFirst.shape,
    ),
    0,
    1,
  );
}

const weight = (n: number): Input => float([n], 0.5, 2);
const bias = (n: number): Input => float([n], -1, 1);

const norms: Row[] = [
  {
    name: 'layerNorm',
    inputs: [float([2, 3, 6]), weight(6), bias(6)],
    fn: (x, w, b) => sg.layerNorm(x!, 6, w, b),
    ref: (x, w, b) =>
      affine(
        along(x!, -1, (v) => standardized(v, 1e-5)),
        w!,
        b!,
      ),
    tolerance: 4,
  },
  {
    name: 'layerNorm without parameters',
    inputs: [float([4, 5])],
    fn: (x) => sg.layerNorm(x!, [5], null, null, 1e-3),
    ref: (x) => along(x!, -1, (v) => standardized(v, 1e-3)),
    tolerance: 4,
  },
  {
    name: 'layerNorm over two dimensions',
    inputs: [float([2, 3, 4]), float([3, 4], 0.5, 2)],
    fn: (x, w) => sg.layerNorm(x!, [3, 4], w),
    ref: (x, w) =>
      map(
        (a, c) => a * c,
        reshape(
          along(reshape(x!, [2, 12]), -1, (v) => standardized(v, 1e-5)),
          [2, 3, 4],
        ),
        w!,
      ),
    tolerance: 4,
  },
  {
    name: 'rmsNorm',
    inputs: [float([2, 3, 6]), weight(6)],
    fn: (x, w) => sg.rmsNorm(x!, 6, w, 1e-5),
    ref: (x, w) => map((a, c) => a * c, along(x!, -1, rootMeanSquared), w!),
    tolerance: 4,
  },
  {
    name: 'rmsNorm without weight',
    inputs: [float([3, 6])],
    fn: (x) => sg.rmsNorm(x!, [6], null, 1e-5),
    ref: (x) => along(x!, -1, rootMeanSquared),
    tolerance: 4,
  },
  ...[1, 2, 4].map(
    (groups): Row => ({
      name: `groupNorm in ${groups} groups`,
      inputs: [float([2, 4, 3, 2]), weight(4), bias(4)],
      fn: (x, w, b) => sg.groupNorm(x!, groups, w, b),
      ref: (x, w, b) => affine(groupNorm(x!, groups), perChannel(w!, x!), perChannel(b!, x!)),
      tolerance: 4,
    }),
  ),
  ...[
    [5, 3],
    [2, 3, 4],
    [2, 3, 2, 3],
  ].map(
    (shape): Row => ({
      name: `batchNorm of [${shape}]`,
      inputs: [float(shape), weight(3), bias(3)],
      fn: (x, w, b) => sg.batchNorm(x!, null, null, w, b, true),
      ref: (x, w, b) => affine(batchNorm(x!, 1e-5), perChannel(w!, x!), perChannel(b!, x!)),
      tolerance: 6,
    }),
  ),
  {
    name: 'batchNorm outside training',
    inputs: [float([2, 3, 4]), constant([3], -1, 1), constant([3], 0.5, 2), weight(3), bias(3)],
    fn: (x, m, v, w, b) => sg.batchNorm(x!, m, v, w, b, false),
    ref: (x, m, v, w, b) => map((a, c, d, e, f) => ((a - c) / Math.sqrt(d + 1e-5)) * e + f, x!, ...[m, v, w, b].map((p) => perChannel(p!, x!))),
    tolerance: 4,
  },
  {
    name: 'normalize',
    inputs: [float([3, 4])],
    fn: (x) => sg.normalize(x!),
    ref: (x) => along(x!, 1, (v) => v.map((e) => e / Math.sqrt(sum(v.map((u) => u * u))))),
    tolerance: 4,
  },
];

/** Rows of a table by index: what the embedding is. */
const lookup = (weights: Nd, index: Nd): Nd =>
  build(
    [...index.shape, weights.shape[1]!],
    (i) => weights.data[index.data[i.slice(0, -1).reduce((p, k, d) => p * index.shape[d]! + k, 0)]! * weights.shape[1]! + i.at(-1)!]!,
  );

const tables: Row[] = (['int64', 'int32'] as const).flatMap((dtype): Row[] => [
  {
    name: `embedding by ${dtype}`,
    inputs: [{ shape: [2, 7], low: 0, high: 5, dtype }, float([5, 3])],
    fn: (i, w) => sg.embedding(i!, w!),
    ref: (i, w) => lookup(w!, i!),
  },
  {
    name: `oneHot of ${dtype}`,
    inputs: [{ shape: [2, 3], low: 0, high: 4, dtype }],
    fn: (i) => sg.oneHot(i!, 5),
    ref: (i) => build([2, 3, 5], (at) => Number(i!.data[at[0]! * 3 + at[1]!] === at[2])),
    dtypes: [dtype],
    result: 'int64',
  },
]);

export const rows: readonly Row[] = [...softmaxes, ...wide, ...sums, ...norms, ...tables];
