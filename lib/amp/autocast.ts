// autocast: the region in which the door casts (lib/ops/autocast.ts), by the table of policy.ts.
import { context, withContext } from '../context.js';
import { DTypeError, describe, ValueError } from '../errors.js';
import { type CastCount, castCounts as counts, dropCasts, resetCastCounts as reset } from '../ops/autocast.js';
import { Tensor } from '../tensor.js';
import type { AutocastDType } from './policy.js';

/**
 * Runs `fn`, which may be async, in mixed precision (Micikevicius et al., 2018): matrix products, convolutions and attention compute in
 * `dtype`, ops that need the digits in float32, everything else in the type of its inputs. Parameters stay as they are, usually
 * float32; their casts are kept until an optimizer changes them, so a step casts each once. Backward belongs outside: it computes as
 * the forward did, and gradients have the parameters' dtypes. With float16, losses need a `GradScaler`; bfloat16 has float32's range.
 *
 * Regions nest: the innermost counts, `null` is none, and `float32` computes what the table would do in 16 bits in float32.
 *
 * @throws DTypeError for another dtype
 */
export function autocast<T>(dtype: AutocastDType | null, fn: () => T): T {
  return withContext({ autocast: checkAutocastDType(dtype, 'autocast') }, fn);
}

export function checkAutocastDType(dtype: unknown, where: string): AutocastDType | null {
  if (dtype === null || dtype === 'bfloat16' || dtype === 'float16' || dtype === 'float32') return dtype;
  throw new DTypeError(`${where}: the dtype must be bfloat16, float16, float32 or null, got ${describe(dtype)}`);
}

/** The dtype of the region around this call; null outside of one. */
export function autocastDType(): AutocastDType | null {
  return context().autocast;
}

/** What autocast has cast since the process began or resetCastCounts() ran. Kept casts of weights count when they are made. */
export function castCounts(): CastCount[] {
  return counts();
}
/** Begins the counts of `castCounts` anew. */
export function resetCastCounts(): void {
  reset();
}

/** Frees the casts that autocast keeps of these weights until they change, for example after the last step of a training. */
export function clearCasts(weights: Iterable<Tensor>): void {
  if (typeof (weights as Iterable<Tensor> | null)?.[Symbol.iterator] !== 'function')
    throw new ValueError(`clearCasts: expected tensors, got ${describe(weights)}`);
  const list = [...weights];
  for (const w of list) if (!(w instanceof Tensor)) throw new ValueError(`clearCasts: expected tensors, got ${describe(w)}`);
  dropCasts(list);
}
