// The forms that most pointwise rules have, and arithmetic on operands that may be numbers.
import { zerosLike } from '../../create.js';
import { where } from '../../ops/blend.js';
import { eq, le, log, logicalAnd, mul, neg, sigmoid, square, sub } from '../../ops/pointwise.js';
import { apply, type PointwiseName } from '../../ops/pointwise_table.js';
import type { Tensor } from '../../tensor.js';
import type { Node } from '../node.js';
import type { Rule } from './types.js';

export type N = Node;
export type Any = Rule<PointwiseName>;

/** From dy and x. */
export const byInput = (grad: (g: Tensor, x: Tensor) => Tensor): Any => ({ inputs: [0], grad: (n, g) => [grad(g, n.in(0))] });
/** From dy and y. */
export const byOutput = (grad: (g: Tensor, y: Tensor) => Tensor): Any => ({ outputs: [0], grad: (n, g) => [grad(g, n.out(0))] });
export const backwardRow = (op: PointwiseName) => (g: Tensor, t: Tensor) => apply(op, g, t);
/** Each input's gradient needs all inputs. */
export const byAll = (...grads: ((n: N, g: Tensor) => Tensor)[]): Any => ({
  inputs: (needs) => needs.map((_, i) => i),
  grad: (n, g) => grads.map((f) => () => f(n, g)),
});
export const operand = (n: N, i: number): Tensor => n.input(i) as Tensor; // a number works too: every use is an Operand place

/** Steps: the gradient is zero, as PyTorch has it, and not absent. */
export const constant: Any = { grad: (n, g) => n.edges.map(() => () => zerosLike(g)) };

export const sigmoidSlope = (x: Tensor): Tensor => {
  const s = sigmoid(x);
  return mul(s, sub(neg(s), -1));
};
/** Operands may be numbers; these keep arithmetic on either in one place. */
export function times(a: Tensor | number, b: Tensor | number): Tensor {
  if (typeof a === 'number') return (typeof b === 'number' ? a * b : mul(b, a)) as Tensor;
  return mul(a, b);
}
/** t / (x² + y²) of inputs 0 and 1, and 0 at the origin. */
export function overSquares(n: N, t: Tensor): Tensor {
  const squared = (x: Tensor | number): Tensor | number => (typeof x === 'number' ? x * x : square(x));
  const sum = apply('add', squared(n.input(0)!), squared(n.input(1)!));
  return where(eq(sum, 0), 0, apply('div', t, sum));
}
export function logOf(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? Math.log(x) : log(x)) as Tensor;
}
/** ln y of inputs x and y, but 0 where x·ln y is 0 because x is and y has no logarithm. */
export function logWhereUsed(n: N): Tensor | number {
  const [x, y] = [n.in(0), n.input(1)!];
  const none = typeof y === 'number' ? y <= 0 && eq(x, 0) : logicalAnd(eq(x, 0), le(y, 0));
  return none === false ? logOf(n, 1) : where(none, 0, logOf(n, 1));
}
