// Rows of the reductions: over all, one, several and no dimensions, and long enough to be split among threads and lanes.

import type { DType, Tensor } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, floats, type Row } from '../helpers/op_table.js';
import { mean, reduce, sum, variance } from '../helpers/reference.js';

type Dims = number | readonly number[] | null;
type Reduction = (x: Tensor, dims: Dims, keepdim?: boolean) => Tensor;
type Of = (values: number[]) => number;

interface Options {
  readonly dtypes?: readonly DType[];
  readonly result?: DType;
  readonly low?: number;
  readonly high?: number;
  readonly tolerance?: number;
}

const integers: readonly DType[] = ['int64', 'int32', 'uint8'];
const numbers: readonly DType[] = [...floats, ...integers];

function row(name: string, fn: Reduction, of: Of, { low = -2, high = 2, ...rest }: Options = {}): Row[] {
  const variant = (label: string, shape: number[], dims: Dims, keepdim: boolean): Row => ({
    ...rest,
    name: `${name} ${label}`,
    inputs: [float(shape, low, high)],
    fn: (x) => fn(x!, dims, keepdim),
    ref: (x) => reduce(x!, dims, keepdim, of),
  });
  return [
    variant('of all', [3, 4], null, false),
    variant('of the last dimension', [2, 3, 5], -1, false),
    variant('of the first dimension', [5, 3], 0, true),
    variant('of the middle dimension', [2, 5, 3], 1, false),
    variant('of a scalar', [], null, false),
    // arguments of extremes have one dimension or all
    ...(name.startsWith('arg') ? [] : [variant('of two dimensions', [3, 4, 2], [0, 2], true)]),
  ];
}

/** Longer than a vector, a block and a thread's share. The short rows cover the gradients. */
function long(name: string, fn: Reduction, of: Of, options: Options = {}): Row[] {
  const shapes: [number[], Dims][] = [
    [[70_001], null],
    [[3, 1031], 1],
    [[1031, 3], 0],
    [[2, 517, 3], 1],
  ];
  return shapes.map(([shape, dims]) => ({
    name: `${name} of [${shape}]`,
    inputs: [{ shape, low: -1, high: 2, constant: true }],
    fn: (x) => fn(x!, dims),
    ref: (x) => reduce(x!, dims, false, of),
    dtypes: ['float32', 'float64', 'bfloat16'],
    ...options,
  }));
}

const product: Of = (v) => v.reduce((a, b) => a * b, 1);
const largest: Of = (v) => v.reduce((a, b) => Math.max(a, b));
const smallest: Of = (v) => v.reduce((a, b) => Math.min(a, b));
const squares: Of = (v) => sum(v.map((x) => x * x));
const flag = (holds: boolean): number => Number(holds);
const zeroOrMore: Options = { dtypes: [...numbers, 'bool'], result: 'bool', low: 0, high: 1.3 };
const asInteger: Options = { dtypes: [...integers, 'bool'], result: 'int64', low: 0, high: 2 };
const position: Options = { dtypes: numbers, result: 'int64' };

/** Without the row of one element, which has no spread. */
const spread = (rows: Row[]): Row[] => rows.filter((r) => !r.name.endsWith('scalar'));

export const rows: readonly Row[] = [
  ...row('sum', sg.sum, sum, { tolerance: 3 }),
  ...row('sum of integers', sg.sum, sum, asInteger),
  ...row('mean', sg.mean, mean, { tolerance: 3 }),
  ...row('prod', sg.prod, product, { tolerance: 3 }),
  ...row('prod of integers', sg.prod, product, asInteger),
  ...row('max', sg.max, largest, { dtypes: numbers }),
  ...row('min', sg.min, smallest, { dtypes: numbers }),
  ...row('any', sg.any, (v) => flag(v.some((x) => x !== 0)), zeroOrMore),
  ...row('all', sg.all, (v) => flag(v.every((x) => x !== 0)), zeroOrMore),
  ...row('argmax', sg.argmax as Reduction, (v) => v.indexOf(largest(v)), position),
  ...row('argmin', sg.argmin as Reduction, (v) => v.indexOf(smallest(v)), position),
  ...row('sumSquares', sg.sumSquares, squares, { tolerance: 3 }),
  ...row(
    'norm',
    (x, dims, keepdim) => sg.norm(x, 2, dims, keepdim),
    (v) => Math.sqrt(squares(v)),
    { tolerance: 3 },
  ),
  ...row(
    'norm of order 1',
    (x, dims, keepdim) => sg.norm(x, 1, dims, keepdim),
    (v) => sum(v.map(Math.abs)),
    { tolerance: 3 },
  ),
  ...row(
    'norm of order ∞',
    (x, dims, keepdim) => sg.norm(x, Number.POSITIVE_INFINITY, dims, keepdim),
    (v) => largest(v.map(Math.abs)),
  ),
  // of one element it is linear: nothing to difference
  ...spread(
    row(
      'norm of order 3',
      (x, dims, keepdim) => sg.norm(x, 3, dims, keepdim),
      (v) => Math.cbrt(sum(v.map((e) => Math.abs(e) ** 3))),
      { dtypes: ['float32', 'float64'], low: 0.5, high: 2, tolerance: 10 },
    ),
  ),
  ...row(
    'norm of order −∞',
    (x, dims, keepdim) => sg.norm(x, Number.NEGATIVE_INFINITY, dims, keepdim),
    (v) => smallest(v.map(Math.abs)),
  ),
  {
    name: 'norm of order 0',
    inputs: [float([4, 5], 0, 1.5)],
    fn: (x) => sg.norm(sg.gt(x!, 0.5).to(x!.dtype), 0, 1),
    ref: (x) => reduce(x!, 1, false, (v) => v.filter((e) => e > 0.5).length),
    dtypes: ['float32', 'float64'],
  },
  {
    name: 'countNonzero',
    inputs: [float([4, 5], 0, 1.5)],
    fn: (x) => sg.countNonzero(x!, 1),
    ref: (x) => reduce(x!, 1, false, (v) => v.filter((e) => e !== 0).length),
    dtypes: [...numbers, 'bool'],
    result: 'int64',
  },
  ...[0, 1].flatMap((correction) =>
    spread(
      row(
        `variance, correction ${correction}`,
        (x, dims, keepdim) => sg.variance(x, dims, { correction, keepdim }),
        (v) => variance(v, correction),
        { tolerance: 3 },
      ),
    ),
  ),
  ...spread(
    row(
      'std',
      (x, dims, keepdim) => sg.std(x, dims, { keepdim }),
      (v) => Math.sqrt(variance(v, 1)),
      { tolerance: 3 },
    ),
  ),
  ...long('sum', sg.sum, sum, { tolerance: 3 }),
  ...long('mean', sg.mean, mean, { tolerance: 3 }),
  ...long('max', sg.max, largest),
  ...long('argmin', sg.argmin as Reduction, (v) => v.indexOf(smallest(v)), { result: 'int64' }),
  ...long('sumSquares', sg.sumSquares, squares, { tolerance: 3 }),
];
