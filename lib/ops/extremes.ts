// Elements that are chosen, with their positions: largest, smallest, middle, most frequent. Each finds positions first and then reads x there,
// so that the gradient goes to the chosen element alone: max and min of reduce.ts share it among equals.

import { arange } from '../create.js';
import { isFloating } from '../dtype.js';
import { ShapeError } from '../errors.js';
import { checkDim, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFlag, checkTensor } from './arguments.js';
import { where } from './blend.js';
import { contiguous } from './copy.js';
import { gather } from './gather.js';
import { cat } from './pieces.js';
import { eq, ge, isnan, le, logicalNot, logicalOr, sub } from './pointwise.js';
import { argmax, argmin, type Dims, max, min } from './reduce.js';
import { kthvalue, sort } from './sort.js';
import { expand, narrow, reshape, squeeze } from './view.js';

function checkAlong(x: unknown, dim: number, op: string): number {
  checkTensor(x, op);
  const d = checkDim(dim, x.ndim, op);
  if (x.shape[d] === 0) throw new ShapeError(`${op}: no elements to choose from along dimension ${d} of ${showShape(x.shape)}`);
  return d;
}

/** x at positions of `dim`, which they have as a dimension of size 1. */
function chosen(x: Tensor, dim: number, at: Tensor, keepdim: boolean): [Tensor, Tensor] {
  const values = gather(x, dim, at);
  return keepdim || x.ndim === 0 ? [values, at] : [squeeze(values, dim), squeeze(at, dim)];
}

/**
 * The largest element along `dim` and its position, the first of equals (int64): [values, indices], what PyTorch's `max(dim)` gives. NaN is
 * the largest. The gradient goes to that element alone; `max` gives values without positions.
 */
export function maxWithIndices(x: Tensor, dim: number, keepdim = false): [values: Tensor, indices: Tensor] {
  const d = checkAlong(x, dim, 'maxWithIndices');
  checkFlag(keepdim, 'keepdim', 'maxWithIndices');
  return chosen(x, d, argmax(x.detach(), d, true), keepdim);
}

/**
 * The smallest element along `dim` and its position, the first of equals (int64): [values, indices], what PyTorch's `min(dim)` gives. NaN is
 * the smallest. The gradient goes to that element alone; `min` gives values without positions.
 */
export function minWithIndices(x: Tensor, dim: number, keepdim = false): [values: Tensor, indices: Tensor] {
  const d = checkAlong(x, dim, 'minWithIndices');
  checkFlag(keepdim, 'keepdim', 'minWithIndices');
  return chosen(x, d, argmin(x.detach(), d, true), keepdim);
}

/** Smallest and largest element over `dims` (all by default): [min, max]. NaN wins in both; ties share the gradient evenly. */
export function aminmax(x: Tensor, dims?: Dims, keepdim = false): [min: Tensor, max: Tensor] {
  checkTensor(x, 'aminmax');
  return [min(x, dims, keepdim), max(x, dims, keepdim)];
}

/**
 * The middle element along one dimension, or of the flattened tensor: of an even number the lower of the two in the middle, as in PyTorch. NaN
 * where there is one. The gradient goes to that element. `medianWithIndices` gives its position, too.
 */
export function median(x: Tensor, dim?: number | null, keepdim = false): Tensor {
  checkTensor(x, 'median');
  checkFlag(keepdim, 'keepdim', 'median');
  if (dim !== undefined && dim !== null) return middle('median', x, dim, keepdim)[0];
  const y = middle('median', reshape(x, [x.numel]), 0, false)[0];
  return keepdim ? reshape(y, new Array<number>(x.ndim).fill(1)) : y;
}

/** The middle element along `dim` and its position (int64): [values, indices], what PyTorch's `median(dim)` gives. */
export function medianWithIndices(x: Tensor, dim: number, keepdim = false): [values: Tensor, indices: Tensor] {
  return middle('medianWithIndices', x, dim, keepdim);
}

function middle(op: string, x: Tensor, dim: number, keepdim: boolean): [Tensor, Tensor] {
  const d = checkAlong(x, dim, op);
  checkFlag(keepdim, 'keepdim', op);
  const plain = x.detach();
  const n = x.shape[d] ?? 1;
  const [, index] = kthvalue(plain, Math.ceil(n / 2), d, true);
  // a NaN wins, as in max
  const at = isFloating(x.dtype) ? where(isnan(max(plain, d, true)), argmax(plain, d, true), index) : index;
  return chosen(x, d, at, keepdim);
}

/**
 * The most frequent element along `dim`, the smallest of those that are equally frequent, and the position where it comes last (int64):
 * [values, indices].
 */
export function mode(x: Tensor, dim = -1, keepdim = false): [values: Tensor, indices: Tensor] {
  const d = checkAlong(x, dim, 'mode');
  checkFlag(keepdim, 'keepdim', 'mode');
  if (x.ndim === 0) return chosen(x, d, argmax(x.detach(), d, true), keepdim);
  const [values, order] = sort(x.detach(), d);
  const n = x.shape[d]!;
  const place = along(x, d, n);
  const starts = cat([ge(narrow(place, d, 0, 1), 0), logicalNot(eq(narrow(values, d, 1, n - 1), narrow(values, d, 0, n - 1)))], d);
  // equals are neighbours now: how far each is from the first of them
  const length = sub(place, cummax(where(starts, place, 0), d)[0]);
  return chosen(x, d, gather(order, d, argmax(length, d, true)), keepdim);
}

/** 0, 1, … along one dimension of the shape of x. */
function along(x: Tensor, d: number, n: number): Tensor {
  const shape = x.shape.map((_, i) => (i === d ? n : 1));
  return expand(reshape(arange(0, n, 1, { device: x.device }), shape), x.shape);
}

/**
 * The largest element so far along `dim` and its position, the last of equals (int64): [values, indices]. From the first NaN on all are NaN.
 */
export function cummax(x: Tensor, dim: number): [values: Tensor, indices: Tensor] {
  return running('cummax', x, dim, ge);
}

/**
 * The smallest element so far along `dim` and its position, the last of equals (int64): [values, indices]. From the first NaN on all are NaN.
 */
export function cummin(x: Tensor, dim: number): [values: Tensor, indices: Tensor] {
  return running('cummin', x, dim, le);
}

/** By doubling: after the step of k, a place knows the best of the 2k places up to it, and where that is. */
function running(op: string, x: Tensor, dim: number, wins: (later: Tensor, earlier: Tensor) => Tensor): [Tensor, Tensor] {
  checkTensor(x, op);
  const d = checkDim(dim, x.ndim, op);
  if (x.ndim === 0) return chosen(x, d, argmax(x.detach(), d, true), true);
  const n = x.shape[d]!;
  let best = x.detach();
  let at = along(x, d, n);
  for (let k = 1; k < n; k *= 2) {
    const [earlier, later] = [narrow(best, d, 0, n - k), narrow(best, d, k, n - k)];
    const won = wins(later, earlier);
    const stays = isFloating(x.dtype) ? logicalOr(won, isnan(later)) : won;
    const step = (t: Tensor): Tensor => cat([narrow(t, d, 0, k), where(stays, narrow(t, d, k, n - k), narrow(t, d, 0, n - k))], d);
    [best, at] = [step(best), step(at)];
  }
  const indices = contiguous(at);
  return [gather(x, d, indices), indices];
}
