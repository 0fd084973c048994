// Order, running sums and sampling along one dimension. The kernels work along the last one; another is brought there by a view.

import { isFloating } from '../dtype.js';
import { ShapeError, ValueError } from '../errors.js';
import { defaultGenerator, drawKey, Generator, type RandomKey } from '../random.js';
import { checkDim, checkInteger, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFlag, checkFloat, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { door, fresh, invoke, like } from './door.js';
import { narrow, reshape, select, transpose } from './view.js';

/** Runs `f` on x with `dim` last, and brings the results' last dimension back to it. */
function alongLast<T extends readonly Tensor[]>(x: Tensor, dim: number, f: (x: Tensor) => T): T {
  if (dim >= x.ndim - 1) return f(x);
  return f(transpose(x, dim, -1)).map((y) => transpose(y, dim, -1)) as unknown as T;
}

/**
 * Values in ascending order along `dim`, and their positions (int64): [values, indices]. The order is stable, NaN counts as largest.
 * @param options.descending the largest first. Default false
 */
export function sort(x: Tensor, dim = -1, options?: { descending?: boolean }): [values: Tensor, indices: Tensor] {
  return sorted('sort', x, dim, options);
}
/**
 * The positions that would sort x along `dim`.
 * @param options.descending the largest first. Default false
 */
export function argsort(x: Tensor, dim = -1, options?: { descending?: boolean }): Tensor {
  checkTensor(x, 'argsort');
  const [values, indices] = sorted('argsort', x.detach(), dim, options); // positions have no gradient
  values.dispose();
  return indices;
}

function sorted(op: string, x: Tensor, dim: number, options: { descending?: boolean } | undefined): [Tensor, Tensor] {
  checkTensor(x, op);
  const d = checkDim(dim, x.ndim, op);
  const descending = checkFlag(optionsOf(options, op).descending ?? false, 'descending', op);
  return alongLast(x, d, (z) => door('sort', [z], [like(z), fresh(z.shape, 'int64')], [Number(descending)], undefined) as [Tensor, Tensor]);
}

/**
 * The k largest elements along `dim`, best first, and their positions (int64): [values, indices].
 * @param options.largest false for the k smallest. Default true
 */
export function topk(x: Tensor, k: number, dim = -1, options?: { largest?: boolean }): [values: Tensor, indices: Tensor] {
  checkTensor(x, 'topk');
  const d = checkDim(dim, x.ndim, 'topk');
  const largest = checkFlag(optionsOf(options, 'topk').largest ?? true, 'largest', 'topk');
  checkInteger(k, 'k', 'topk', 0);
  if (k > (x.shape[d] ?? 1)) throw new ValueError(`topk: k = ${k} is more than the ${x.shape[d] ?? 1} elements of dimension ${d} of ${showShape(x.shape)}`);
  return alongLast(x, d, (z) => {
    const shape = z.ndim === 0 ? [k] : [...z.shape.slice(0, -1), k];
    const [values, indices] = door('topk', [z.ndim === 0 ? reshape(z, [1]) : z], [fresh(shape, z.dtype), fresh(shape, 'int64')], [Number(largest)], undefined);
    return (z.ndim === 0 && k === 1 ? [reshape(values!, []), reshape(indices!, [])] : [values!, indices!]) as [Tensor, Tensor];
  });
}

/** The k-th smallest element along `dim` (k from 1) and its position: [value, index]; `keepdim` keeps that dimension as size 1. */
export function kthvalue(x: Tensor, k: number, dim = -1, keepdim = false): [value: Tensor, index: Tensor] {
  checkTensor(x, 'kthvalue');
  checkFlag(keepdim, 'keepdim', 'kthvalue');
  const d = checkDim(dim, x.ndim, 'kthvalue');
  checkInteger(k, 'k', 'kthvalue', 1, x.shape[d] ?? 1);
  if (x.ndim === 0) return topk(x, 1);
  const [values, indices] = topk(x, k, d, { largest: false });
  const cut = (t: Tensor): Tensor => (keepdim ? narrow(t, d, k - 1, 1) : select(t, d, k - 1));
  return [cut(values), cut(indices)];
}

/** Running sums along `dim`. Integers and bool give int64. */
export const cumsum = autocasts('cumsum', (x: Tensor, dim: number): Tensor => {
  const [z, d] = scanned('cumsum', x, dim);
  return alongLast(z, d, (last) => door('cumsum', [last], [scanOutput(last)], [0], { reverse: false }))[0]!;
});

/** Running products along `dim`. Integers and bool give int64. */
export const cumprod = autocasts('cumprod', (x: Tensor, dim: number): Tensor => {
  const [z, d] = scanned('cumprod', x, dim);
  return alongLast(z, d, (last) => door('cumprod', [last], [scanOutput(last)], [], undefined))[0]!;
});

const scanOutput = (x: Tensor) => fresh(x.shape, isFloating(x.dtype) ? x.dtype : 'int64');

function scanned(op: string, x: Tensor, dim: number): [Tensor, number] {
  checkTensor(x, op);
  if (isFloating(x.dtype)) checkFloat(x, op);
  return [x, checkDim(dim, x.ndim, op)];
}

/**
 * `samples` class indices (int64) drawn from the weights of each row of `[C]` or `[N, C]`, which need not sum to 1. Without replacement, in
 * the order drawn.
 * @param options.replacement whether a class may be drawn again. Default false
 * @param options.generator source of the numbers; by default the one in force
 */
export function multinomial(weights: Tensor, samples: number, options?: { replacement?: boolean; generator?: Generator }): Tensor {
  checkFloat(weights, 'multinomial', 'the weights');
  if (weights.ndim < 1 || weights.ndim > 2)
    throw new ShapeError(`multinomial: the weights must be [classes] or [rows, classes], got ${showShape(weights.shape)}`);
  checkInteger(samples, 'the number of samples', 'multinomial', 1);
  const o = optionsOf(options, 'multinomial');
  const [replacement, generator] = [o.replacement ?? false, o.generator ?? defaultGenerator()];
  checkFlag(replacement, 'replacement', 'multinomial');
  if (!(generator instanceof Generator)) throw new ValueError('multinomial: generator must be a Generator');
  const classes = weights.shape[weights.ndim - 1]!;
  if (classes === 0 || (!replacement && samples > classes))
    throw new ValueError(`multinomial: cannot draw ${samples} of ${classes} classes without replacement`);
  const key: RandomKey = drawKey(() => generator.nextKey());
  return invoke('multinomial', weights.device, [weights, fresh([...weights.shape.slice(0, -1), samples], 'int64')], [Number(replacement), ...key])[0]!;
}
