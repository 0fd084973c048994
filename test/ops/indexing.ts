// Rows of reading and writing by index: gather and scatter, whole slices, PyTorch's indexing, masks.

import type { DType, Tensor } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, floats, type Input, index, mask, type Row } from '../helpers/op_table.js';
import { at, build, type Nd, nd, unravel } from '../helpers/reference.js';

const wide: readonly DType[] = [...floats, 'int64', 'uint8'];
const addable: readonly DType[] = [...floats, 'int64', 'int32'];
const negative = (shape: readonly number[], size: number, dtype: DType = 'int64'): Input => index(shape, size, -size, dtype);
const wrap = (i: number, size: number): number => (i < 0 ? i + size : i);
const replace = (list: readonly number[], d: number, value: number): number[] => list.map((v, i) => (i === d ? value : v));

function gather(x: Nd, dim: number, idx: Nd): Nd {
  return build(idx.shape, (k) => at(x, replace(k, dim, wrap(at(idx, k), x.shape[dim]!))));
}

/** Calls write(target position, source value) for every element of the index, in row-major order. */
function scatter(x: Nd, dim: number, idx: Nd, src: Nd, combine: (old: number, added: number) => number): Nd {
  const out = nd(x.shape, x.data);
  for (let i = 0; i < idx.data.length; i++) {
    const k = unravel(i, idx.shape);
    const target = replace(k, dim, wrap(idx.data[i]!, x.shape[dim]!)).reduce((p, v, d) => p * x.shape[d]! + v, 0);
    out.data[target] = combine(out.data[target]!, at(src, k));
  }
  return out;
}

/** Whole slices of `dim` by a one-dimensional index. */
const select = (x: Nd, dim: number, idx: Nd): Nd =>
  build(replace(x.shape, dim, idx.data.length), (k) => at(x, replace(k, dim, wrap(idx.data[k[dim]!]!, x.shape[dim]!))));
const spread = (idx: Nd, dim: number, shape: readonly number[]): Nd => build(shape, (k) => idx.data[k[dim]!]!);

const sum = (a: number, b: number): number => a + b;
const last = (_: number, b: number): number => b;

const along: Row[] = [0, 1, -1].flatMap((dim): Row[] => {
  const d = dim < 0 ? dim + 2 : dim;
  const size = [4, 3][d]!;
  return [
    {
      name: `gather along ${dim}`,
      inputs: [float([4, 3]), negative([4, 3], size)],
      fn: (x, i) => sg.gather(x!, dim, i!),
      ref: (x, i) => gather(x!, d, i!),
      dtypes: wide,
    },
    {
      name: `scatterAdd along ${dim}`,
      inputs: [float([4, 3]), negative([3, 3], size), float([4, 3])],
      fn: (x, i, s) => sg.scatterAdd(x!, dim, i!, s!),
      ref: (x, i, s) => scatter(x!, d, i!, s!, sum),
      dtypes: addable,
      tolerance: 2,
    },
    {
      name: `indexSelect along ${dim}`,
      inputs: [float([4, 3]), negative([5], size, 'int32')],
      fn: (x, i) => sg.indexSelect(x!, dim, i!),
      ref: (x, i) => select(x!, d, i!),
      dtypes: wide,
    },
    {
      name: `indexAdd along ${dim}`,
      inputs: [float([4, 3]), negative([5], size), float(replace([4, 3], d, 5))],
      fn: (x, i, s) => sg.indexAdd(x!, dim, i!, s!),
      ref: (x, i, s) => scatter(x!, d, spread(i!, d, s!.shape), s!, sum),
      dtypes: addable,
      tolerance: 2,
    },
  ];
});

// no position twice, so that every source element has a slope of its own
const order = [
  [2, 0, 1],
  [0, 1, 2],
  [1, 2, 0],
  [2, 1, 0],
];
const given = (like: Tensor): Tensor => sg.fromTypedArray(BigInt64Array.from(order.flat(), BigInt), [4, 3], { device: like?.device });

const writing: Row[] = [
  {
    name: 'scatter',
    inputs: [float([4, 3]), float([4, 3])],
    fn: (x, s) => sg.scatter(x!, 1, given(x!), s!),
    ref: (x, s) => scatter(x!, 1, nd([4, 3], order.flat()), s!, last),
    dtypes: wide,
  },
  {
    name: 'scatter of a number',
    inputs: [float([4, 3]), index([4, 2], 3)],
    fn: (x, i) => sg.scatter(x!, 1, i!, 7),
    ref: (x, i) =>
      scatter(
        x!,
        1,
        i!,
        nd([4, 2], () => 7),
        last,
      ),
    dtypes: wide,
  },
  {
    name: 'the last of repeated writes wins',
    inputs: [{ ...float([4, 3]), constant: true }, index([4, 3], 2), { ...float([4, 3]), constant: true }],
    fn: (x, i, s) => sg.scatter(x!, 1, i!, s!),
    ref: (x, i, s) => scatter(x!, 1, i!, s!, last),
    dtypes: wide,
  },
  {
    name: 'indexAdd with alpha',
    inputs: [float([4, 3]), index([2], 4), float([2, 3])],
    fn: (x, i, s) => sg.indexAdd(x!, 0, i!, s!, { alpha: 2 }),
    ref: (x, i, s) => scatter(x!, 0, spread(i!, 0, [2, 3]), s!, (a, b) => a + 2 * b),
    tolerance: 2,
  },
  { name: 'takeAlongDim', inputs: [float([4, 3]), index([4, 1], 3)], fn: (x, i) => sg.takeAlongDim(x!, i!, 1), ref: (x, i) => gather(x!, 1, i!), dtypes: wide },
];

/** x.index(…) against a function of the result's index and the index tensors. */
function indexed(
  name: string,
  shape: number[],
  items: (i: Tensor[]) => sg.IndexItem[],
  indices: Input[],
  result: number[],
  source: (k: number[], i: Nd[]) => number[],
): Row {
  return {
    name: `index ${name}`,
    inputs: [float(shape), ...indices],
    fn: (x, ...i) => sg.index(x!, ...items(i)),
    ref: (x, ...i) =>
      build(result, (k) =>
        at(
          x!,
          source(k, i).map((v, d) => wrap(v, shape[d]!)),
        ),
      ),
    dtypes: wide,
  };
}

const rowsAndColumns: Row[] = [
  indexed(
    '[2]',
    [4, 5],
    () => [2],
    [],
    [5],
    ([j]) => [2, j!],
  ),
  indexed(
    '[-1, 1:4]',
    [4, 5],
    () => [-1, sg.slice(1, 4)],
    [],
    [3],
    ([j]) => [3, j! + 1],
  ),
  indexed(
    '[..., 0]',
    [2, 3, 4],
    () => ['...', 0],
    [],
    [2, 3],
    ([a, b]) => [a!, b!, 0],
  ),
  indexed(
    '[:, new, ::-2]',
    [2, 5],
    () => [sg.slice(), null, sg.slice(null, null, -2)],
    [],
    [2, 1, 3],
    ([a, , c]) => [a!, 4 - 2 * c!],
  ),
  indexed(
    '[rows]',
    [4, 5],
    ([r]) => [r!],
    [negative([2, 3], 4)],
    [2, 3, 5],
    ([a, b, c], [r]) => [at(r!, [a!, b!]), c!],
  ),
  indexed(
    '[:, columns]',
    [4, 5],
    ([c]) => [sg.slice(), c!],
    [negative([3], 5)],
    [4, 3],
    ([a, b], [c]) => [a!, at(c!, [b!])],
  ),
  indexed(
    '[rows, columns]',
    [4, 5],
    ([r, c]) => [r!, c!],
    [index([3, 1], 4), index([2], 5, 0, 'int32')],
    [3, 2],
    ([a, b], [r, c]) => [at(r!, [a!, 0]), at(c!, [b!])],
  ),
  indexed(
    '[:, i, j]',
    [2, 4, 5],
    ([i, j]) => [sg.slice(), i!, j!],
    [index([3], 4), index([3], 5)],
    [2, 3],
    ([a, b], [i, j]) => [a!, at(i!, [b!]), at(j!, [b!])],
  ),
  indexed(
    '[i, :, j] puts the block in front',
    [4, 3, 5],
    ([i, j]) => [i!, sg.slice(), j!],
    [index([2], 4), index([2], 5)],
    [2, 3],
    ([a, b], [i, j]) => [at(i!, [a!]), b!, at(j!, [a!])],
  ),
  indexed(
    '[array]',
    [4, 3],
    () => [[3, 0, -2]],
    [],
    [3, 3],
    ([a, b]) => [[3, 0, 2][a!]!, b!],
  ),
];

/** Positions of a mask's true elements. */
const marked = (m: Nd): number[][] =>
  Array.from(m.data.keys())
    .filter((i) => m.data[i] !== 0)
    .map((i) => unravel(i, m.shape));

const masks: Row[] = [
  {
    name: 'index [mask]',
    inputs: [float([4, 3]), mask([4])],
    fn: (x, m) => sg.index(x!, m!),
    ref: (x, m) => build([marked(m!).length, 3], ([a, b]) => at(x!, [marked(m!)[a!]![0]!, b!])),
    dataDependent: true,
  },
  {
    name: 'index [:, mask]',
    inputs: [float([4, 3]), mask([3])],
    fn: (x, m) => sg.index(x!, sg.slice(), m!),
    ref: (x, m) => build([4, marked(m!).length], ([a, b]) => at(x!, [a!, marked(m!)[b!]![0]!])),
    dataDependent: true,
  },
  {
    name: 'maskedSelect',
    inputs: [float([4, 3]), mask([4, 3])],
    fn: (x, m) => sg.maskedSelect(x!, m!),
    ref: (x, m) => nd([marked(m!).length], (i) => at(x!, marked(m!)[i]!)),
    dataDependent: true,
    dtypes: wide,
  },
  {
    name: 'nonzero',
    inputs: [float([3, 4], 0, 2)],
    fn: (x) => sg.nonzero(x!),
    ref: (x) => nd([marked(x!).length, 2], marked(x!).flat()),
    dataDependent: true,
    dtypes: ['int64', 'uint8', 'bool', 'float32'],
    result: 'int64',
  },
];

/** Rows and columns of three elements; when accumulating, two of them are the same. */
const places = (accumulate: boolean): [number[], number[]] =>
  accumulate
    ? [
        [0, 3, 0],
        [1, 2, 1],
      ]
    : [
        [0, 3, 1],
        [1, 2, 1],
      ];

const puts: Row[] = [false, true].map((accumulate) => ({
  name: `indexPut${accumulate ? ', accumulating' : ''}`,
  inputs: [float([4, 3]), float([3])],
  fn: (x, v) => sg.indexPut(x!, places(accumulate), v!, { accumulate }),
  ref: (x, v) => {
    const [rows, columns] = places(accumulate);
    const out = nd(x!.shape, x!.data);
    rows.forEach((row, i) => {
      const at = row * 3 + columns[i]!;
      out.data[at] = (accumulate ? out.data[at]! : 0) + v!.data[i]!;
    });
    return out;
  },
  dtypes: addable,
  tolerance: 2,
}));

const slices: Row = {
  name: 'indexPut of a slice and a new axis',
  inputs: [float([4, 3]), float([2, 1, 3])],
  fn: (x, v) => sg.indexPut(x!, [sg.slice(1, 3), null], v!),
  ref: (x, v) => build([4, 3], ([a, b]) => (a === 1 || a === 2 ? at(v!, [a - 1, 0, b!]) : at(x!, [a!, b!]))),
  dtypes: wide,
};

export const rows: readonly Row[] = [...along, ...writing, ...rowsAndColumns, ...masks, ...puts, slices];
