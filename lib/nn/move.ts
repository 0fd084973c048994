// Moving parameters and buffers to another device or dtype. A parameter keeps its identity and takes its gradient along.
import type { DeviceLike } from '../device.js';
import { type DType, isFloating, promoteTypes } from '../dtype.js';
import { type MoveOptions, to } from '../ops/copy.js';
import { takeOut } from '../storage.js';
import type { Tensor } from '../tensor.js';

/** Where `Module.to` moves: a device, a dtype for floating-point tensors, or both. */
export type MoveTarget = DType | DeviceLike | MoveOptions;

/** The tensor there; integers keep their dtype when a floating one is asked for. */
export function moved(t: Tensor, target: MoveTarget): Tensor {
  const source = t.detach();
  if (typeof target === 'string') return to(source, isFloating(t.dtype) || /^(cpu|cuda|meta)/.test(target) ? target : t.dtype);
  const keep = !isFloating(t.dtype) && typeof target === 'object' && target !== null && !('type' in target);
  return to(source, keep ? { ...target, dtype: t.dtype } : target);
}

/** Gives a parameter its contents there under the same identity. */
export function moveParameter(p: Tensor, target: MoveTarget): void {
  const { storage, shape, strides, offset, dtype } = moved(p, target);
  if (storage === p.storage) return;
  takeOut(storage, 'parameter');
  const before = p.dtype;
  Object.assign(p, { storage, shape, strides, offset, dtype });
  if (p.grad === null) return;
  // one that was accumulated in float32 stays as precise as it is
  const grad = to(p.grad, { dtype: p.grad.dtype === before ? dtype : promoteTypes(p.grad.dtype, dtype), device: p.device });
  if (grad === p.grad) return;
  takeOut(grad.storage, 'gradient');
  if (!p.grad.isView) p.grad.dispose();
  p.grad = grad;
}
