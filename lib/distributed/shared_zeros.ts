// Memory shared by the ranks of a group: what all-reduces work on in place.
import { context } from '../context.js';
import { zeros } from '../create.js';
import { checkDType, type DType, dtypeSize } from '../dtype.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { checkShape, numel } from '../shape.js';
import { born } from '../storage.js';
import { type Tensor, wrap } from '../tensor.js';
import type { ProcessGroup } from './process_group.js';

/** Zeros that lie in the group's shared memory, or on a GPU in its own. */
export function sharedZeros({ id, device, backend }: ProcessGroup, shape: readonly number[], given: DType = 'float32'): Tensor {
  const dtype = checkDType(given, 'sharedZeros');
  const sizes = checkShape(shape, 'sharedZeros');
  if (backend !== 'cpu') return zeros(sizes, { dtype, device });
  const bytes = numel(sizes) * dtypeSize[dtype];
  try {
    return wrap(born(native.shareMemory(id, device.slot, bytes), device, bytes, context().scope), sizes, dtype);
  } catch (error) {
    throw fromNative(error);
  }
}
