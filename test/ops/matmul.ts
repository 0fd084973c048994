// Rows of the matrix products: every combination of ranks, products past one block of the kernel, and the fused blocks.

import type { Tensor } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { float, floats, type Input, type Row } from '../helpers/op_table.js';
import { along, build, map, matmul, type Nd, permute, reduce, reshape, softmaxOf, sum, transpose } from '../helpers/reference.js';

/** PyTorch's matmul of any ranks, by the one of matrices. */
function product(a: Nd, b: Nd): Nd {
  const left = a.shape.length === 1 ? reshape(a, [1, ...a.shape]) : a;
  const right = b.shape.length === 1 ? reshape(b, [...b.shape, 1]) : b;
  const y = matmul(left, right);
  const shape = y.shape.filter((_, d) => !(a.shape.length === 1 && d === y.shape.length - 2) && !(b.shape.length === 1 && d === y.shape.length - 1));
  return reshape(y, shape);
}

const ranks: [number[], number[]][] = [
  [[5], [5]],
  [[3, 5], [5]],
  [[5], [5, 4]],
  [
    [3, 5],
    [5, 4],
  ],
  [
    [2, 3, 5],
    [5, 4],
  ],
  [
    [3, 5],
    [2, 5, 4],
  ],
  [
    [2, 3, 5],
    [2, 5, 4],
  ],
  [
    [2, 1, 3, 2],
    [3, 2, 4],
  ],
  [[2, 3, 5], [5]],
  [
    [1, 1],
    [1, 1],
  ],
  [
    [3, 1],
    [1, 4],
  ],
  [
    [0, 5],
    [5, 4],
  ],
  [
    [3, 0],
    [0, 4],
  ],
];

const constant = (shape: readonly number[]): Input => ({ shape, low: -1, high: 1, constant: true });

// sizes around and past the 12×32 tile and the blocks of the kernel
const large: [number[], number[]][] = [
  [
    [13, 33],
    [33, 31],
  ],
  [
    [12, 256],
    [256, 32],
  ],
  [
    [61, 517],
    [517, 67],
  ],
  [
    [1, 300],
    [300, 129],
  ],
  [
    [130, 7],
    [7, 1],
  ],
  [
    [3, 25, 40],
    [3, 40, 35],
  ],
];

const einsums: [string, number[][], (...x: Nd[]) => Nd][] = [
  [
    'ij,jk->ik',
    [
      [3, 4],
      [4, 2],
    ],
    (a, b) => matmul(a, b),
  ],
  [
    'bhqd,bhkd->bhqk',
    [
      [2, 2, 3, 4],
      [2, 2, 5, 4],
    ],
    (a, b) => matmul(a, transpose(b, -1, -2)),
  ],
  ['i,j->ij', [[3], [4]], (a, b) => matmul(reshape(a, [3, 1]), reshape(b, [1, 4]))],
  ['ij->ji', [[3, 4]], (a) => transpose(a, 0, 1)],
  ['ij->', [[3, 4]], (a) => reduce(a, null, false, sum)],
  [
    'ij,ij->i',
    [
      [3, 4],
      [3, 4],
    ],
    (a, b) =>
      reduce(
        map((x, y) => x * y, a, b),
        1,
        false,
        sum,
      ),
  ],
  [
    'abc,cd,de->abe',
    [
      [2, 3, 2],
      [2, 3],
      [3, 2],
    ],
    (a, b, c) => matmul(matmul(a, b), c),
  ],
  [
    '...ij,jk->...ik',
    [
      [2, 3, 4],
      [4, 2],
    ],
    (a, b) => matmul(a, b),
  ],
];

const gelu = (x: number): number => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const affine = (x: Nd, w: Nd, b: Nd): Nd => map((y, c) => y + c, matmul(x, transpose(w, 0, 1)), b);

/** Attention from a packed projection, head by head as the definition says. */
function packedAttention(qkv: Nd, heads: number, causal: boolean): Nd {
  const [batch, time, wide] = qkv.shape as [number, number, number];
  const dim = wide / 3 / heads;
  const part = (which: number): Nd => build([batch, heads, time, dim], ([b, h, t, d]) => qkv.data[(b! * time + t!) * wide + (which * heads + h!) * dim + d!]!);
  const scores = map((s) => s / Math.sqrt(dim), matmul(part(0), transpose(part(1), -1, -2)));
  const visible = build(scores.shape, ([b, h, i, j]) =>
    causal && j! > i! ? Number.NEGATIVE_INFINITY : scores.data[((b! * heads + h!) * time + i!) * time + j!]!,
  );
  return reshape(permute(matmul(along(visible, -1, softmaxOf), part(2)), [0, 2, 1, 3]), [batch, time, wide / 3]);
}

export const rows: readonly Row[] = [
  ...ranks.map(
    ([a, b]): Row => ({
      name: `matmul [${a}] · [${b}]`,
      inputs: [float(a), float(b)],
      fn: (x, y) => sg.matmul(x!, y!),
      ref: (x, y) => product(x!, y!),
      dtypes: [...floats, 'int64'],
      tolerance: 2,
    }),
  ),
  ...large.map(
    ([a, b]): Row => ({
      name: `matmul [${a}] · [${b}]`,
      inputs: [constant(a), constant(b)],
      fn: (x, y) => sg.matmul(x!, y!),
      ref: (x, y) => product(x!, y!),
      tolerance: 2,
    }),
  ),
  { name: 'mm', inputs: [float([2, 3]), float([3, 2])], fn: (x, y) => sg.mm(x!, y!), ref: (x, y) => matmul(x!, y!), tolerance: 2 },
  { name: 'bmm', inputs: [float([2, 2, 3]), float([2, 3, 2])], fn: (x, y) => sg.bmm(x!, y!), ref: (x, y) => matmul(x!, y!), tolerance: 2 },
  { name: 'dot', inputs: [float([7]), float([7])], fn: (x, y) => sg.dot(x!, y!), ref: (x, y) => product(x!, y!), tolerance: 4 },
  {
    name: 'outer',
    inputs: [float([3]), float([4])],
    fn: (x, y) => sg.outer(x!, y!),
    ref: (x, y) => matmul(reshape(x!, [3, 1]), reshape(y!, [1, 4])),
    tolerance: 2,
  },
  {
    name: 'addmm',
    inputs: [float([4]), float([2, 3]), float([3, 4])],
    fn: (c, x, y) => sg.addmm(c!, x!, y!),
    ref: (c, x, y) => map((p, q) => p + q, matmul(x!, y!), c!),
    tolerance: 3,
  },
  {
    name: 'linear',
    inputs: [float([2, 3, 5]), float([4, 5]), float([4])],
    fn: (x, w, b) => sg.linear(x!, w!, b!),
    ref: (x, w, b) => affine(x!, w!, b!),
    tolerance: 2,
  },
  {
    name: 'linear without bias',
    inputs: [float([3, 5]), float([4, 5])],
    fn: (x, w) => sg.linear(x!, w!),
    ref: (x, w) => matmul(x!, transpose(w!, 0, 1)),
    tolerance: 2,
  },
  {
    name: 'linear with residual',
    inputs: [float([2, 3, 5]), float([4, 5]), float([4]), float([2, 3, 4])],
    fn: (x, w, b, r) => sg.linear(x!, w!, b!, { residual: r! }),
    ref: (x, w, b, r) => map((p, q) => p + q, affine(x!, w!, b!), r!),
    tolerance: 2,
  },
  {
    name: 'linear of many rows',
    inputs: [constant([300, 40]), constant([70, 40]), constant([70])],
    fn: (x, w, b) => sg.linear(x!, w!, b!),
    ref: (x, w, b) => affine(x!, w!, b!),
    tolerance: 2,
  },
  ...[false, true].map(
    (residual): Row => ({
      name: `mlp${residual ? ' with residual' : ''}`,
      inputs: [float([2, 2, 3]), float([5, 3]), float([5]), float([3, 5]), float([3]), float([2, 2, 3])],
      fn: (x, w1, b1, w2, b2, r) => sg.mlp(x!, w1!, b1!, w2!, b2!, residual ? { residual: r! } : {}),
      ref: (x, w1, b1, w2, b2, r) => map((p, q) => (residual ? p + q : p), affine(map(gelu, affine(x!, w1!, b1!)), w2!, b2!), r!),
      tolerance: 3,
    }),
  ),
  ...[false, true].map(
    (causal): Row => ({
      name: `attentionPacked${causal ? ', causal' : ''}`,
      inputs: [float([2, 4, 12], -1.5, 1.5)],
      fn: (x) => sg.attentionPacked(x!, 2, { causal }),
      ref: (x) => packedAttention(x!, 2, causal),
      tolerance: 4,
    }),
  ),
  {
    name: 'trace',
    inputs: [float([3, 4])],
    fn: (x) => sg.trace(x!),
    ref: (x) =>
      reduce(
        build([3], ([i]) => x!.data[i! * 4 + i!]!),
        null,
        false,
        sum,
      ),
    tolerance: 3,
  },
  ...einsums.map(
    ([equation, shapes, ref]): Row => ({
      name: `einsum ${equation}`,
      inputs: shapes.map((s) => float(s)),
      fn: (...x: Tensor[]) => sg.einsum(equation, ...x),
      ref,
      tolerance: 4,
    }),
  ),
];
