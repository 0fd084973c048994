// Rows of products made of others, of distances and of diagonals.
import * as sg from '../../lib/index.js';
import { float, floats, type Row } from '../helpers/op_table.js';
import { at, build, map, matmul, type Nd, permute, reshape, sum } from '../helpers/reference.js';

const crossed = (x: Nd, y: Nd, d: number): Nd =>
  build(x.shape, (index) => {
    const of = (z: Nd, i: number): number => at(z, index.with(d, (index[d]! + i) % 3));
    return of(x, 1) * of(y, 2) - of(x, 2) * of(y, 1);
  });
const distance = (p: number, u: number[]): number => (p === Infinity ? Math.max(...u.map(Math.abs)) : sum(u.map((v) => Math.abs(v) ** p)) ** (1 / p));
const distances = (a: Nd, b: Nd, p: number): Nd =>
  build([a.shape[0]!, b.shape[0]!], ([i, j]) =>
    distance(
      p,
      Array.from({ length: a.shape[1]! }, (_, k) => at(a, [i!, k]) - at(b, [j!, k])),
    ),
  );

export const rows: readonly Row[] = [
  {
    name: 'cross',
    inputs: [float([2, 3]), float([2, 3])],
    fn: (a, b) => sg.cross(a!, b!),
    ref: (a, b) => crossed(a!, b!, 1),
    dtypes: [...floats, 'int64'],
    tolerance: 3,
  },
  {
    // squared: with the weights of the test, the second gradient of the product itself is 0
    name: 'cross along 0, squared',
    inputs: [float([3, 4]), float([3, 4])],
    fn: (a, b) => sg.square(sg.cross(a!, b!, 0)),
    ref: (a, b) => map((v) => v * v, crossed(a!, b!, 0)),
    tolerance: 6,
  },
  {
    name: 'kron',
    inputs: [float([2, 3]), float([4, 2])],
    fn: (a, b) => sg.kron(a!, b!),
    ref: (a, b) => build([8, 6], ([i, j]) => at(a!, [i! >> 2, j! >> 1]) * at(b!, [i! % 4, j! % 2])),
    dtypes: [...floats, 'int64'],
  },
  {
    name: 'kron of a vector and a matrix',
    inputs: [float([3]), float([2, 2])],
    fn: (a, b) => sg.kron(a!, b!),
    ref: (a, b) => build([2, 6], ([i, j]) => at(a!, [j! >> 1]) * at(b!, [i!, j! % 2])),
  },
  {
    name: 'tensordot',
    inputs: [float([2, 3, 4]), float([3, 4, 5])],
    fn: (a, b) => sg.tensordot(a!, b!),
    ref: (a, b) => matmul(reshape(a!, [2, 12]), reshape(b!, [12, 5])),
    tolerance: 3,
  },
  {
    name: 'tensordot of lists',
    inputs: [float([2, 3, 4]), float([5, 4, 2])],
    fn: (a, b) =>
      sg.tensordot(a!, b!, [
        [2, 0],
        [1, 2],
      ]),
    ref: (a, b) => matmul(reshape(permute(a!, [1, 2, 0]), [3, 8]), reshape(permute(b!, [1, 2, 0]), [8, 5])),
    tolerance: 3,
  },
  ...[1, 2, 3, Infinity].map(
    (p): Row => ({
      name: `cdist of order ${p}`,
      inputs: [float([4, 3]), float([5, 3])],
      fn: (a, b) => sg.cdist(a!, b!, p),
      ref: (a, b) => distances(a!, b!, p),
      tolerance: 6,
    }),
  ),
  {
    name: 'cdist by a product',
    inputs: [float([27, 3]), float([2, 3])],
    fn: (a, b) => sg.cdist(a!, b!),
    ref: (a, b) => distances(a!, b!, 2),
    tolerance: 6,
  },
  ...[-2, 0, 1].flatMap((offset): Row[] => [
    {
      name: `diagEmbed ${offset}`,
      inputs: [float([2, 3])],
      fn: (x) => sg.diagEmbed(x!, offset),
      ref: (x) => build([2, 3 + Math.abs(offset), 3 + Math.abs(offset)], ([b, i, j]) => (j! - i! === offset ? at(x!, [b!, Math.min(i!, j!)]) : 0)),
      dtypes: [...floats, 'int64', 'uint8'],
    },
    {
      name: `diag ${offset} of a matrix`,
      inputs: [float([3, 4])],
      fn: (x) => sg.diag(x!, offset),
      ref: (x) => build([offset === 0 || offset === 1 ? 3 : 1], ([i]) => at(x!, [i! + Math.max(0, -offset), i! + Math.max(0, offset)])),
    },
  ]),
  {
    name: 'diagEmbed in other dimensions',
    inputs: [float([2, 3])],
    fn: (x) => sg.diagEmbed(x!, 1, 2, 0),
    ref: (x) => build([4, 2, 4], ([j, b, i]) => (j! - i! === 1 ? at(x!, [b!, i!]) : 0)),
  },
];
