// Rows of counting and looking up.
import type { DType } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, floats, type Input, type Row } from '../helpers/op_table.js';
import { along, build, map, type Nd, nd } from '../helpers/reference.js';

const whole: readonly DType[] = ['int64', 'int32', 'uint8'];
const some = (shape: number[], low: number, high: number): Input => ({ shape, low, high, constant: true });
const ascending = (x: Nd): Nd => along(x, -1, (v) => v.toSorted((a, b) => a - b));
/** Values of a few kinds, so that some are equal. */
const rounded = (x: sg.Tensor): sg.Tensor => sg.floor(x);
const floors = (x: Nd): Nd => map(Math.floor, x);
const sortedTable = (x: sg.Tensor): sg.Tensor => sg.sort(rounded(x))[0];

function place(table: readonly number[], value: number, right: boolean): number {
  const found = table.findIndex((t) => (right ? t > value : t >= value));
  return found < 0 ? table.length : found;
}

function uniqueOf(values: number[], shape: readonly number[], kinds: number[], which: (i: number) => number): Nd[] {
  const inverse = values.map((_, i) => which(i));
  return [nd([kinds.length], kinds), nd(shape, inverse), nd([kinds.length], (k) => inverse.filter((i) => i === k).length)];
}

export const rows: readonly Row[] = [
  {
    name: 'bincount',
    inputs: [some([12], 0, 6)],
    fn: (x) => sg.bincount(x!),
    ref: (x) => build([Math.max(...x!.data) + 1], ([i]) => x!.data.filter((v) => v === i).length),
    dtypes: whole,
    result: 'int64',
    dataDependent: true,
  },
  {
    name: 'bincount of weights',
    inputs: [{ shape: [8], low: 0, high: 4, dtype: 'int64' }, float([8])],
    fn: (x, w) => sg.bincount(x!, { weights: w!, minLength: 6 }),
    ref: (x, w) => build([6], ([i]) => w!.data.reduce((sum, v, k) => sum + (x!.data[k] === i ? v : 0), 0)),
    tolerance: 4,
    dataDependent: true,
  },
  {
    name: 'histc',
    inputs: [some([5, 8], -3, 3)],
    fn: (x) => sg.histc(x!, 4, -2, 2),
    ref: (x) => build([4], ([i]) => x!.data.filter((v) => v >= -2 && v <= 2 && Math.min(3, Math.floor(v + 2)) === i).length),
  },
  {
    name: 'histc of all there are',
    inputs: [some([40], -3, 3)],
    fn: (x) => sg.histc(x!, 5),
    ref: (x) => {
      const [low, high] = [Math.min(...x!.data), Math.max(...x!.data)];
      return build([5], ([i]) => x!.data.filter((v) => Math.min(4, Math.floor(((v - low) / (high - low)) * 5)) === i).length);
    },
  },
  ...[false, true].flatMap((right): Row[] => [
    {
      name: `searchsorted in one row${right ? ', right' : ''}`,
      inputs: [some([7], 0, 6), some([3, 4], -1, 8)],
      fn: (t, x) => sg.searchsorted(sortedTable(t!), rounded(x!), { right }),
      ref: (t, x) => map((v) => place(Array.from(ascending(floors(t!)).data), v, right), floors(x!)),
      dtypes: [...floats, 'int64', 'int32'],
      result: 'int64',
    },
    {
      name: `searchsorted row by row${right ? ', right' : ''}`,
      inputs: [some([2, 6], 0, 5), some([2, 4], -1, 7)],
      fn: (t, x) => sg.searchsorted(sortedTable(t!), rounded(x!), { right }),
      ref: (t, x) => {
        const table = ascending(floors(t!));
        return along(floors(x!), 1, (v, line) => v.map((e) => place(Array.from(table.data.subarray(6 * line, 6 * line + 6)), e, right)));
      },
      result: 'int64',
    },
  ]),
  {
    name: 'bucketize',
    inputs: [some([3, 4], -3, 3), some([5], -3, 3)],
    fn: (x, t) => sg.bucketize(x!, sg.sort(t!)[0]),
    ref: (x, t) => map((v) => place(Array.from(ascending(t!).data), v, false), x!),
    result: 'int64',
  },
  {
    name: 'unique',
    inputs: [some([3, 5], 0, 4)],
    fn: (x) => sg.unique(rounded(x!)),
    ref: (x) => {
      const values = Array.from(floors(x!).data);
      const kinds = [...new Set(values)].sort((a, b) => a - b);
      return uniqueOf(values, [3, 5], kinds, (i) => kinds.indexOf(values[i]!));
    },
    dtypes: [...floats, ...whole],
    dataDependent: true,
  },
  {
    name: 'uniqueConsecutive',
    inputs: [some([3, 5], 0, 2)],
    fn: (x) => sg.uniqueConsecutive(rounded(x!)),
    ref: (x) => {
      const values = Array.from(floors(x!).data);
      const begins = values.map((v, i) => Number(i === 0 || v !== values[i - 1]));
      const run = (i: number): number => begins.slice(0, i + 1).reduce((a, b) => a + b) - 1;
      return uniqueOf(
        values,
        [3, 5],
        values.filter((_, i) => begins[i] === 1),
        run,
      );
    },
    dtypes: [...floats, ...whole],
    dataDependent: true,
  },
];
