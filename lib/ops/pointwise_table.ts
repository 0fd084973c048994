// The pointwise ops and what makes functions of them. The names repeat csrc/ops/pointwise.h for the type checker (the addon's list is
// compared at load); the value says what the result's dtype is: the operands' promoted one, at least float32, or bool.
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
  if (here !== there) throw new InternalError(`pointwise ops of lib/ops/pointwise_table.ts and of the addon differ: ${here} | ${there}`);
}

/** Applies a row of the table to operands of which at least one is a tensor. */
export function apply(op: PointwiseName, ...inputs: Operand[]): Tensor {
  if (typeof op !== 'string' || !Object.hasOwn(table, op)) throw new ValueError(`apply: there is no pointwise op ${describe(op)}`);
  for (let i = 0; i < inputs.length; i++) checkOperand(op, inputs[i], `operand ${i}`);
  if (!inputs.some((x) => x instanceof Tensor)) throw new ValueError(`${op}: at least one operand must be a tensor`);
  return pointwise(op, table[op], inputs);
}

export type Unary = (x: Tensor) => Tensor;
export type Binary = (x: Tensor, other: Operand) => Tensor;

export function unary(op: PointwiseName): Unary {
  const kind = table[op];
  return (x) => {
    checkTensor(x, op);
    return pointwise(op, kind, [x]);
  };
}
export function binary(op: PointwiseName): Binary {
  const kind = table[op];
  return (x, other) => {
    checkTensor(x, op);
    checkOperand(op, other, 'the second operand');
    return pointwise(op, kind, [x, other]);
  };
}
export function unaryInto(op: PointwiseName): Unary {
  return (x) => {
    checkTensor(x, `${op}_`);
    return pointwiseInto(op, table[op], x, [x]);
  };
}
export function binaryInto(op: PointwiseName): Binary {
  return (x, other) => {
    checkTensor(x, `${op}_`);
    checkOperand(`${op}_`, other, 'the second operand');
    return pointwiseInto(op, table[op], x, [x, other]);
  };
}
