// Which parameter a tensor stands for, where an optimizer has something else in its place: checkpoints call its state by the parameter's name.
import type { Tensor } from '../tensor.js';

/** By what an optimizer sees. */
export const originals = new WeakMap<Tensor, Tensor>();

/** The parameter that `x` stands for, or itself. */
export function originalOf(x: Tensor): Tensor {
  return originals.get(x) ?? x;
}
