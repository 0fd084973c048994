// How the gradients of a leaf add up. A sum in 16 bits soon swallows what is added to it (1 + 2⁻⁹ is 1 in bfloat16), so the first gradient is
// kept as it comes and every further one is added in float32: a step with one backward pays nothing, one with many has
// float32 sums. The widening happens in the addition, which reads 16-bit operands as they are.
import { computeType, type DType, dtypeCode, dtypeSize } from '../dtype.js';
import { addInto, to } from '../ops/copy.js';
import { fresh, invoke } from '../ops/door.js';
import { add } from '../ops/pointwise.js';
import type { Tensor } from '../tensor.js';

/** What further contributions to a gradient of this dtype are added in, unless the leaf's `gradDType` says. */
export function sumDType(dtype: DType): DType {
  return dtypeSize[dtype] < 4 ? 'float32' : dtype;
}

/** The sum of a gradient and a further contribution: in place when it has the dtype already, else, or if `anew`, a new tensor. */
export function accumulated(sum: Tensor, g: Tensor, gradDType: DType | null, anew: boolean): Tensor {
  const dtype = gradDType ?? sumDType(sum.dtype);
  if (anew) return to(add(to(sum, dtype), g), dtype);
  if (sum.dtype === dtype) {
    addInto(sum, g);
    return sum;
  }
  const wide = invoke('add', sum.device, [sum.detach(), g.detach(), fresh(sum.shape, dtype)], [dtypeCode[computeType(dtype)]])[0]!;
  // what the user has put there, a bucket and what a graph made belong to others
  if (sum.storage.kind === 'gradient' && !sum.isView && sum.gradFn === null) sum.dispose();
  return wide;
}
