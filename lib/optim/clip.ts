// Gradient clipping, on the device: the factor never visits the host.

import { noGrad } from '../autograd/modes.js';
import { zeros } from '../create.js';
import { describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { deviceOf, invoke } from '../ops/door.js';
import { checkNumber } from '../shape.js';
import { Tensor } from '../tensor.js';
import { globalNorm, isSpread } from './global_norm.js';

function checkList(parameters: unknown, op: string): Tensor[] {
  if (parameters instanceof Tensor || typeof (parameters as Iterable<Tensor> | null)?.[Symbol.iterator] !== 'function')
    throw new ValueError(`${op}: expected a list of parameters, got ${describe(parameters)}`);
  const list = [...(parameters as Iterable<Tensor>)];
  for (const p of list) if (!(p instanceof Tensor)) throw new ValueError(`${op}: parameters must be tensors, got ${describe(p)}`);
  return list;
}

const gradients = (parameters: readonly Tensor[]): Tensor[] => parameters.flatMap((p) => p.grad?.detach() ?? []);

/** The norm that `clipGradNorm` limits. */
export interface ClipOptions {
  /** Order of the norm; 2 by default. 1, 2 and Infinity are one native call. */
  normType?: number;
  /** Throw ValueError when the norm is not finite; waits for the device. Default false. */
  errorIfNonfinite?: boolean;
}

/**
 * The norm of all gradients as if they were one vector, on the device: float32, float64 if all gradients are. 0 without gradients.
 *
 * Of parameters that lie in pieces on the ranks of a mesh (`layoutOf`), the whole ones count, each once: all ranks call this with the same
 * parameters and get the same number, that of the gathered gradients.
 */
export function gradNorm(parameters: Iterable<Tensor>, normType = 2): Tensor {
  const list = checkList(parameters, 'gradNorm');
  checkNumber(normType, 'the norm type', 'gradNorm');
  const sharded = list.some(isSpread);
  if (sharded && !(normType > 0)) throw new ValueError(`gradNorm: the norm type of sharded parameters must be above 0, got ${normType}`);
  const grads = gradients(list);
  if (grads.length === 0 && !sharded) return zeros([]);
  deviceOf('gradNorm', grads);
  return globalNorm(list, normType);
}

/**
 * Scales all gradients so that their common norm is at most `maxNorm` (Pascanu et al., 2013). Returns the norm before, as a
 * device tensor: reading it is up to the caller. Sharded parameters: as gradNorm.
 */
export function clipGradNorm(parameters: Iterable<Tensor>, maxNorm: number, options: ClipOptions = {}): Tensor {
  checkNumber(maxNorm, 'maxNorm', 'clipGradNorm', 0);
  const list = checkList(parameters, 'clipGradNorm');
  return noGrad(() =>
    scope(() => {
      const total = gradNorm(list, options?.normType ?? 2);
      if (options?.errorIfNonfinite && !Number.isFinite(total.itemSync())) throw new ValueError(`clipGradNorm: the gradient norm is ${total.itemSync()}`);
      const grads = gradients(list);
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
  const grads = gradients(checkList(parameters, 'clipGradValue'));
  if (grads.length === 0) return;
  invoke('clampMany', grads[0]!.device, grads, [-clipValue, clipValue]);
  for (const g of grads) g.storage.wrote('clipGradValue');
}
