// Gradient clipping, on the device: the factor never visits the host.

import { noGrad } from '../autograd/modes.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { fresh, invoke } from '../ops/door.js';
import { checkNumber } from '../shape.js';
import { Tensor } from '../tensor.js';

function gradients(parameters: Iterable<Tensor>, op: string): Tensor[] {
  if (parameters instanceof Tensor || typeof parameters?.[Symbol.iterator] !== 'function') {
    throw new ValueError(`${op}: expected a list of parameters, got ${describe(parameters)}`);
  }
  const grads: Tensor[] = [];
  for (const p of parameters) {
    if (!(p instanceof Tensor)) throw new ValueError(`${op}: parameters must be tensors, got ${describe(p)}`);
    if (p.grad) grads.push(p.grad.detach());
  }
  return grads;
}

export interface ClipOptions {
  /** Order of the norm: 2 (default), 1 or Infinity. */
  normType?: number;
  /** Throw when the norm is not finite; waits for the device. */
  errorIfNonfinite?: boolean;
}

/** The norm of all gradients as if they were one vector: one float32 element, on the device. */
export function gradNorm(parameters: Iterable<Tensor>, normType = 2): Tensor {
  const grads = gradients(parameters, 'gradNorm');
  if (normType !== 1 && normType !== 2 && normType !== Number.POSITIVE_INFINITY)
    throw new ValueError(`gradNorm: the norm type must be 1, 2 or Infinity, got ${describe(normType)}`);
  if (grads.length === 0) throw new ShapeError('gradNorm: no parameter has a gradient');
  return invoke('globalNorm', grads[0]!.device, [fresh([], 'float32'), ...grads], [normType])[0]!;
}

/**
 * Scales all gradients so that their common norm is at most `maxNorm` (Pascanu et al., 2013). Returns the norm before, as a
 * device tensor: reading it is up to the caller.
 */
export function clipGradNorm(parameters: Iterable<Tensor>, maxNorm: number, options: ClipOptions = {}): Tensor {
  checkNumber(maxNorm, 'maxNorm', 'clipGradNorm', 0);
  if (parameters instanceof Tensor || typeof parameters?.[Symbol.iterator] !== 'function')
    throw new ValueError(`clipGradNorm: expected a list of parameters, got ${describe(parameters)}`);
  const list = [...parameters];
  return noGrad(() =>
    scope(() => {
      const norm = gradNorm(list, options?.normType ?? 2);
      if (options?.errorIfNonfinite && !Number.isFinite(norm.itemSync())) throw new ValueError(`clipGradNorm: the gradient norm is ${norm.itemSync()}`);
      const factor = norm.add(1e-6).reciprocal().mul(maxNorm).clamp(null, 1);
      const grads = gradients(list, 'clipGradNorm');
      invoke('scaleMany', norm.device, [factor, ...grads]);
      for (const g of grads) g.storage.wrote('clipGradNorm');
      return norm;
    }),
  );
}

/** Limits every gradient element to [−clipValue, clipValue]. */
export function clipGradValue(parameters: Iterable<Tensor>, clipValue: number): void {
  checkNumber(clipValue, 'clipValue', 'clipGradValue', 0);
  const grads = gradients(parameters, 'clipGradValue');
  if (grads.length === 0) return;
  invoke('clampMany', grads[0]!.device, grads, [-clipValue, clipValue]);
  for (const g of grads) g.storage.wrote('clipGradValue');
}
