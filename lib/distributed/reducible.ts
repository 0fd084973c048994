// The gradient of a parameter as all ranks have it, so that they can be added.
import { sumDType } from '../autograd/accumulate.js';
import { zeros } from '../create.js';
import { to } from '../ops/copy.js';
import { takeOut } from '../storage.js';
import type { Tensor } from '../tensor.js';

/** In a dtype that does not depend on how many contributions each rank had; zeros where there was none. */
export function reducible({ grad, shape, dtype, device, gradDType }: Tensor): Tensor {
  const common = gradDType ?? sumDType(dtype);
  const g = grad ? to(grad, common) : zeros(shape, { dtype: common, device });
  if (g !== grad) {
    takeOut(g.storage, 'gradient');
    if (grad && !grad.isView) grad.dispose();
  }
  return g;
}
