// Rows of chosen elements: largest, smallest, middle, most frequent, and those so far.

import type { DType } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, floats, type Row } from '../helpers/op_table.js';
import { along, type Nd, reshape } from '../helpers/reference.js';

const every: readonly DType[] = [...floats, 'int64', 'int32', 'uint8'];

/** The element at the position that `pick` gives of each run, and that position. */
const picked = (x: Nd, dim: number, keepdim: boolean, pick: (values: number[]) => number): Nd[] => {
  const kept = (part: Nd): Nd => (keepdim ? part : reshape(part, part.shape.toSpliced(dim < 0 ? dim + x.shape.length : dim, 1)));
  return [kept(along(x, dim, (v) => [v[pick(v)]!])), kept(along(x, dim, (v) => [pick(v)]))];
};
const largest = (v: readonly number[]): number => v.indexOf(Math.max(...v));
const smallest = (v: readonly number[]): number => v.indexOf(Math.min(...v));
const middle = (v: readonly number[]): number => v.map((e, i) => [e, i] as const).sort((a, b) => a[0] - b[0] || a[1] - b[1])[Math.ceil(v.length / 2) - 1]![1];
const frequent = (v: readonly number[]): number => {
  const count = (e: number): number => v.filter((other) => other === e).length;
  return v.lastIndexOf([...v].sort((a, b) => count(b) - count(a) || a - b)[0]!);
};

/** Elements so far by `wins`, and the positions where they come last. */
const running = (x: Nd, dim: number, wins: (later: number, earlier: number) => boolean): Nd[] => {
  const positions = (v: readonly number[]): number[] => {
    let best = 0;
    return v.map((e, i) => (best = wins(e, v[best]!) ? i : best));
  };
  return [along(x, dim, (v) => positions(v).map((i) => v[i]!)), along(x, dim, positions)];
};

const shapes: [number[], number][] = [
  [[3, 5], -1],
  [[6, 3], 0],
  [[2, 4, 3], 1],
  [[1, 1], -1],
];

export const rows: readonly Row[] = [
  ...shapes.flatMap(([shape, dim], i): Row[] => {
    const keepdim = i % 2 === 1;
    const one = (name: string, fn: (x: sg.Tensor, dim: number, keepdim: boolean) => sg.Tensor[], pick: (v: number[]) => number): Row => ({
      name: `${name} of [${shape}] along ${dim}${keepdim ? ', dimension kept' : ''}`,
      inputs: [float(shape)],
      fn: (x) => fn(x!, dim, keepdim),
      ref: (x) => picked(x!, dim, keepdim, pick),
      dtypes: every,
    });
    return [
      one('maxWithIndices', sg.maxWithIndices, largest),
      one('minWithIndices', sg.minWithIndices, smallest),
      one('medianWithIndices', sg.medianWithIndices, middle),
      {
        name: `median of [${shape}] along ${dim}`,
        inputs: [float(shape)],
        fn: (x) => sg.median(x!, dim, keepdim),
        ref: (x) => picked(x!, dim, keepdim, middle)[0]!,
        dtypes: every,
      },
      {
        name: `cummax of [${shape}] along ${dim}`,
        inputs: [float(shape)],
        fn: (x) => sg.cummax(x!, dim),
        ref: (x) => running(x!, dim, (a, b) => a >= b),
        dtypes: every,
      },
      {
        name: `cummin of [${shape}] along ${dim}`,
        inputs: [float(shape)],
        fn: (x) => sg.cummin(x!, dim),
        ref: (x) => running(x!, dim, (a, b) => a <= b),
        dtypes: every,
      },
      {
        name: `aminmax of [${shape}] along ${dim}`,
        inputs: [float(shape)],
        fn: (x) => sg.cat(sg.aminmax(x!, dim, true), dim),
        ref: (x) => along(x!, dim, (v) => [Math.min(...v), Math.max(...v)]),
        dtypes: every,
      },
    ];
  }),
  {
    name: 'median of all elements',
    inputs: [float([3, 4])],
    fn: (x) => sg.median(x!),
    ref: (x) => reshape(picked(reshape(x!, [12]), 0, true, middle)[0]!, []),
    dtypes: every,
  },
  ...shapes.map(
    ([shape, dim], i): Row => ({
      name: `mode of [${shape}] along ${dim}`,
      inputs: [{ ...float(shape, 0, 3), constant: true }],
      fn: (x) => sg.mode(sg.floor(x!), dim, i % 2 === 1),
      ref: (x) => picked({ shape: x!.shape, data: x!.data.map(Math.floor) }, dim, i % 2 === 1, frequent),
      dtypes: every,
    }),
  ),
  {
    name: 'kthvalue, dimension kept',
    inputs: [float([4, 3])],
    fn: (x) => sg.kthvalue(x!, 2, 0, true),
    ref: (x) => picked(x!, 0, true, (v) => v.indexOf([...v].sort((a, b) => a - b)[1]!)),
  },
];
