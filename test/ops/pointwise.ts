// Rows of the pointwise functions. Each is tested on small shapes that broadcast against each other and on a length that has
// whole vectors and a tail.

import type { DType } from '../../lib/index.js';
import * as sg from '../../lib/index.js';
import { apply } from '../../lib/ops/pointwise_table.js';
import type { Tensor } from '../../lib/tensor.js';
import { float, floats, type Input, mask, type Row } from '../helpers/op_table.js';
import { erf, erfc, map, type Nd } from '../helpers/reference.js';

type Range = readonly [low: number, high: number];
type Kind = 'same' | 'float' | 'bool';
type Operands = (...x: Tensor[]) => Tensor;

const integers: readonly DType[] = ['int64', 'int32', 'uint8'];
const SHAPES = [[2, 3, 4], [3, 1], [4]];
const LENGTH = 1037;

interface Options {
  /** The function under test, by default that of this name. */
  readonly fn?: Operands;
  /** Further dtypes; a function of kind `float` gives float32 for them. */
  readonly also?: readonly DType[];
  readonly only?: readonly DType[];
  readonly tolerance?: number;
  /** Where differences are too coarse to show a slope. */
  readonly constant?: boolean;
}

function row(name: string, kind: Kind, ranges: readonly Range[], ref: (...v: number[]) => number, options: Options = {}): Row[] {
  const fn = options.fn ?? ((sg as unknown as Record<string, Operands>)[name.split(' ')[0]!] as Operands);
  const dtypes = options.only ?? [...floats, ...(options.also ?? [])];
  const groups = kind === 'same' ? [{ dtypes }] : kind === 'bool' ? [{ dtypes, result: 'bool' as const }] : byResult(dtypes);
  return groups.flatMap((group) => {
    const common = { ...group, fn, ref: (...x: Nd[]) => map(ref, ...x), tolerance: options.tolerance };
    const inputs = (shapeOf: (i: number) => readonly number[]): Input[] =>
      ranges.map(([low, high], i) => ({ shape: shapeOf(i), low, high, constant: options.constant }));
    return [
      { ...common, name, inputs: inputs((i) => SHAPES[i]!) },
      { ...common, name: `${name}, long`, inputs: inputs(() => [LENGTH]), elementwise: true },
    ];
  });
}

/** Functions of kind `float` keep a floating-point dtype and make float32 of the rest. */
function byResult(dtypes: readonly DType[]): { dtypes: readonly DType[]; result?: DType }[] {
  const rest = dtypes.filter((d) => !floats.includes(d));
  return [{ dtypes: dtypes.filter((d) => floats.includes(d)) }, ...(rest.length ? [{ dtypes: rest, result: 'float32' as const }] : [])];
}

const ANY: Range = [-3, 3];
const POSITIVE: Range = [0.05, 4];
const UNIT: Range = [-0.95, 0.95];
const COUNT: Range = [1, 6];
const BITS: Range = [0, 16];
const logistic = (x: number): number => 1 / (1 + Math.exp(-x));
const softplus = (x: number): number => (x > 0 ? x + Math.log1p(Math.exp(-x)) : Math.log1p(Math.exp(x)));
const clamp = (x: number, low: number, high: number): number => Math.min(Math.max(x, low), high);
const halfToEven = (x: number): number => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
const SELU_ALPHA = 1.6732632423543772;
const SELU_SCALE = 1.0507009873554805;

const unary: Row[] = [
  row('neg', 'same', [ANY], (x) => -x, { also: integers }),
  row('abs', 'same', [ANY], Math.abs, { also: integers }),
  row('sign', 'same', [ANY], Math.sign, { also: integers }),
  row('square', 'same', [ANY], (x) => x * x, { also: integers }),
  row('reciprocal', 'float', [POSITIVE], (x) => 1 / x, { also: ['int64'] }),
  row('sqrt', 'float', [POSITIVE], Math.sqrt, { also: integers }),
  row('rsqrt', 'float', [POSITIVE], (x) => 1 / Math.sqrt(x)),
  row('exp', 'float', [ANY], Math.exp, { also: ['int32', 'bool'] }),
  row('exp2', 'float', [ANY], (x) => 2 ** x),
  row('expm1', 'float', [ANY], Math.expm1),
  row('expm1 near zero', 'float', [[-1e-4, 1e-4]], Math.expm1, { only: ['float32', 'float64'] }),
  row('log', 'float', [POSITIVE], Math.log),
  row('log2', 'float', [POSITIVE], Math.log2),
  row('log10', 'float', [POSITIVE], Math.log10),
  row('log1p', 'float', [[-0.9, 4]], Math.log1p),
  row('log1p near zero', 'float', [[-1e-4, 1e-4]], Math.log1p, { only: ['float32', 'float64'] }),
  row('sin', 'float', [[-7, 7]], Math.sin),
  row('cos', 'float', [[-7, 7]], Math.cos),
  row('sin of large angles', 'float', [[-9000, 9000]], Math.sin, { fn: (x) => sg.sin(x!), constant: true, only: ['float32', 'float64'] }),
  row('tan', 'float', [[-1.3, 1.3]], Math.tan),
  row('asin', 'float', [UNIT], Math.asin),
  row('acos', 'float', [UNIT], Math.acos),
  row('atan', 'float', [ANY], Math.atan),
  row('sinh', 'float', [ANY], Math.sinh),
  row('cosh', 'float', [ANY], Math.cosh),
  row('tanh', 'float', [ANY], Math.tanh),
  row('asinh', 'float', [ANY], Math.asinh),
  row('acosh', 'float', [[1.05, 4]], Math.acosh),
  row('atanh', 'float', [UNIT], Math.atanh),
  row('erf', 'float', [ANY], erf),
  row('erfc', 'float', [[-3, 5]], erfc),
  row('sigmoid', 'float', [[-6, 6]], logistic),
  row('logSigmoid', 'float', [[-6, 6]], (x) => -softplus(-x)),
  row('softplus', 'float', [[-6, 6]], softplus),
  row('relu', 'same', [ANY], (x) => Math.max(x, 0), { also: integers }),
  row('relu6', 'same', [[-3, 9]], (x) => clamp(x, 0, 6), { also: integers }),
  row('gelu', 'float', [ANY], (x) => (x / 2) * (1 + erf(x / Math.SQRT2))),
  row('gelu tanh', 'float', [ANY], (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))), {
    fn: (x) => sg.gelu(x!, { approximate: 'tanh' }),
  }),
  row('silu', 'float', [ANY], (x) => x * logistic(x)),
  row('mish', 'float', [ANY], (x) => x * Math.tanh(softplus(x))),
  row('selu', 'float', [ANY], (x) => SELU_SCALE * (x > 0 ? x : SELU_ALPHA * Math.expm1(x))),
  row('hardtanh', 'float', [ANY], (x) => clamp(x, -1, 1)),
  row('hardswish', 'float', [[-5, 5]], (x) => (x * clamp(x + 3, 0, 6)) / 6),
  row('hardsigmoid', 'float', [[-5, 5]], (x) => clamp(x + 3, 0, 6) / 6),
  row('leakyRelu', 'float', [ANY], (x) => (x > 0 ? x : 0.2 * x), { fn: (x) => sg.leakyRelu(x!, 0.2) }),
  row('elu', 'float', [ANY], (x) => (x > 0 ? x : 0.7 * Math.expm1(x)), { fn: (x) => sg.elu(x!, 0.7) }),
  row('ceil', 'same', [ANY], Math.ceil, { also: integers }),
  row('floor', 'same', [ANY], Math.floor, { also: integers }),
  row('round', 'same', [ANY], halfToEven, { also: integers }),
  row('round of halves', 'same', [[-8, 8]], (x) => halfToEven(Math.floor(x) / 2), { fn: (x) => sg.round(sg.mul(sg.floor(x!), 0.5)) }),
  row('trunc', 'same', [ANY], Math.trunc, { also: integers }),
  row('frac', 'float', [ANY], (x) => x - Math.trunc(x)),
  row('isnan', 'bool', [ANY], () => 0),
  row('isinf', 'bool', [ANY], () => 0),
  row('isfinite', 'bool', [ANY], () => 1),
  row('logicalNot', 'bool', [ANY], (x) => Number(x === 0), { also: [...integers, 'bool'] }),
  row('bitwiseNot', 'same', [BITS], (x) => ~x, { only: integers }),
  row('bitwiseNot of bool', 'same', [[0, 2]], (x) => 1 - x, { only: ['bool'] }),
].flat();

const binary: Row[] = [
  row('add', 'same', [ANY, ANY], (a, b) => a + b, { also: integers }),
  row('sub', 'same', [ANY, ANY], (a, b) => a - b, { also: integers }),
  row('mul', 'same', [ANY, ANY], (a, b) => a * b, { also: integers }),
  row('div', 'float', [ANY, POSITIVE], (a, b) => a / b),
  row('div of integers', 'float', [ANY, COUNT], (a, b) => a / b, { fn: (a, b) => sg.div(a!, b!), only: ['int64', 'uint8'] }),
  row('add of a number', 'same', [ANY], (a) => a + 3, { fn: (a) => sg.add(a!, 3), also: integers }),
  row('mul by a number', 'same', [ANY], (a) => a * 0.5, { fn: (a) => sg.mul(a!, 0.5) }),
  row('pow', 'same', [[0.3, 4], ANY], (a, b) => a ** b),
  row('pow of integers', 'same', [ANY, [0, 4]], (a, b) => a ** b, { fn: (a, b) => sg.pow(a!, b!), only: ['int64', 'int32'] }),
  row('pow by 3', 'same', [ANY], (a) => a ** 3, { fn: (a) => sg.pow(a!, 3), also: ['int64'] }),
  row('maximum', 'same', [ANY, ANY], Math.max, { also: integers }),
  row('minimum', 'same', [ANY, ANY], Math.min, { also: integers }),
  row('fmod', 'same', [[-9, 9], COUNT], (a, b) => a % b, { also: integers }),
  row('remainder', 'same', [[-9, 9], COUNT], (a, b) => a - b * Math.floor(a / b), { also: integers }),
  row('floorDivide', 'same', [[-9, 9], COUNT], (a, b) => Math.floor(a / b), { also: integers }),
  row('atan2', 'float', [ANY, ANY], Math.atan2),
  row('hypot', 'float', [ANY, ANY], Math.hypot),
  row('logaddexp', 'float', [ANY, ANY], (a, b) => Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)))),
  row('copysign', 'float', [ANY, ANY], (a, b) => Math.abs(a) * (b < 0 ? -1 : 1)),
  row('xlogy', 'float', [ANY, POSITIVE], (a, b) => (a === 0 ? 0 : a * Math.log(b))),
  row('eq', 'bool', [ANY, ANY], (a, b) => Number(a === b), { also: integers }),
  row('ne', 'bool', [ANY, ANY], (a, b) => Number(a !== b), { also: integers }),
  row('lt', 'bool', [ANY, ANY], (a, b) => Number(a < b), { also: integers }),
  row('le', 'bool', [ANY, ANY], (a, b) => Number(a <= b), { also: integers }),
  row('gt', 'bool', [ANY, ANY], (a, b) => Number(a > b), { also: integers }),
  row('ge', 'bool', [ANY, ANY], (a, b) => Number(a >= b), { also: integers }),
  row(
    'logicalAnd',
    'bool',
    [
      [0, 2],
      [0, 2],
    ],
    (a, b) => Number(a !== 0 && b !== 0),
    { also: [...integers, 'bool'] },
  ),
  row(
    'logicalOr',
    'bool',
    [
      [0, 2],
      [0, 2],
    ],
    (a, b) => Number(a !== 0 || b !== 0),
    { also: [...integers, 'bool'] },
  ),
  row(
    'logicalXor',
    'bool',
    [
      [0, 2],
      [0, 2],
    ],
    (a, b) => Number((a !== 0) !== (b !== 0)),
    { also: [...integers, 'bool'] },
  ),
  row('bitwiseAnd', 'same', [BITS, BITS], (a, b) => a & b, { only: integers }),
  row('bitwiseOr', 'same', [BITS, BITS], (a, b) => a | b, { only: integers }),
  row('bitwiseXor', 'same', [BITS, BITS], (a, b) => a ^ b, { only: integers }),
  row(
    'bitwiseXor of bool',
    'same',
    [
      [0, 2],
      [0, 2],
    ],
    (a, b) => a ^ b,
    { only: ['bool'] },
  ),
  row('shiftLeft', 'same', [BITS, [0, 4]], (a, b) => a << b, { only: integers }),
  row('shiftRight', 'same', [BITS, [0, 4]], (a, b) => a >> b, { only: integers }),
].flat();

const ternary: Row[] = [
  ...row('clamp', 'same', [ANY], (x) => clamp(x, -1, 1.5), { fn: (x) => sg.clamp(x!, -1, 1.5) }),
  ...row('clamp of integers', 'same', [ANY], (x) => clamp(x, -1, 2), { fn: (x) => sg.clamp(x!, -1, 2), only: ['int64', 'int32'] }),
  ...row('clamp below', 'same', [ANY], (x) => Math.max(x, -1), { fn: (x) => sg.clamp(x!, -1) }),
  ...row('clamp by tensors', 'same', [ANY, [-2, 0], [0, 2]], clamp, { fn: (x, low, high) => sg.clamp(x!, low, high) }),
  ...row('lerp', 'float', [ANY, ANY, [0, 1]], (a, b, w) => a + w * (b - a)),
  {
    name: 'where',
    inputs: [mask([3, 1]), float([2, 3, 4]), float([4])],
    fn: sg.where as Operands,
    ref: (m, a, b) => map((c, x, y) => (c ? x : y), m!, a!, b!),
    dtypes: [...floats, ...integers],
  },
  { name: 'where with a number', inputs: [mask([3, 4]), float([4])], fn: (m, a) => sg.where(m!, a!, 2), ref: (m, a) => map((c, x) => (c ? x : 2), m!, a!) },
  {
    name: 'maskedFill',
    inputs: [float([2, 3, 4]), mask([3, 1])],
    fn: (x, m) => sg.maskedFill(x!, m!, -5),
    ref: (x, m) => map((v, c) => (c ? -5 : v), x!, m!),
    dtypes: [...floats, 'int64'],
  },
];

// rows of the native table that no function of that name leads to
const internal: Row[] = [
  ...row('identity', 'same', [ANY], (x) => x, { fn: (x) => apply('identity', x!), also: integers }),
  ...row('mulAdd', 'same', [ANY, ANY, ANY], (a, b, c) => a * b + c, { fn: (a, b, c) => apply('mulAdd', a!, b!, c!), also: integers, tolerance: 2 }),
];

export const rows: readonly Row[] = [...unary, ...binary, ...ternary, ...internal];
