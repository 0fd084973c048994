// Pointwise functions with options or operands of their own: choosing, limiting and mixing elements, activations with a parameter.
import { isFloating, resultType } from '../dtype.js';
import { describe, ValueError } from '../errors.js';
import type { Operand, Tensor } from '../tensor.js';
import { checkOperand, checkTensor } from './arguments.js';
import { pointwiseInto } from './door.js';
import { apply } from './pointwise_table.js';

/**
 * Gaussian error linear unit (Hendrycks & Gimpel, 2016), x·Φ(x).
 * @param options.approximate `none` (default) computes Φ by erf, `tanh` is the approximation of GPT-2
 */
export function gelu(x: Tensor, options: { approximate?: 'none' | 'tanh' } = {}): Tensor {
  const approximate = options?.approximate ?? 'none';
  if (approximate !== 'none' && approximate !== 'tanh') throw new ValueError(`gelu: approximate must be none or tanh, got ${describe(approximate)}`);
  return apply(approximate === 'tanh' ? 'geluTanh' : 'gelu', x);
}
/** x, or `negativeSlope`·x below 0 (Maas et al., 2013). */
export function leakyRelu(x: Tensor, negativeSlope = 0.01): Tensor {
  return apply('leakyRelu', x, negativeSlope);
}
/** Exponential linear unit: x, or `alpha`·(eˣ − 1) below 0 (Clevert et al., 2015). */
export function elu(x: Tensor, alpha = 1): Tensor {
  return apply('elu', x, alpha);
}
/** `a` where the condition is not zero, else `b`; all three are broadcast. The condition's dtype does not take part in promotion. */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  checkTensor(condition, 'where');
  return apply('where', condition, a, b);
}
/** x limited to [min, max]; either may be absent (not both: ValueError), and each may be a tensor. NaN stays NaN. */
export function clamp(x: Tensor, min?: Operand | null, max?: Operand | null): Tensor {
  const [op, operands] = limits('clamp', x, min, max);
  return apply(op, ...operands);
}
/** In place: x limited to [min, max]; either may be absent. */
export function clamp_(x: Tensor, min?: Operand | null, max?: Operand | null): Tensor {
  const [op, operands] = limits('clamp_', x, min, max);
  return pointwiseInto(op, 'same', x, operands);
}
/** clamp as a row of the table. An absent bound is infinite, for which whole numbers have no value. */
function limits(where: string, x: Tensor, min?: Operand | null, max?: Operand | null): ['clamp' | 'maximum' | 'minimum', Operand[]] {
  checkTensor(x, where);
  const given = [min, max].filter((b) => b !== undefined && b !== null);
  if (given.length === 0) throw new ValueError(`${where}: give min, max or both`);
  for (const b of given) checkOperand(where, b, 'a bound');
  const one = given.length === 1 && !isFloating(resultType([x, ...given]));
  if (one) return [given[0] === min ? 'maximum' : 'minimum', [x, given[0]!]];
  return ['clamp', [x, min ?? Number.NEGATIVE_INFINITY, max ?? Number.POSITIVE_INFINITY]];
}
/** `value` where the mask is true, else x. The mask broadcasts to x's shape. */
export function maskedFill(x: Tensor, mask: Tensor, value: Operand): Tensor {
  checkTensor(x, 'maskedFill');
  return apply('where', mask, value, x);
}
/** In place: `value` where the mask is true. */
export function maskedFill_(x: Tensor, mask: Tensor, value: Operand): Tensor {
  checkTensor(x, 'maskedFill_');
  checkTensor(mask, 'maskedFill_');
  checkOperand('maskedFill_', value, 'the value');
  return pointwiseInto('where', 'same', x, [mask, value, x]);
}
/** a + weight·(b − a): linear interpolation. */
export function lerp(a: Tensor, b: Operand, weight: Operand): Tensor {
  return apply('lerp', a, b, weight);
}
