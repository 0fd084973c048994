// The pointwise functions. The names repeat csrc/ops/pointwise.h for the type checker (the addon's list is compared at load);
// the value says what the result's dtype is: the operands' promoted one, at least float32, or bool.
import { isFloating } from '../dtype.js';
import { describe, InternalError, ValueError } from '../errors.js';
import { native } from '../native.js';
import { type Operand, Tensor } from '../tensor.js';
import { checkOperand, checkTensor } from './arguments.js';
import { pointwise, pointwiseInto, type ResultKind } from './door.js';

const table = {
  identity: 'same',
  neg: 'same',
  abs: 'same',
  sign: 'same',
  square: 'same',
  reciprocal: 'float',
  sqrt: 'float',
  rsqrt: 'float',
  exp: 'float',
  exp2: 'float',
  expm1: 'float',
  log: 'float',
  log2: 'float',
  log10: 'float',
  log1p: 'float',
  sin: 'float',
  cos: 'float',
  tan: 'float',
  asin: 'float',
  acos: 'float',
  atan: 'float',
  sinh: 'float',
  cosh: 'float',
  tanh: 'float',
  asinh: 'float',
  acosh: 'float',
  atanh: 'float',
  erf: 'float',
  erfc: 'float',
  sigmoid: 'float',
  logSigmoid: 'float',
  relu: 'same',
  relu6: 'same',
  gelu: 'float',
  geluTanh: 'float',
  silu: 'float',
  mish: 'float',
  softplus: 'float',
  selu: 'float',
  hardtanh: 'float',
  hardswish: 'float',
  hardsigmoid: 'float',
  ceil: 'same',
  floor: 'same',
  round: 'same',
  trunc: 'same',
  frac: 'float',
  isnan: 'test',
  isinf: 'test',
  isfinite: 'test',
  logicalNot: 'bool',
  bitwiseNot: 'same',
  add: 'same',
  sub: 'same',
  mul: 'same',
  div: 'float',
  pow: 'same',
  maximum: 'same',
  minimum: 'same',
  fmod: 'same',
  remainder: 'same',
  floorDivide: 'same',
  atan2: 'float',
  hypot: 'float',
  logaddexp: 'float',
  copysign: 'float',
  xlogy: 'float',
  eq: 'bool',
  ne: 'bool',
  lt: 'bool',
  le: 'bool',
  gt: 'bool',
  ge: 'bool',
  logicalAnd: 'bool',
  logicalOr: 'bool',
  logicalXor: 'bool',
  bitwiseAnd: 'same',
  bitwiseOr: 'same',
  bitwiseXor: 'same',
  shiftLeft: 'same',
  shiftRight: 'same',
  leakyRelu: 'float',
  elu: 'float',
  bceWithLogits: 'float',
  where: 'same',
  clamp: 'same',
  between: 'bool',
  lerp: 'float',
  mulAdd: 'same',
  smoothL1: 'float',
  huber: 'float',
  absBackward: 'same',
  reciprocalBackward: 'same',
  sqrtBackward: 'same',
  rsqrtBackward: 'same',
  erfBackward: 'same',
  tanhBackward: 'same',
  sigmoidBackward: 'same',
  logSigmoidBackward: 'same',
  softplusBackward: 'same',
  reluBackward: 'same',
  relu6Backward: 'same',
  hardtanhBackward: 'same',
  hardsigmoidBackward: 'same',
  hardswishBackward: 'same',
  geluBackward: 'same',
  geluTanhBackward: 'same',
  siluBackward: 'same',
  mishBackward: 'same',
  seluBackward: 'same',
  eluBackward: 'same',
  leakyReluBackward: 'same',
  maximumBackward: 'same',
  minimumBackward: 'same',
  divBackward: 'same',
  powBackward: 'same',
  powBackwardExponent: 'same',
  bceWithLogitsBackward: 'same',
  smoothL1Derivative: 'same',
  huberDerivative: 'same',
} as const satisfies Record<string, ResultKind>;

export type PointwiseName = keyof typeof table;

{
  const here = Object.keys(table).join();
  const there = native.ops
    .filter((op) => op.kind === 'pointwise')
    .map((op) => op.name)
    .join();
  if (here !== there) throw new InternalError(`pointwise ops of lib/ops/pointwise.ts and of the addon differ: ${here} | ${there}`);
}

/** Applies a row of the table to operands of which at least one is a tensor. */
export function apply(op: PointwiseName, ...inputs: Operand[]): Tensor {
  if (typeof op !== 'string' || !Object.hasOwn(table, op)) throw new ValueError(`apply: there is no pointwise op ${describe(op)}`);
  for (let i = 0; i < inputs.length; i++) checkOperand(op, inputs[i], `operand ${i}`);
  if (!inputs.some((x) => x instanceof Tensor)) throw new ValueError(`${op}: at least one operand must be a tensor`);
  return pointwise(op, table[op], inputs);
}

type Unary = (x: Tensor) => Tensor;
type Binary = (x: Tensor, other: Operand) => Tensor;

function unary(op: PointwiseName): Unary {
  const kind = table[op];
  return (x) => {
    checkTensor(x, op);
    return pointwise(op, kind, [x]);
  };
}
function binary(op: PointwiseName): Binary {
  const kind = table[op];
  return (x, other) => {
    checkTensor(x, op);
    checkOperand(op, other, 'the second operand');
    return pointwise(op, kind, [x, other]);
  };
}
function unaryInto(op: PointwiseName): Unary {
  return (x) => {
    checkTensor(x, `${op}_`);
    return pointwiseInto(op, table[op], x, [x]);
  };
}
function binaryInto(op: PointwiseName): Binary {
  return (x, other) => {
    checkTensor(x, `${op}_`);
    checkOperand(`${op}_`, other, 'the second operand');
    return pointwiseInto(op, table[op], x, [x, other]);
  };
}

const power = binary('pow');
const powerInto = binaryInto('pow');
function wholePower(op: string, x: Tensor, exponent: Operand): Operand {
  checkTensor(x, op);
  if (typeof exponent === 'number' && Number.isInteger(exponent) && exponent < 0 && !isFloating(x.dtype))
    throw new ValueError(`${op}: ${x.dtype} to the power ${exponent} is not whole; convert it with float()`);
  return exponent;
}

/** −x. */
export const neg: Unary = unary('neg');
export const abs: Unary = unary('abs');
/** −1, 0 or 1. */
export const sign: Unary = unary('sign');
export const square: Unary = unary('square');
export const reciprocal: Unary = unary('reciprocal');
export const sqrt: Unary = unary('sqrt');
/** 1 / √x. */
export const rsqrt: Unary = unary('rsqrt');
export const exp: Unary = unary('exp');
export const exp2: Unary = unary('exp2');
/** eˣ − 1, exact near 0. */
export const expm1: Unary = unary('expm1');
export const log: Unary = unary('log');
export const log2: Unary = unary('log2');
export const log10: Unary = unary('log10');
/** ln(1 + x), exact near 0. */
export const log1p: Unary = unary('log1p');
export const sin: Unary = unary('sin');
export const cos: Unary = unary('cos');
export const tan: Unary = unary('tan');
export const asin: Unary = unary('asin');
export const acos: Unary = unary('acos');
export const atan: Unary = unary('atan');
export const sinh: Unary = unary('sinh');
export const cosh: Unary = unary('cosh');
export const tanh: Unary = unary('tanh');
export const asinh: Unary = unary('asinh');
export const acosh: Unary = unary('acosh');
export const atanh: Unary = unary('atanh');
export const erf: Unary = unary('erf');
export const erfc: Unary = unary('erfc');
export const sigmoid: Unary = unary('sigmoid');
export const logSigmoid: Unary = unary('logSigmoid');
export const relu: Unary = unary('relu');
export const relu6: Unary = unary('relu6');
export const silu: Unary = unary('silu');
/** x·tanh(softplus(x)) (Misra, 2019). */
export const mish: Unary = unary('mish');
export const softplus: Unary = unary('softplus');
export const selu: Unary = unary('selu');
export const hardtanh: Unary = unary('hardtanh');
export const hardswish: Unary = unary('hardswish');
export const hardsigmoid: Unary = unary('hardsigmoid');
export const ceil: Unary = unary('ceil');
export const floor: Unary = unary('floor');
/** To the nearest whole number, halves to even. */
export const round: Unary = unary('round');
export const trunc: Unary = unary('trunc');
export const frac: Unary = unary('frac');
export const isnan: Unary = unary('isnan');
export const isinf: Unary = unary('isinf');
export const isfinite: Unary = unary('isfinite');
export const logicalNot: Unary = unary('logicalNot');
export const bitwiseNot: Unary = unary('bitwiseNot');

export const add: Binary = binary('add');
export const sub: Binary = binary('sub');
export const mul: Binary = binary('mul');
/** True division: integers give float32. */
export const div: Binary = binary('div');
/** x to a power. Whole numbers stay whole, so that a negative power of them is refused. */
export const pow: Binary = (x, exponent) => power(x, wholePower('pow', x, exponent));
/** Element-wise larger; NaN wins. */
export const maximum: Binary = binary('maximum');
export const minimum: Binary = binary('minimum');
/** Remainder with the sign of x (C's fmod). */
export const fmod: Binary = binary('fmod');
/** Remainder with the sign of the divisor (Python's %). */
export const remainder: Binary = binary('remainder');
export const floorDivide: Binary = binary('floorDivide');
export const atan2: Binary = binary('atan2');
export const hypot: Binary = binary('hypot');
export const logaddexp: Binary = binary('logaddexp');
export const copysign: Binary = binary('copysign');
/** x·ln(y), 0 where x is 0. */
export const xlogy: Binary = binary('xlogy');
export const eq: Binary = binary('eq');
export const ne: Binary = binary('ne');
export const lt: Binary = binary('lt');
export const le: Binary = binary('le');
export const gt: Binary = binary('gt');
export const ge: Binary = binary('ge');
export const logicalAnd: Binary = binary('logicalAnd');
export const logicalOr: Binary = binary('logicalOr');
export const logicalXor: Binary = binary('logicalXor');
export const bitwiseAnd: Binary = binary('bitwiseAnd');
export const bitwiseOr: Binary = binary('bitwiseOr');
export const bitwiseXor: Binary = binary('bitwiseXor');
export const shiftLeft: Binary = binary('shiftLeft');
export const shiftRight: Binary = binary('shiftRight');

export const add_: Binary = binaryInto('add');
export const sub_: Binary = binaryInto('sub');
export const mul_: Binary = binaryInto('mul');
export const div_: Binary = binaryInto('div');
export const pow_: Binary = (x, exponent) => powerInto(x, wholePower('pow_', x, exponent));
export const neg_: Unary = unaryInto('neg');
export const exp_: Unary = unaryInto('exp');
export const sqrt_: Unary = unaryInto('sqrt');
export const relu_: Unary = unaryInto('relu');
export const tanh_: Unary = unaryInto('tanh');
export const sigmoid_: Unary = unaryInto('sigmoid');
