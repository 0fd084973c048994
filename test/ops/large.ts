// Rows past what one thread takes: the same ops again where the work is split. The other tables cover their gradients.

import type { DType, Tensor } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import type { Input, Row } from '../helpers/op_table.js';
import { along, map, mean, type Nd, nd, reduce, softmaxOf, sum, transpose, variance } from '../helpers/reference.js';

const dtypes: readonly DType[] = ['float32', 'bfloat16'];
const constant = (...shape: number[]): Input => ({ shape, low: -2, high: 2, constant: true });

function row(name: string, inputs: Input[], fn: (...x: Tensor[]) => Tensor, ref: (...x: Nd[]) => Nd, tolerance = 1): Row {
  return { name: `large ${name}`, inputs, fn, ref, dtypes, tolerance };
}

const standardized = (v: readonly number[]): number[] => {
  const [m, s] = [mean(v), Math.sqrt(variance(v, 0) + 1e-5)];
  return v.map((x) => (x - m) / s);
};
const rowsOf = (x: Nd): Nd => reduce(x, 1, false, sum);

export const rows: readonly Row[] = [
  row(
    'exp',
    [constant(70_001)],
    (x) => sg.exp(x!),
    (x) => map(Math.exp, x!),
  ),
  row(
    'add of rows',
    [constant(263, 271), constant(271)],
    (x, y) => sg.add(x!, y!),
    (x, y) => map((a, b) => a + b, x!, y!),
  ),
  row(
    'mul by columns',
    [constant(263, 271), constant(263, 1)],
    (x, y) => sg.mul(x!, y!),
    (x, y) => map((a, b) => a * b, x!, y!),
  ),
  row(
    'transposed copy',
    [constant(263, 271)],
    (x) => sg.clone(sg.t(x!)),
    (x) => transpose(x!, 0, 1),
  ),
  {
    ...row(
      'cast',
      [constant(70_001)],
      (x) => sg.to(x!, 'float64'),
      (x) => x!,
    ),
    result: 'float64',
  },
  row('sum of rows', [constant(263, 271)], (x) => sg.sum(x!, 1), rowsOf, 3),
  row(
    'sum of columns',
    [constant(263, 271)],
    (x) => sg.sum(x!, 0),
    (x) => rowsOf(transpose(x!, 0, 1)),
    3,
  ),
  row(
    'softmax',
    [constant(263, 271)],
    (x) => sg.softmax(x!, -1),
    (x) => along(x!, -1, softmaxOf),
    2,
  ),
  row(
    'softmax of columns',
    [constant(263, 271)],
    (x) => sg.softmax(x!, 0),
    (x) => along(x!, 0, softmaxOf),
    2,
  ),
  row(
    'layerNorm',
    [constant(263, 271)],
    (x) => sg.layerNorm(x!, 271),
    (x) => along(x!, -1, standardized),
    3,
  ),
  row(
    'cat',
    [constant(263, 100), constant(263, 171)],
    (...x) => sg.cat(x, 1),
    (a, b) => nd([263, 271], (i) => (i % 271 < 100 ? a!.data[Math.floor(i / 271) * 100 + (i % 271)]! : b!.data[Math.floor(i / 271) * 171 + (i % 271) - 100]!)),
  ),
  row(
    'sort',
    [constant(40, 2003)],
    (x) => sg.sort(x!, -1)[0],
    (x) => along(x!, -1, (v) => v.sort((a, b) => a - b)),
  ),
  row(
    'cumsum of columns',
    [constant(300, 257)],
    (x) => sg.cumsum(x!, 0),
    (x) =>
      along(x!, 0, (v) => {
        let total = 0;
        return v.map((e) => (total += e));
      }),
    5,
  ),
];
