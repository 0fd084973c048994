// Softmax and its relatives. The kernels work along the last dimension; another one is brought there by a view, and the
// result is viewed back, so no data moves.
import { isFloating } from '../dtype.js';
import { checkDim, checkDims, numel } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFlag, checkFloat, checkTensor } from './arguments.js';
import { autocasts } from './autocast.js';
import { to } from './copy.js';
import { door, fresh, like } from './door.js';
import type { Dims } from './reduce.js';
import { permute, reshape, transpose } from './view.js';

function alongDim(op: 'softmax' | 'logSoftmax', x: Tensor, dim: number): Tensor {
  checkFloat(x, op);
  const d = checkDim(dim, x.ndim, op);
  const last = (z: Tensor): Tensor => door(op, [z], [like(z)], [], undefined)[0]!;
  return d >= x.ndim - 1 ? last(x) : transpose(last(transpose(x, d, -1)), d, -1);
}

/** exp(x) / Σ exp(x) along `dim`, without overflow. Keeps shape and dtype; takes floating-point tensors. */
export const softmax = autocasts('softmax', (x: Tensor, dim: number): Tensor => {
  return alongDim('softmax', x, dim);
});

/** ln(softmax(x)) along `dim`, exact where softmax itself would round to 0. */
export const logSoftmax = autocasts('logSoftmax', (x: Tensor, dim: number): Tensor => {
  return alongDim('logSoftmax', x, dim);
});

/** ln Σ exp(x) over `dims` (all by default), without overflow. Integers give float32. */
export const logsumexp = autocasts('logsumexp', (x: Tensor, dims?: Dims, keepdim = false): Tensor => {
  checkTensor(x, 'logsumexp');
  checkFlag(keepdim, 'keepdim', 'logsumexp');
  const z = isFloating(x.dtype) ? x : to(x, 'float32');
  checkFloat(z, 'logsumexp');
  const over = checkDims(dims, x.ndim, 'logsumexp');
  const kept = x.shape.map((_, i) => i).filter((i) => !over.includes(i));
  const rows = kept.map((i) => x.shape[i]!);
  const isLast = over.every((d, i) => d === kept.length + i);
  const flat = reshape(isLast ? z : permute(z, [...kept, ...over]), [...rows, numel(x.shape.filter((_, i) => over.includes(i)))]);
  const y = door('logsumexp', [flat], [fresh(rows, z.dtype)], [], undefined)[0]!;
  return keepdim
    ? reshape(
        y,
        x.shape.map((s, i) => (over.includes(i) ? 1 : s)),
      )
    : y;
});
