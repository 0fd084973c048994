// Gradients of the pointwise table, beside each other. A rule saves only what the inputs that need a gradient require; sums over
// broadcast dimensions and casts back are the engine's work. Backward rows have rules of their own, in primitives, so that
// gradients of gradients exist. Nothing here may call an op while the file loads: ops and rules import each other.
import { zerosLike } from '../../create.js';
import type { Tensor } from '../../tensor.js';
import * as P from '../../ops/pointwise.js';
import { type PointwiseName, add, apply, div, mul, neg, square, sub } from '../../ops/pointwise.js';
import type { Node } from '../node.js';
import type { Rule, Rules } from './types.js';

type N = Node;
type Any = Rule<PointwiseName>;

/** From dy and x. */
const byInput = (grad: (g: Tensor, x: Tensor) => Tensor): Any => ({ inputs: [0], grad: (n, g) => [grad(g, n.in(0))] });
/** From dy and y. */
const byOutput = (grad: (g: Tensor, y: Tensor) => Tensor): Any => ({ outputs: [0], grad: (n, g) => [grad(g, n.out(0))] });
const backwardRow = (op: PointwiseName) => (g: Tensor, t: Tensor) => apply(op, g, t);
/** Each input's gradient needs all inputs. */
const byAll = (...grads: ((n: N, g: Tensor) => Tensor)[]): Any => ({
  inputs: (needs) => needs.map((_, i) => i),
  grad: (n, g) => grads.map((f) => () => f(n, g)),
});
const operand = (n: N, i: number): Tensor => n.input(i) as Tensor; // a number works too: every use is an Operand place

/** dy · f'(x) for a backward row (dy, x) whose f'' is given: gradients for dy and for x. */
const second = (row: PointwiseName, curvature: (x: Tensor) => Tensor): Any =>
  byAll(
    (n, g) => apply(row, g, operand(n, 1)),
    (n, g) => mul(mul(g, operand(n, 0)), curvature(n.in(1))),
  );
/** As `second` where f'' is 0 almost everywhere. */
const flat = (row: PointwiseName): Any => ({ inputs: [1], grad: (n, g) => [() => apply(row, g, n.in(1))] });

const sigmoidSlope = (x: Tensor): Tensor => {
  const s = P.sigmoid(x);
  return mul(s, sub(neg(s), -1));
};
/** Steps: the gradient is zero, as PyTorch has it, and not absent. */
const constant: Any = { grad: (n, g) => n.edges.map(() => () => zerosLike(g)) };
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);
const normalDensity = (x: Tensor): Tensor => mul(P.exp(mul(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));

/** Second derivatives of the activations with a fused backward row. */
const curvature = {
  gelu: (x: Tensor) => mul(normalDensity(x), sub(neg(square(x)), -2)),
  geluTanh: (x: Tensor) => {
    const x2 = square(x);
    const t = P.tanh(mul(mul(x, add(mul(x2, 0.044715), 1)), SQRT_2_OVER_PI));
    const du = mul(add(mul(x2, 3 * 0.044715), 1), SQRT_2_OVER_PI);
    const slope = sub(neg(square(t)), -1);
    const bend = sub(mul(x2, 3 * 0.044715 * SQRT_2_OVER_PI), mul(mul(x, t), square(du)));
    return mul(slope, add(du, bend));
  },
  silu: (x: Tensor) => mul(sigmoidSlope(x), add(mul(x, sub(neg(mul(P.sigmoid(x), 2)), -1)), 2)),
  mish: (x: Tensor) => {
    const s = P.sigmoid(x);
    const t = P.tanh(P.softplus(x));
    const dt = sub(neg(square(t)), -1);
    const inner = add(mul(s, 2), mul(x, sub(mul(s, sub(neg(s), -1)), mul(mul(square(s), t), 2))));
    return mul(dt, inner);
  },
  softplus: sigmoidSlope,
  logSigmoid: (x: Tensor) => neg(sigmoidSlope(x)),
  erf: (x: Tensor) => mul(mul(x, P.exp(neg(square(x)))), -4 / Math.sqrt(Math.PI)),
  selu: (x: Tensor) => P.where(P.gt(x, 0), 0, mul(P.exp(x), 1.0507009873554805 * 1.6732632423543772)),
  hardswish: (x: Tensor) => P.where(P.lt(P.abs(x), 3), 1 / 3, mul(x, 0)),
};

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
    (n, g) => div(mul(g, operand(n, 1)), add(square2(n, 0), square2(n, 1))),
    (n, g) => neg(div(mul(g, operand(n, 0)), add(square2(n, 0), square2(n, 1)))),
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
    (n, g) => mul(g, P.where(P.eq(operand(n, 0), 0), 0, logOf(n, 1))),
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
    grad: (n, g) => [null, () => P.where(n.in(0), g, 0), () => P.where(n.in(0), 0, g)],
  },
  clamp: {
    inputs: [0, 1, 2],
    grad: (n, g) => [
      () => mul(g, apply('between', operand(n, 0), operand(n, 1), operand(n, 2))),
      () => mul(g, P.lt(operand(n, 0), operand(n, 1))),
      () => mul(g, P.gt(operand(n, 0), operand(n, 2))),
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

  absBackward: flat('absBackward'),
  reciprocalBackward: byAll(
    (n, g) => apply('reciprocalBackward', g, operand(n, 1)),
    (n, g) => mul(mul(mul(g, operand(n, 0)), operand(n, 1)), -2),
  ),
  sqrtBackward: byAll(
    (n, g) => apply('sqrtBackward', g, operand(n, 1)),
    (n, g) => mul(div(mul(g, operand(n, 0)), square(n.in(1))), -0.5),
  ),
  rsqrtBackward: byAll(
    (n, g) => apply('rsqrtBackward', g, operand(n, 1)),
    (n, g) => mul(mul(mul(g, operand(n, 0)), square(n.in(1))), -1.5),
  ),
  erfBackward: second('erfBackward', curvature.erf),
  tanhBackward: byAll(
    (n, g) => apply('tanhBackward', g, operand(n, 1)),
    (n, g) => mul(mul(mul(g, operand(n, 0)), operand(n, 1)), -2),
  ),
  sigmoidBackward: byAll(
    (n, g) => apply('sigmoidBackward', g, operand(n, 1)),
    (n, g) => mul(mul(g, operand(n, 0)), sub(neg(mul(n.in(1), 2)), -1)),
  ),
  logSigmoidBackward: second('logSigmoidBackward', curvature.logSigmoid),
  softplusBackward: second('softplusBackward', curvature.softplus),
  reluBackward: flat('reluBackward'),
  relu6Backward: flat('relu6Backward'),
  hardtanhBackward: flat('hardtanhBackward'),
  hardsigmoidBackward: flat('hardsigmoidBackward'),
  hardswishBackward: second('hardswishBackward', curvature.hardswish),
  geluBackward: second('geluBackward', curvature.gelu),
  geluTanhBackward: second('geluTanhBackward', curvature.geluTanh),
  siluBackward: second('siluBackward', curvature.silu),
  mishBackward: second('mishBackward', curvature.mish),
  seluBackward: second('seluBackward', curvature.selu),
  eluBackward: byAll(
    (n, g) => apply('eluBackward', g, operand(n, 1), operand(n, 2)),
    (n, g) => mul(mul(g, operand(n, 0)), P.where(P.gt(n.in(1), 0), 0, mul(P.exp(n.in(1)), operand(n, 2)))),
  ),
  leakyReluBackward: { inputs: [1], grad: (n, g) => [() => apply('leakyReluBackward', g, n.in(1), n.input(2)!)] },
  maximumBackward: { inputs: [1, 2], grad: (n, g) => [() => apply('maximumBackward', g, operand(n, 1), operand(n, 2))] },
  minimumBackward: { inputs: [1, 2], grad: (n, g) => [() => apply('minimumBackward', g, operand(n, 1), operand(n, 2))] },
  divBackward: byAll(
    (n, g) => apply('divBackward', g, operand(n, 1), operand(n, 2)),
    (n, g) => neg(div(mul(g, operand(n, 0)), operand(n, 2))),
    (n, g) => div(mul(mul(g, operand(n, 0)), operand(n, 1)), square(n.in(2))),
  ),
  powBackward: byAll(
    (n, g) => apply('powBackward', g, operand(n, 1), operand(n, 2)),
    (n, g) => times(times(mul(g, operand(n, 0)), times(operand(n, 2), minusOne(n, 2))), apply('pow', operand(n, 1), lessTwo(n, 2))),
    (n, g) => mixedPow(n, g),
  ),
  powBackwardExponent: byAll(
    (n, g) => apply('powBackwardExponent', g, operand(n, 1), operand(n, 2)),
    (n, g) => mixedPow(n, g),
    (n, g) => times(mul(mul(g, operand(n, 0)), apply('pow', operand(n, 1), operand(n, 2))), times(logOf(n, 1), logOf(n, 1))),
  ),
  bceWithLogitsBackward: byAll(
    (n, g) => apply('bceWithLogitsBackward', g, operand(n, 1), operand(n, 2)),
    (n, g) => mul(mul(g, operand(n, 0)), sigmoidSlope(n.in(1))),
    (n, g) => neg(mul(g, operand(n, 0))),
  ),
  smoothL1Derivative: byAll(
    (n, g) => mul(g, div(P.lt(P.abs(sub(operand(n, 0), operand(n, 1))), operand(n, 2)), operand(n, 2))),
    (n, g) => neg(mul(g, div(P.lt(P.abs(sub(operand(n, 0), operand(n, 1))), operand(n, 2)), operand(n, 2)))),
  ),
  huberDerivative: byAll(
    (n, g) => mul(g, P.lt(P.abs(sub(operand(n, 0), operand(n, 1))), operand(n, 2))),
    (n, g) => neg(mul(g, P.lt(P.abs(sub(operand(n, 0), operand(n, 1))), operand(n, 2)))),
  ),
};

/** d²(xᵉ)/dx de = xᵉ⁻¹(1 + e·ln x). */
function mixedPow(n: N, g: Tensor): Tensor {
  const slope = add(times(operand(n, 2), logOf(n, 1)), 1);
  return times(mul(mul(g, operand(n, 0)), apply('pow', operand(n, 1), minusOne(n, 2))), slope);
}
/** Operands may be numbers; these keep arithmetic on either in one place. */
function times(a: Tensor | number, b: Tensor | number): Tensor {
  if (typeof a === 'number') return (typeof b === 'number' ? a * b : mul(b, a)) as Tensor;
  return mul(a, b);
}
function square2(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? x * x : square(x)) as Tensor;
}
function logOf(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? Math.log(x) : P.log(x)) as Tensor;
}
function minusOne(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? x - 1 : sub(x, 1)) as Tensor;
}
function lessTwo(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? x - 2 : sub(x, 2)) as Tensor;
}
