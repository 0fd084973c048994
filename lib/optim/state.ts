// Tensors that belong to an optimizer: its states and masters, at least float32, outside of every scope.
import type { DType } from '../dtype.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { copy_ } from '../ops/copy.js';
import { takeOut } from '../storage.js';
import { Tensor } from '../tensor.js';

export function stateTensor(t: Tensor): Tensor {
  takeOut(t.storage, 'optimizer state');
  return t;
}

/** Low-precision parameters keep float32 masters and states. */
export function stateType(dtype: DType): DType {
  return dtype === 'float64' ? 'float64' : 'float32';
}

/** Copies what a state dict has into the tensor that is there. */
export function restore(target: Tensor, source: Tensor | number | undefined, where: string): void {
  if (!(source instanceof Tensor)) throw new ValueError(`${where} must be a tensor, got ${describe(source)}`);
  if (source.shape.length !== target.shape.length || source.shape.some((s, i) => s !== target.shape[i])) {
    throw new ShapeError(`${where} has shape [${source.shape}], expected [${target.shape}]`);
  }
  copy_(target, source);
}

/** The gradient of a parameter that has one. */
export function gradientOf(p: Tensor): Tensor {
  const g = p.grad!;
  if (g.shape.length !== p.shape.length || g.shape.some((s, i) => s !== p.shape[i])) {
    throw new ShapeError(`step: a gradient of shape [${g.shape}] belongs to a parameter of shape [${p.shape}]`);
  }
  return g;
}
