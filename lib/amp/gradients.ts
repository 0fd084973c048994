// In which dtype the gradients of a model add up. By default that needs no call: 16-bit gradients are added in float32.
import type { DType } from '../dtype.js';
import { describe, ValueError } from '../errors.js';
import { Tensor } from '../tensor.js';

/**
 * Sets the dtype in which gradients of `parameters` add up and are handed to the optimizer (`gradDType` of each): `bfloat16` keeps everything in
 * 16 bits, for a memory of half the size and sums that lose small contributions; `float32` begins in float32; null, as it is without a
 * call, keeps the first gradient of a step as it comes and adds further ones to 16-bit gradients in float32.
 * @throws DTypeError for what is no floating-point dtype of at least 16 bits
 */
export function setGradientDType(parameters: Iterable<Tensor>, dtype: DType | null): void {
  if (parameters instanceof Tensor || typeof parameters?.[Symbol.iterator] !== 'function')
    throw new ValueError(`setGradientDType: expected a list of parameters, got ${describe(parameters)}`);
  const list = [...parameters];
  for (const p of list) if (!(p instanceof Tensor)) throw new ValueError(`setGradientDType: parameters must be tensors, got ${describe(p)}`);
  for (const p of list) p.gradDType = dtype;
}
