// Gradients of the pointwise table, beside each other. A rule saves only what the inputs that need a gradient require; sums over
// broadcast dimensions and casts back are the engine's work. Nothing here may call an op while the file loads: ops and rules import
// each other.
import { where } from '../../ops/blend.js';
import * as P from '../../ops/pointwise.js';
import { add, div, mul, neg, square, sub } from '../../ops/pointwise.js';
import { apply, type PointwiseName } from '../../ops/pointwise_table.js';
import { backwardRow, byAll, byInput, byOutput, constant, logWhereUsed, operand, overSquares } from './forms.js';
import { backwardRowRules } from './pointwise_second.js';
import type { Rules } from './types.js';

export const pointwiseRules: Rules<PointwiseName> = {
  identity: { grad: (_, g) => [g] },
  neg: { grad: (_, g) => [neg(g)] },
  abs: byInput(backwardRow('absBackward')),
  sign: constant,
  square: byInput((g, x) => mul(mul(g, x), 2)),
  reciprocal: byOutput(backwardRow('reciprocalBackward')),
  sqrt: byOutput(backwardRow('sqrtBackward')),
  rsqrt: byOutput(backwardRow('rsqrtBackward')),
  exp: byOutput((g, y) => mul(g, y)),
  exp2: byOutput((g, y) => mul(mul(g, y), Math.LN2)),
  expm1: byOutput((g, y) => mul(g, add(y, 1))),
  log: byInput((g, x) => div(g, x)),
  log2: byInput((g, x) => div(g, mul(x, Math.LN2))),
  log10: byInput((g, x) => div(g, mul(x, Math.LN10))),
  log1p: byInput((g, x) => div(g, add(x, 1))),
  sin: byInput((g, x) => mul(g, P.cos(x))),
  cos: byInput((g, x) => neg(mul(g, P.sin(x)))),
  tan: byOutput((g, y) => mul(g, add(square(y), 1))),
  asin: byInput((g, x) => mul(g, P.rsqrt(sub(neg(square(x)), -1)))),
  acos: byInput((g, x) => neg(mul(g, P.rsqrt(sub(neg(square(x)), -1))))),
  atan: byInput((g, x) => div(g, add(square(x), 1))),
  sinh: byInput((g, x) => mul(g, P.cosh(x))),
  cosh: byInput((g, x) => mul(g, P.sinh(x))),
  tanh: byOutput(backwardRow('tanhBackward')),
  asinh: byInput((g, x) => mul(g, P.rsqrt(add(square(x), 1)))),
  acosh: byInput((g, x) => mul(g, P.rsqrt(sub(square(x), 1)))),
  atanh: byInput((g, x) => div(g, sub(neg(square(x)), -1))),
  erf: byInput(backwardRow('erfBackward')),
  erfc: byInput((g, x) => neg(apply('erfBackward', g, x))),
  sigmoid: byOutput(backwardRow('sigmoidBackward')),
  logSigmoid: byInput(backwardRow('logSigmoidBackward')),
  relu: byOutput(backwardRow('reluBackward')),
  relu6: byOutput(backwardRow('relu6Backward')),
  gelu: byInput(backwardRow('geluBackward')),
  geluTanh: byInput(backwardRow('geluTanhBackward')),
  silu: byInput(backwardRow('siluBackward')),
  mish: byInput(backwardRow('mishBackward')),
  softplus: byInput(backwardRow('softplusBackward')),
  selu: byInput(backwardRow('seluBackward')),
  hardtanh: byOutput(backwardRow('hardtanhBackward')),
  hardswish: byInput(backwardRow('hardswishBackward')),
  hardsigmoid: byInput(backwardRow('hardsigmoidBackward')),
  ceil: constant,
  floor: constant,
  round: constant,
  trunc: constant,
  frac: { grad: (_, g) => [g] },
  isnan: null,
  isinf: null,
  isfinite: null,
  logicalNot: null,
  bitwiseNot: null,

  add: { grad: (_, g) => [g, g] },
  sub: { grad: (_, g) => [g, () => neg(g)] },
  mul: {
    inputs: (needs) => [0, 1].filter((i) => needs[1 - i]),
    grad: (n, g) => [() => mul(g, operand(n, 1)), () => mul(g, operand(n, 0))],
  },
  div: {
    inputs: (needs) => (needs[1] ? [0, 1] : [1]),
    grad: (n, g) => [() => div(g, operand(n, 1)), () => apply('divBackward', g, div(operand(n, 0), n.in(1)), n.in(1))],
  },
  pow: byAll(
    (n, g) => apply('powBackward', g, operand(n, 0), operand(n, 1)),
    (n, g) => apply('powBackwardExponent', g, operand(n, 0), operand(n, 1)),
  ),
  maximum: byAll(
    (n, g) => apply('maximumBackward', g, operand(n, 0), operand(n, 1)),
    (n, g) => apply('maximumBackward', g, operand(n, 1), operand(n, 0)),
  ),
  minimum: byAll(
    (n, g) => apply('minimumBackward', g, operand(n, 0), operand(n, 1)),
    (n, g) => apply('minimumBackward', g, operand(n, 1), operand(n, 0)),
  ),
  fmod: byAll(
    (_, g) => g,
    (n, g) => neg(mul(g, P.trunc(div(operand(n, 0), operand(n, 1))))),
  ),
  remainder: byAll(
    (_, g) => g,
    (n, g) => neg(mul(g, P.floorDivide(operand(n, 0), operand(n, 1)))),
  ),
  floorDivide: constant,
  atan2: byAll(
    (n, g) => mul(g, overSquares(n, operand(n, 1))),
    (n, g) => neg(mul(g, overSquares(n, operand(n, 0)))),
  ),
  hypot: {
    inputs: [0, 1],
    outputs: [0],
    grad: (n, g) => [() => mul(g, div(operand(n, 0), n.out(0))), () => mul(g, div(operand(n, 1), n.out(0)))],
  },
  logaddexp: byAll(
    (n, g) => mul(g, P.sigmoid(sub(operand(n, 0), operand(n, 1)))),
    (n, g) => mul(g, P.sigmoid(sub(operand(n, 1), operand(n, 0)))),
  ),
  copysign: {
    inputs: [0],
    outputs: [0],
    grad: (n, g) => [() => mul(g, mul(P.sign(n.in(0)), P.sign(n.out(0)))), () => mul(g, 0)],
  },
  xlogy: byAll(
    (n, g) => mul(g, logWhereUsed(n)),
    (n, g) => mul(g, div(operand(n, 0), operand(n, 1))),
  ),
  eq: null,
  ne: null,
  lt: null,
  le: null,
  gt: null,
  ge: null,
  logicalAnd: null,
  logicalOr: null,
  logicalXor: null,
  bitwiseAnd: null,
  bitwiseOr: null,
  bitwiseXor: null,
  shiftLeft: null,
  shiftRight: null,
  leakyRelu: { inputs: [0], grad: (n, g) => [() => apply('leakyReluBackward', g, n.in(0), n.input(1)!)] },
  elu: { inputs: [0], grad: (n, g) => [() => apply('eluBackward', g, n.in(0), n.input(1)!)] },
  bceWithLogits: byAll(
    (n, g) => apply('bceWithLogitsBackward', g, operand(n, 0), operand(n, 1)),
    (n, g) => neg(mul(g, operand(n, 0))),
  ),

  where: {
    inputs: [0],
    grad: (n, g) => [null, () => where(n.in(0), g, 0), () => where(n.in(0), 0, g)],
  },
  // where the bounds cross, the upper one counts
  clamp: {
    inputs: [0, 1, 2],
    grad: (n, g) => [
      () => mul(g, apply('between', operand(n, 0), operand(n, 1), operand(n, 2))),
      () => mul(g, P.logicalAnd(P.gt(operand(n, 1), operand(n, 0)), P.lt(operand(n, 1), operand(n, 2)))),
      () => mul(g, P.logicalOr(P.lt(operand(n, 2), operand(n, 0)), P.lt(operand(n, 2), operand(n, 1)))),
    ],
  },
  between: null,
  lerp: byAll(
    (n, g) => sub(g, mul(g, operand(n, 2))),
    (n, g) => mul(g, operand(n, 2)),
    (n, g) => mul(g, sub(operand(n, 1), operand(n, 0))),
  ),
  mulAdd: {
    inputs: (needs) => [0, 1].filter((i) => needs[1 - i]),
    grad: (n, g) => [() => mul(g, operand(n, 1)), () => mul(g, operand(n, 0)), g],
  },
  smoothL1: byAll(
    (n, g) => mul(g, apply('smoothL1Derivative', operand(n, 0), operand(n, 1), operand(n, 2))),
    (n, g) => neg(mul(g, apply('smoothL1Derivative', operand(n, 0), operand(n, 1), operand(n, 2)))),
  ),
  huber: byAll(
    (n, g) => mul(g, apply('huberDerivative', operand(n, 0), operand(n, 1), operand(n, 2))),
    (n, g) => neg(mul(g, apply('huberDerivative', operand(n, 0), operand(n, 1), operand(n, 2)))),
  ),
  ...backwardRowRules,
};
