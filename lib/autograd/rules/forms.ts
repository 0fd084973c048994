// The forms that most pointwise rules have, and arithmetic on operands that may be numbers.
import { zerosLike } from '../../create.js';
import { apply, log, mul, neg, type PointwiseName, sigmoid, square, sub } from '../../ops/pointwise.js';
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
export function square2(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? x * x : square(x)) as Tensor;
}
export function logOf(n: N, i: number): Tensor {
  const x = n.input(i)!;
  return (typeof x === 'number' ? Math.log(x) : log(x)) as Tensor;
}
