// Rows of views, joining, repeating, triangles, casts and copies. The laws of views are in 11-properties.

import type { DType } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, floats, type Row } from '../helpers/op_table.js';
import { along, at, build, expand, type Nd, nd, permute, reshape } from '../helpers/reference.js';

const every: readonly DType[] = [...floats, 'int64', 'int32', 'uint8', 'bool'];

/** Parts along one dimension, one after another. */
function cat(parts: readonly Nd[], dim: number): Nd {
  const sizes = parts.map((p) => p.shape[dim]!);
  const total = sizes.reduce((a, b) => a + b, 0);
  return build(
    parts[0]!.shape.map((s, d) => (d === dim ? total : s)),
    (k) => {
      let [i, which] = [k[dim]!, 0];
      while (i >= sizes[which]!) i -= sizes[which++]!;
      return at(
        parts[which]!,
        k.map((v, d) => (d === dim ? i : v)),
      );
    },
  );
}

const narrow = (x: Nd, dim: number, start: number, length: number): Nd => along(x, dim, (v) => v.slice(start, start + length));
const triangle = (x: Nd, keep: (i: number, j: number) => boolean): Nd => build(x.shape, (k) => (keep(k.at(-2)!, k.at(-1)!) ? at(x, k) : 0));

const joins: Row[] = [
  { name: 'cat along 0', inputs: [float([2, 3]), float([1, 3]), float([0, 3])], fn: (...x) => sg.cat(x, 0), ref: (...x) => cat(x, 0), dtypes: every },
  { name: 'cat along -1', inputs: [float([2, 1, 3]), float([2, 1, 2])], fn: (...x) => sg.cat(x, -1), ref: (...x) => cat(x, 2), dtypes: every },
  {
    name: 'stack',
    inputs: [float([2, 3]), float([2, 3])],
    fn: (...x) => sg.stack(x, 1),
    ref: (...x) =>
      cat(
        x.map((p) => reshape(p, [2, 1, 3])),
        1,
      ),
    dtypes: every,
  },
  { name: 'split into equal parts', inputs: [float([5, 2])], fn: (x) => sg.split(x!, 2), ref: (x) => [0, 2, 4].map((i) => narrow(x!, 0, i, 2)), dtypes: every },
  {
    name: 'split by sizes',
    inputs: [float([2, 6])],
    fn: (x) => sg.split(x!, [1, 2, 3], 1),
    ref: (x) =>
      [
        [0, 1],
        [1, 2],
        [3, 3],
      ].map(([i, n]) => narrow(x!, 1, i!, n!)),
  },
  {
    name: 'chunk',
    inputs: [float([2, 7])],
    fn: (x) => sg.chunk(x!, 3, 1),
    ref: (x) =>
      [
        [0, 3],
        [3, 3],
        [6, 1],
      ].map(([i, n]) => narrow(x!, 1, i!, n!)),
  },
  { name: 'unbind', inputs: [float([2, 3])], fn: (x) => sg.unbind(x!, 1), ref: (x) => [0, 1, 2].map((i) => reshape(narrow(x!, 1, i, 1), [2])) },
];

/** The element at place i of a padded line, or null for the fill value. */
const modes: [sg.PadMode, (i: number, n: number) => number | null][] = [
  ['constant', (i, n) => (i >= 0 && i < n ? i : null)],
  ['replicate', (i, n) => Math.min(Math.max(i, 0), n - 1)],
  ['circular', (i, n) => (i + n) % n],
  ['reflect', (i, n) => (i < 0 ? -i : i < n ? i : 2 * (n - 1) - i)],
];

const padding: Row[] = [
  ...modes.map(
    ([mode, place]): Row => ({
      name: `pad, ${mode}`,
      inputs: [float([2, 3, 4])],
      fn: (x) => sg.pad(x!, [2, 1], mode === 'constant' ? { value: 0.5 } : { mode }),
      ref: (x) => along(x!, -1, (v) => Array.from({ length: 7 }, (_, i) => place(i - 2, 4)).map((i) => (i === null ? 0.5 : v[i]!))),
    }),
  ),
  {
    name: 'pad two dimensions and cut',
    inputs: [float([2, 3, 4])],
    fn: (x) => sg.pad(x!, [-1, 2, 1, 0]),
    ref: (x) => build([2, 4, 5], ([a, b, c]) => (b! >= 1 && c! < 3 ? at(x!, [a!, b! - 1, c! + 1]) : 0)),
    dtypes: every,
  },
];

const moves: Row[] = [
  {
    name: 'roll',
    inputs: [float([3, 4])],
    fn: (x) => sg.roll(x!, [1, -1], [0, 1]),
    ref: (x) => build([3, 4], ([a, b]) => at(x!, [(a! + 2) % 3, (b! + 1) % 4])),
    dtypes: every,
  },
  { name: 'roll of the flattened tensor', inputs: [float([3, 4])], fn: (x) => sg.roll(x!, 5), ref: (x) => nd([3, 4], (i) => x!.data[(i + 7) % 12]!) },
  { name: 'flip', inputs: [float([3, 4])], fn: (x) => sg.flip(x!, [0, 1]), ref: (x) => nd([3, 4], (i) => x!.data[11 - i]!), dtypes: every },
  {
    name: 'repeat',
    inputs: [float([2, 3])],
    fn: (x) => sg.repeat(x!, [2, 1, 2]),
    ref: (x) => build([2, 2, 6], ([, b, c]) => at(x!, [b!, c! % 3])),
    dtypes: every,
  },
  { name: 'tile', inputs: [float([2, 3])], fn: (x) => sg.tile(x!, [2]), ref: (x) => build([2, 6], ([b, c]) => at(x!, [b!, c! % 3])) },
  {
    name: 'repeatInterleave',
    inputs: [float([2, 3])],
    fn: (x) => sg.repeatInterleave(x!, 2, 1),
    ref: (x) => build([2, 6], ([b, c]) => at(x!, [b!, Math.floor(c! / 2)])),
  },
  {
    name: 'repeatInterleave by counts',
    inputs: [float([3, 2])],
    fn: (x) => sg.repeatInterleave(x!, [2, 0, 1], 0),
    ref: (x) => build([3, 2], ([b, c]) => at(x!, [[0, 0, 2][b!]!, c!])),
  },
  ...[-1, 0, 2].flatMap((d): Row[] => [
    { name: `tril ${d}`, inputs: [float([2, 3, 4])], fn: (x) => sg.tril(x!, d), ref: (x) => triangle(x!, (i, j) => j <= i + d), dtypes: every },
    { name: `triu ${d}`, inputs: [float([2, 3, 4])], fn: (x) => sg.triu(x!, d), ref: (x) => triangle(x!, (i, j) => j >= i + d), dtypes: every },
  ]),
];

const views: Row[] = [
  { name: 'flatten', inputs: [float([2, 3, 4])], fn: (x) => sg.flatten(x!, 1), ref: (x) => reshape(x!, [2, 12]) },
  { name: 'unflatten', inputs: [float([2, 6])], fn: (x) => sg.unflatten(x!, 1, [2, -1]), ref: (x) => reshape(x!, [2, 2, 3]) },
  { name: 'movedim', inputs: [float([2, 3, 4])], fn: (x) => sg.movedim(x!, 0, 2), ref: (x) => permute(x!, [1, 2, 0]) },
  { name: 'mT', inputs: [float([2, 3, 4])], fn: (x) => sg.mT(x!), ref: (x) => permute(x!, [0, 2, 1]) },
  { name: 't', inputs: [float([3, 4])], fn: (x) => sg.t(x!), ref: (x) => permute(x!, [1, 0]) },
  { name: 'expandAs', inputs: [float([3, 1]), { ...float([2, 3, 4]), constant: true }], fn: (x, y) => sg.expandAs(x!, y!), ref: (x) => expand(x!, [2, 3, 4]) },
  { name: 'squeeze', inputs: [float([1, 3, 1, 2])], fn: (x) => sg.squeeze(x!, [0, 1]), ref: (x) => reshape(x!, [3, 1, 2]) },
  { name: 'narrow', inputs: [float([4, 5])], fn: (x) => sg.narrow(x!, 1, -3, 2), ref: (x) => narrow(x!, 1, 2, 2) },
  { name: 'clone', inputs: [float([2, 3])], fn: (x) => sg.clone(x!), ref: (x) => x!, dtypes: every },
  { name: 'contiguous', inputs: [float([2, 3])], fn: (x) => sg.contiguous(sg.t(x!)), ref: (x) => permute(x!, [1, 0]), dtypes: every },
  {
    name: 'meshgrid',
    inputs: [float([2]), float([3])],
    fn: (...x) => sg.meshgrid(x, { indexing: 'xy' }),
    ref: (a, b) => [build([3, 2], ([, j]) => a!.data[j!]!), build([3, 2], ([i]) => b!.data[i!]!)],
  },
];

const casts: Row[] = (['float32', 'float64', 'float16', 'bfloat16', 'int32', 'int64'] as const).map((to) => ({
  name: `to ${to}`,
  // a difference of float64 numbers is lost in a narrower dtype
  inputs: [{ ...float([2, 37]), constant: to !== 'float64' }],
  fn: (x) => sg.to(x!, to),
  ref: (x) => (to.startsWith('int') ? nd(x!.shape, (i) => Math.trunc(x!.data[i]!)) : x!),
  dtypes: to === 'float32' || to === 'float64' ? every : ['float64', 'float32', to],
  result: to,
}));

export const rows: readonly Row[] = [...joins, ...padding, ...moves, ...views, ...casts];
