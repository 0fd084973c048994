// Rows of sorting, selection and running sums.

import type { DType } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, floats, type Input, type Row } from '../helpers/op_table.js';
import { along, type Nd } from '../helpers/reference.js';

const every: readonly DType[] = [...floats, 'int64', 'int32', 'uint8'];
const constant = (shape: readonly number[]): Input => ({ shape, low: -4, high: 4, constant: true });

/** Positions in stable order. */
function ordered(values: readonly number[], descending: boolean): number[] {
  return values.map((_, i) => i).sort((a, b) => (descending ? values[b]! - values[a]! : values[a]! - values[b]!) || a - b);
}

function sorted(x: Nd, dim: number, descending: boolean): [Nd, Nd] {
  return [along(x, dim, (v) => ordered(v, descending).map((i) => v[i]!)), along(x, dim, (v) => ordered(v, descending))];
}

const shapes: [number[], number][] = [
  [[3, 5], -1],
  [[5, 3], 0],
  [[2, 4, 3], 1],
  [[1, 1], -1],
];

const sorts: Row[] = shapes.flatMap(([shape, dim]) =>
  [false, true].flatMap((descending): Row[] => [
    {
      name: `sort of [${shape}] along ${dim}${descending ? ', descending' : ''}`,
      inputs: [float(shape)],
      fn: (x) => sg.sort(x!, dim, { descending }),
      ref: (x) => sorted(x!, dim, descending),
      dtypes: every,
    },
    {
      name: `argsort of [${shape}] along ${dim}${descending ? ', descending' : ''}`,
      inputs: [float(shape)],
      fn: (x) => sg.argsort(x!, dim, { descending }),
      ref: (x) => sorted(x!, dim, descending)[1],
      dtypes: every,
      result: 'int64',
    },
  ]),
);

/** Whole numbers with many ties: what a stable sort does with them is part of the contract. */
const ties: Row[] = [false, true].map((descending) => ({
  name: `sort is stable${descending ? ', descending' : ''}`,
  inputs: [constant([2, 300])],
  fn: (x) => sg.sort(sg.round(x!), -1, { descending }),
  ref: (x) => sorted({ shape: x!.shape, data: x!.data.map((v) => (Math.abs(v % 1) === 0.5 ? 2 * Math.round(v / 2) : Math.round(v))) }, -1, descending),
  dtypes: every,
}));

const best: Row[] = shapes.slice(0, 3).flatMap(([shape, dim]) =>
  [true, false].map(
    (largest): Row => ({
      name: `topk of [${shape}] along ${dim}${largest ? '' : ', smallest'}`,
      inputs: [float(shape)],
      fn: (x) => sg.topk(x!, 2, dim, { largest }),
      ref: (x) => sorted(x!, dim, largest).map((part) => along(part, dim, (v) => v.slice(0, 2))),
    }),
  ),
);

const running = (x: Nd, dim: number, combine: (a: number, b: number) => number): Nd =>
  along(x, dim, (v) => {
    let total: number | null = null;
    return v.map((e) => (total = total === null ? e : combine(total, e)));
  });
const add = (a: number, b: number): number => a + b;
const multiply = (a: number, b: number): number => a * b;

const scans: Row[] = shapes.flatMap(([shape, dim]): Row[] => [
  { name: `cumsum of [${shape}] along ${dim}`, inputs: [float(shape)], fn: (x) => sg.cumsum(x!, dim), ref: (x) => running(x!, dim, add), tolerance: 3 },
  {
    name: `cumprod of [${shape}] along ${dim}`,
    inputs: [float(shape, 0.5, 2)],
    fn: (x) => sg.cumprod(x!, dim),
    ref: (x) => running(x!, dim, multiply),
    tolerance: 3,
  },
]);

export const rows: readonly Row[] = [
  ...sorts,
  ...ties,
  ...best,
  ...scans,
  {
    name: 'kthvalue',
    inputs: [float([3, 5])],
    fn: (x) => sg.kthvalue(x!, 2),
    ref: (x) => sorted(x!, -1, false).map((part) => ({ ...along(part, -1, (v) => [v[1]!]), shape: [3] })),
  },
  {
    name: 'cumsum of integers',
    inputs: [float([3, 5], 0, 4)],
    fn: (x) => sg.cumsum(x!, 1),
    ref: (x) => running(x!, 1, add),
    dtypes: ['int64', 'int32', 'uint8', 'bool'],
    result: 'int64',
  },
  {
    name: 'cumprod of integers',
    inputs: [float([3, 5], 0, 4)],
    fn: (x) => sg.cumprod(x!, 1),
    ref: (x) => running(x!, 1, multiply),
    dtypes: ['int64', 'int32', 'uint8'],
    result: 'int64',
  },
  {
    name: 'cumprod with zeros',
    inputs: [float([2, 4])],
    fn: (x) => sg.cumprod(sg.mul(x!, sg.tensor([1, 1, 0, 1], { dtype: x?.dtype, device: x?.device })), 1),
    ref: (x) => running({ shape: [2, 4], data: x!.data.map((v, i) => (i % 4 === 2 ? 0 : v)) }, 1, multiply),
    tolerance: 3,
  },
  {
    name: 'cumsum of long rows',
    inputs: [constant([2, 1037])],
    fn: (x) => sg.cumsum(x!, -1),
    ref: (x) => running(x!, -1, add),
    dtypes: ['float32', 'float64'],
    tolerance: 5,
  },
];
