// Rules of the backward rows of the pointwise table, in primitives: with them, gradients of gradients exist.

import { where } from '../../ops/blend.js';
import * as P from '../../ops/pointwise.js';
import { add, div, mul, neg, square, sub } from '../../ops/pointwise.js';
import { apply, type PointwiseName } from '../../ops/pointwise_table.js';
import type { Tensor } from '../../tensor.js';
import { type Any, byAll, logOf, type N, operand, sigmoidSlope, times } from './forms.js';
import type { Rules } from './types.js';

/** The rows of the table that exist for gradients. */
export type BackwardRow = Extract<PointwiseName, `${string}Backward` | `${string}BackwardExponent` | `${string}Derivative`>;

/** dy · f'(x) for a backward row (dy, x) whose f'' is given: gradients for dy and for x. */
const second = (row: PointwiseName, curvature: (x: Tensor) => Tensor): Any =>
  byAll(
    (n, g) => apply(row, g, operand(n, 1)),
    (n, g) => mul(mul(g, operand(n, 0)), curvature(n.in(1))),
  );
/** As `second` where f'' is 0 almost everywhere. */
const flat = (row: PointwiseName): Any => ({ inputs: [1], grad: (n, g) => [() => apply(row, g, n.in(1))] });

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
  selu: (x: Tensor) => where(P.gt(x, 0), 0, mul(P.exp(x), 1.0507009873554805 * 1.6732632423543772)),
  hardswish: (x: Tensor) => where(P.lt(P.abs(x), 3), 1 / 3, mul(x, 0)),
};

export const backwardRowRules: Rules<BackwardRow> = {
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
    (n, g) => mul(mul(g, operand(n, 0)), where(P.gt(n.in(1), 0), 0, mul(P.exp(n.in(1)), operand(n, 2)))),
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
function minusOne(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? x - 1 : sub(x, 1)) as Tensor;
}
function lessTwo(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? x - 2 : sub(x, 2)) as Tensor;
}
