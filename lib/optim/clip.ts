// Gradient clipping, on the device: the factor never visits the host.

import { noGrad } from '../autograd/modes.js';
import { zeros } from '../create.js';
import { describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { to } from '../ops/copy.js';
import { deviceOf, fresh, invoke } from '../ops/door.js';
import { stack } from '../ops/pieces.js';
import { norm } from '../ops/reduce.js';
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
  /** Order of the norm; 2 by default. 1, 2 and Infinity are one native call. */
  normType?: number;
  /** Throw when the norm is not finite; waits for the device. */
  errorIfNonfinite?: boolean;
}

/** The norm of all gradients as if they were one vector, on the device: float32, float64 if all gradients are. 0 without gradients. */
export function gradNorm(parameters: Iterable<Tensor>, normType = 2): Tensor {
  const grads = gradients(parameters, 'gradNorm');
  checkNumber(normType, 'the norm type', 'gradNorm');
  if (grads.length === 0) return zeros([]);
  const dtype = grads.every((g) => g.dtype === 'float64') ? 'float64' : 'float32';
  if (normType !== 1 && normType !== 2 && normType !== Number.POSITIVE_INFINITY) {
    const parts = grads.map((g) => norm(to(g, dtype), normType));
    return norm(stack(parts), normType);
  }
  return invoke('globalNorm', deviceOf('gradNorm', grads), [fresh([], dtype), ...grads], [normType])[0]!;
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
      const total = gradNorm(list, options?.normType ?? 2);
      if (options?.errorIfNonfinite && !Number.isFinite(total.itemSync())) throw new ValueError(`clipGradNorm: the gradient norm is ${total.itemSync()}`);
      const grads = gradients(list, 'clipGradNorm');
      if (grads.length === 0) return total;
      const factor = total.add(1e-6).reciprocal().mul(maxNorm).clamp(null, 1);
      invoke('scaleMany', total.device, [factor, ...grads]);
      for (const g of grads) g.storage.wrote('clipGradNorm');
      return total;
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
