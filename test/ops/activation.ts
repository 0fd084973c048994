// Rows of the activations that are made of other functions.
import * as sg from '../../lib/index.js';
import { float, type Row } from '../helpers/op_table.js';
import { along, map, type Nd, reshape, softmaxOf } from '../helpers/reference.js';

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const one = (name: string, fn: (x: sg.Tensor) => sg.Tensor, of: (x: number) => number): Row => ({
  name,
  inputs: [float([3, 7], -3, 3)],
  fn: (x) => fn(x!),
  ref: (x) => map(of, x!),
  tolerance: 3,
  elementwise: true,
});
const below = (x: Nd, weight: Nd): Nd => map((v, w) => (v > 0 ? v : w * v), x, weight);

export const rows: readonly Row[] = [
  one(
    'celu',
    (x) => sg.celu(x),
    (x) => (x > 0 ? x : Math.expm1(x)),
  ),
  one(
    'celu, alpha 0.4',
    (x) => sg.celu(x, 0.4),
    (x) => (x > 0 ? x : 0.4 * Math.expm1(x / 0.4)),
  ),
  one('softsign', sg.softsign, (x) => x / (1 + Math.abs(x))),
  { ...one('tanhshrink', sg.tanhshrink, (x) => x - Math.tanh(x)), tolerance: 10 },
  one(
    'hardshrink',
    (x) => sg.hardshrink(x),
    (x) => (Math.abs(x) <= 0.5 ? 0 : x),
  ),
  one(
    'softshrink',
    (x) => sg.softshrink(x, 0.7),
    (x) => (Math.abs(x) <= 0.7 ? 0 : x - Math.sign(x) * 0.7),
  ),
  one(
    'threshold',
    (x) => sg.threshold(x, 0.3, -20),
    (x) => (x > 0.3 ? x : -20),
  ),
  {
    name: 'softmin',
    inputs: [float([3, 4, 2])],
    fn: (x) => sg.softmin(x!, 1),
    ref: (x) => along(x!, 1, (v) => softmaxOf(v.map((e) => -e))),
    tolerance: 4,
  },
  ...[-1, 0].map(
    (dim): Row => ({
      name: `glu along ${dim}`,
      inputs: [float([4, 6])],
      fn: (x) => sg.glu(x!, dim),
      ref: (x) => along(x!, dim, (v) => v.slice(0, v.length / 2).map((a, i) => a * sigmoid(v[i + v.length / 2]!))),
      tolerance: 3,
    }),
  ),
  {
    name: 'prelu with one weight',
    inputs: [float([2, 2]), float([1], 0.1, 0.5)],
    fn: (x, w) => sg.prelu(x!, w!),
    ref: (x, w) => below(x!, w!),
    tolerance: 2,
  },
  {
    name: 'prelu with a weight a channel',
    inputs: [float([2, 3, 4]), float([3], 0.1, 0.5)],
    fn: (x, w) => sg.prelu(x!, w!),
    ref: (x, w) => below(x!, reshape(w!, [3, 1])),
    tolerance: 2,
  },
];
