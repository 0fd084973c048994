// Rows of the losses with margins and of the likelihoods.
import type { Tensor } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, type Input, type Row } from '../helpers/op_table.js';
import { along, at, build, map, mean, type Nd, reduce, reshape, sum } from '../helpers/reference.js';

type Reduction = 'mean' | 'sum' | 'none';
const reduced = (loss: Nd, reduction: Reduction): Nd => (reduction === 'none' ? loss : reduce(loss, null, false, reduction === 'sum' ? sum : mean));
const each = (name: string, row: (o: { reduction: Reduction }) => Omit<Row, 'name'>): Row[] =>
  (['mean', 'sum', 'none'] as const).map((reduction) => ({ name: `${name}, ${reduction}`, tolerance: 6, ...row({ reduction }) }));

/** 1 and −1. */
const signs = (shape: number[]): Input => ({ shape, low: 0, high: 2, constant: true });
const sign = (t: Tensor): Tensor => sg.sub(sg.mul(sg.gt(t, 1).to(t.dtype), 2), 1);
const signOf = (t: number): number => (t > 1 ? 1 : -1);
const dot = (a: number[], b: number[]): number => sum(a.map((v, i) => v * b[i]!));
const lines = (x: Nd): number[][] => Array.from({ length: x.shape[0]! }, (_, i) => Array.from({ length: x.shape[1]! }, (_, j) => at(x, [i, j])));
const perLine = (f: (i: number) => number, n: number): Nd => build([n], ([i]) => f(i!));
const distance = (a: number[], b: number[], p = 2): number => sum(a.map((v, i) => Math.abs(v - b[i]! + 1e-6) ** p)) ** (1 / p);

const triplets: sg.TripletMarginOptions[] = [{}, { margin: 0.5, swap: true }, { p: 1 }];

/** The probability that all paths together spell the target, by trying each; it need not be below 1. */
function spelled(logs: number[][], target: number[], blank: number): number {
  const paths = logs.reduce<{ path: number[]; p: number }[]>(
    (all, line) => all.flatMap(({ path, p }) => line.map((l, c) => ({ path: [...path, c], p: p * Math.exp(l) }))),
    [{ path: [], p: 1 }],
  );
  const collapsed = (path: number[]): string => path.filter((c, i) => c !== path[i - 1] && c !== blank).join();
  return sum(paths.filter(({ path }) => collapsed(path) === target.join()).map(({ p }) => p));
}

const spellings: [string, number[], number[], number][] = [
  ['whole', [4, 4], [2, 2], 0],
  ['cut', [4, 3], [2, 1], 0],
  ['with an empty target', [4, 2], [0, 1], 2],
];

export const rows: readonly Row[] = [
  ...spellings.flatMap(([name, inputs, lengths, blank]) =>
    each(`ctcLoss ${name}`, (o) => ({
      inputs: [float([4, 2, 3]), { shape: [2, 2], low: blank === 0 ? 1 : 0, high: blank === 0 ? 3 : 2, dtype: 'int64' }],
      fn: (x, t) => sg.ctcLoss(x!, t!, inputs, lengths, { blank, ...o }),
      ref: (x, t) => {
        const line = (n: number, i: number): number[] => [0, 1, 2].map((c) => at(x!, [i, n, c]));
        const loss = perLine((n) => {
          const time = Array.from({ length: inputs[n]! }, (_, i) => line(n, i));
          const target = [0, 1].slice(0, lengths[n]).map((s) => at(t!, [n, s]));
          return -Math.log(spelled(time, target, blank)) / (o.reduction === 'mean' ? Math.max(1, lengths[n]!) : 1);
        }, 2);
        return reduced(loss, o.reduction);
      },
    })),
  ),
  ...each('marginRankingLoss', (o) => ({
    inputs: [float([3, 4]), float([3, 4]), signs([3, 4])],
    fn: (a, b, t) => sg.marginRankingLoss(a!, b!, sign(t!), { margin: 0.3, ...o }),
    ref: (a, b, t) =>
      reduced(
        map((x, y, s) => Math.max(0, -signOf(s) * (x - y) + 0.3), a!, b!, t!),
        o.reduction,
      ),
  })),
  ...each('hingeEmbeddingLoss', (o) => ({
    inputs: [float([3, 4]), signs([3, 4])],
    fn: (x, t) => sg.hingeEmbeddingLoss(x!, sign(t!), o),
    ref: (x, t) =>
      reduced(
        map((v, s) => (signOf(s) === 1 ? v : Math.max(0, 1 - v)), x!, t!),
        o.reduction,
      ),
  })),
  ...each('cosineEmbeddingLoss', (o) => ({
    inputs: [float([5, 4]), float([5, 4]), signs([5])],
    fn: (a, b, t) => sg.cosineEmbeddingLoss(a!, b!, sign(t!), { margin: 0.1, ...o }),
    ref: (a, b, t) => {
      const [u, v] = [lines(a!), lines(b!)];
      const cosine = (i: number): number => dot(u[i]!, v[i]!) / Math.sqrt(dot(u[i]!, u[i]!) * dot(v[i]!, v[i]!));
      return reduced(
        perLine((i) => (signOf(t!.data[i]!) === 1 ? 1 - cosine(i) : Math.max(0, cosine(i) - 0.1)), 5),
        o.reduction,
      );
    },
    tolerance: 10,
  })),
  ...triplets.flatMap((options) =>
    each(`tripletMarginLoss ${JSON.stringify(options)}`, (o) => ({
      inputs: [float([4, 3]), float([4, 3]), float([4, 3])],
      fn: (a, b, c) => sg.tripletMarginLoss(a!, b!, c!, { ...options, ...o }),
      ref: (a, b, c) => {
        const [x, y, z] = [lines(a!), lines(b!), lines(c!)];
        const d = (u: number[], v: number[]): number => distance(u, v, options.p);
        const far = (i: number): number => (options.swap ? Math.min(d(x[i]!, z[i]!), d(y[i]!, z[i]!)) : d(x[i]!, z[i]!));
        return reduced(
          perLine((i) => Math.max(0, d(x[i]!, y[i]!) - far(i) + (options.margin ?? 1)), 4),
          o.reduction,
        );
      },
      tolerance: 10,
    })),
  ),
  {
    name: 'pairwiseDistance',
    inputs: [float([4, 3]), float([4, 3])],
    fn: (a, b) => sg.pairwiseDistance(a!, b!, 3),
    ref: (a, b) => perLine((i) => distance(lines(a!)[i]!, lines(b!)[i]!, 3), 4),
    tolerance: 5,
  },
  ...each('softMarginLoss', (o) => ({
    inputs: [float([3, 4]), signs([3, 4])],
    fn: (x, t) => sg.softMarginLoss(x!, sign(t!), o),
    ref: (x, t) =>
      reduced(
        map((v, s) => Math.log1p(Math.exp(-signOf(s) * v)), x!, t!),
        o.reduction,
      ),
  })),
  ...[1, 2].flatMap((p) =>
    each(`multiMarginLoss with p ${p}`, (o) => ({
      inputs: [float([4, 5]), { shape: [4], low: 0, high: 5, dtype: 'int64' }, { shape: [5], low: 0.5, high: 2, constant: true }],
      fn: (x, t, w) => sg.multiMarginLoss(x!, t!, { p, margin: 0.7, weight: w!, ...o }),
      ref: (x, t, w) => {
        const loss = (row: number[], y: number): number => sum(row.map((v, j) => (j === y ? 0 : Math.max(0, 0.7 - row[y]! + v) ** p))) / 5;
        return reduced(
          perLine((i) => loss(lines(x!)[i]!, t!.data[i]!) * w!.data[t!.data[i]!]!, 4),
          o.reduction,
        );
      },
    })),
  ),
  ...each('multilabelSoftMarginLoss', (o) => ({
    inputs: [float([3, 4]), float([3, 4], 0, 1), float([4], 0.5, 2)],
    fn: (x, t, w) => sg.multilabelSoftMarginLoss(x!, t!, { weight: w!, ...o }),
    ref: (x, t, w) => {
      const losses = map((v, y, f) => f * (Math.max(v, 0) - v * y + Math.log1p(Math.exp(-Math.abs(v)))), x!, t!, w!);
      return reduced(
        reshape(
          along(losses, 1, (v) => [mean(v)]),
          [3],
        ),
        o.reduction,
      );
    },
  })),
  ...[false, true].flatMap((full) =>
    each(`gaussianNllLoss${full ? ', full' : ''}`, (o) => ({
      inputs: [float([3, 4]), float([3, 4]), float(full ? [3] : [3, 4], 0.2, 2)],
      fn: (x, t, v) => sg.gaussianNllLoss(x!, t!, v!, { full, ...o }),
      ref: (x, t, v) => {
        const wide = full ? reshape(v!, [3, 1]) : v!;
        return reduced(
          map((a, b, s) => (Math.log(s) + (a - b) ** 2 / s + (full ? Math.log(2 * Math.PI) : 0)) / 2, x!, t!, wide),
          o.reduction,
        );
      },
    })),
  ),
  {
    name: 'gaussianNllLoss with a number for the variance',
    inputs: [float([3, 4]), float([3, 4])],
    fn: (x, t) => sg.gaussianNllLoss(x!, t!, 0.5),
    ref: (x, t) =>
      reduced(
        map((a, b) => (Math.log(0.5) + (a - b) ** 2 / 0.5) / 2, x!, t!),
        'mean',
      ),
    tolerance: 6,
  },
  ...each('poissonNllLoss', (o) => ({
    inputs: [float([3, 4]), { ...float([3, 4], 0, 5), constant: true }],
    fn: (x, t) => sg.poissonNllLoss(x!, t!, { full: true, ...o }),
    ref: (x, t) =>
      reduced(
        map((v, y) => Math.exp(v) - y * v + (y > 1 ? y * Math.log(y) - y + Math.log(2 * Math.PI * y) / 2 : 0), x!, t!),
        o.reduction,
      ),
  })),
  ...each('poissonNllLoss of rates', (o) => ({
    inputs: [float([3, 4], 0.1, 4), float([3, 4], 0, 5)],
    fn: (x, t) => sg.poissonNllLoss(x!, t!, { logInput: false, ...o }),
    ref: (x, t) =>
      reduced(
        map((v, y) => v - y * Math.log(v + 1e-8), x!, t!),
        o.reduction,
      ),
  })),
];
