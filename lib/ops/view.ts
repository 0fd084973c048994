// Views: other shapes and strides over the same storage. They cost no native call. A view inside a graph is recorded like any op.

import { record, recording } from '../autograd/node.js';
import type { OpAttrs, ViewName } from '../autograd/rules/types.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { broadcastShapes, checkDim, checkInteger, inferShape, numel, type Shape, sameShape, showShape, viewStrides } from '../shape.js';
import { Tensor } from '../tensor.js';
import { contiguous } from './copy.js';

function checkTensor(x: unknown, op: string): asserts x is Tensor {
  if (!(x instanceof Tensor)) throw new ValueError(`${op}: expected a tensor, got ${describe(x)}`);
}

function viewOf<K extends ViewName>(op: K, x: Tensor, shape: Shape, strides: Shape, offset: number, attrs: OpAttrs<K>): Tensor {
  const y = new Tensor(x.storage, shape, strides, offset, x.dtype);
  y.isView = true;
  y.epoch = x.storage.epoch;
  if (recording([x])) record(op, [x], [y], attrs);
  return y;
}

/** Another shape for the same elements in row-major order; -1 is inferred. Copies when the memory does not allow a view. */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  checkTensor(x, 'reshape');
  const target = inferShape(shape, x.numel, 'reshape');
  if (sameShape(target, x.shape)) return x;
  const strides = viewStrides(x.shape, x.strides, target);
  return strides ? viewOf('reshape', x, target, strides, x.offset, undefined) : reshape(contiguous(x), target);
}

/** As reshape, but throws when a copy would be needed. */
export function view(x: Tensor, shape: readonly number[]): Tensor {
  checkTensor(x, 'view');
  const target = inferShape(shape, x.numel, 'view');
  const strides = viewStrides(x.shape, x.strides, target);
  if (!strides) throw new ShapeError(`view: ${showShape(target)} is not a view of ${showShape(x.shape)} with strides ${showShape(x.strides)}; use reshape()`);
  return viewOf('reshape', x, target, strides, x.offset, undefined);
}

/** Dimensions [start, end] as one. */
export function flatten(x: Tensor, start = 0, end = -1): Tensor {
  checkTensor(x, 'flatten');
  if (x.ndim === 0) return reshape(x, [1]);
  const a = checkDim(start, x.ndim, 'flatten');
  const b = checkDim(end, x.ndim, 'flatten');
  if (a > b) throw new ShapeError(`flatten: start dimension ${start} comes after end dimension ${end}`);
  return reshape(x, [...x.shape.slice(0, a), numel(x.shape.slice(a, b + 1)), ...x.shape.slice(b + 1)]);
}

/** One dimension as several; one size may be -1. */
export function unflatten(x: Tensor, dim: number, sizes: readonly number[]): Tensor {
  checkTensor(x, 'unflatten');
  const d = checkDim(dim, x.ndim, 'unflatten');
  return reshape(x, [...x.shape.slice(0, d), ...inferShape(sizes, x.shape[d] ?? 1, 'unflatten'), ...x.shape.slice(d + 1)]);
}

/** The dimensions in another order. */
export function permute(x: Tensor, dims: readonly number[]): Tensor {
  checkTensor(x, 'permute');
  if (!Array.isArray(dims) || dims.length !== x.ndim) {
    throw new ShapeError(`permute: expected ${x.ndim} dimensions of ${showShape(x.shape)}, got ${Array.isArray(dims) ? showShape(dims) : describe(dims)}`);
  }
  const order = dims.map((d) => checkDim(d, x.ndim, 'permute'));
  if (new Set(order).size !== order.length) throw new ShapeError(`permute: a dimension appears twice in ${showShape(dims)}`);
  return viewOf(
    'permute',
    x,
    order.map((d) => x.shape[d]!),
    order.map((d) => x.strides[d]!),
    x.offset,
    { dims: order },
  );
}

/** Two dimensions swapped. */
export function transpose(x: Tensor, dim0: number, dim1: number): Tensor {
  checkTensor(x, 'transpose');
  const a = checkDim(dim0, x.ndim, 'transpose');
  const b = checkDim(dim1, x.ndim, 'transpose');
  if (x.ndim === 0) return x;
  const order = x.shape.map((_, i) => i);
  order[a] = b;
  order[b] = a;
  return permute(x, order);
}
/** Matrix transpose of a 2-d tensor; tensors with fewer dimensions are returned as they are. */
export function t(x: Tensor): Tensor {
  checkTensor(x, 't');
  if (x.ndim > 2) throw new ShapeError(`t: expected at most 2 dimensions, got ${showShape(x.shape)}`);
  return x.ndim < 2 ? x : transpose(x, 0, 1);
}
/** The last two dimensions swapped. */
export function mT(x: Tensor): Tensor {
  checkTensor(x, 'mT');
  if (x.ndim < 2) throw new ShapeError(`mT: expected at least 2 dimensions, got ${showShape(x.shape)}`);
  return transpose(x, -2, -1);
}
/** A dimension moved to another place. */
export function movedim(x: Tensor, source: number, destination: number): Tensor {
  checkTensor(x, 'movedim');
  const a = checkDim(source, x.ndim, 'movedim');
  const b = checkDim(destination, x.ndim, 'movedim');
  const order = x.shape.map((_, i) => i).filter((d) => d !== a);
  order.splice(b, 0, a);
  return permute(x, order);
}

/** Dimensions of size 1 repeated, and new ones in front, without copying; -1 keeps a size. */
export function expand(x: Tensor, shape: readonly number[]): Tensor {
  checkTensor(x, 'expand');
  if (!Array.isArray(shape) || shape.length < x.ndim) {
    throw new ShapeError(`expand: ${Array.isArray(shape) ? showShape(shape) : describe(shape)} has fewer dimensions than ${showShape(x.shape)}`);
  }
  const lead = shape.length - x.ndim;
  const target = shape.map((s, i) => (s === -1 && i >= lead ? x.shape[i - lead]! : checkInteger(s, 'a size', 'expand', 0)));
  if (!sameShape(broadcastShapes(target, x.shape, 'expand'), target))
    throw new ShapeError(`expand: ${showShape(x.shape)} does not broadcast to ${showShape(target)}`);
  if (sameShape(target, x.shape)) return x;
  const strides = target.map((s, i) => (i < lead || (x.shape[i - lead] === 1 && s !== 1) ? 0 : x.strides[i - lead]!));
  return viewOf('expand', x, target, strides, x.offset, undefined);
}
/** x expanded to the shape of the other, as a view. */
export function expandAs(x: Tensor, other: Tensor): Tensor {
  checkTensor(other, 'expandAs');
  return expand(x, other.shape);
}

/** A dimension of size 1 inserted at `dim`. */
export function unsqueeze(x: Tensor, dim: number): Tensor {
  checkTensor(x, 'unsqueeze');
  const d = checkDim(dim, x.ndim + 1, 'unsqueeze');
  return reshape(x, [...x.shape.slice(0, d), 1, ...x.shape.slice(d)]);
}
/** Dimensions of size 1 removed: all, or those named (a named one of another size stays). */
export function squeeze(x: Tensor, dims?: number | readonly number[]): Tensor {
  checkTensor(x, 'squeeze');
  const named = dims === undefined ? null : (Array.isArray(dims) ? dims : [dims]).map((d) => checkDim(d, x.ndim, 'squeeze'));
  return reshape(
    x,
    x.shape.filter((s, i) => s !== 1 || (named !== null && !named.includes(i))),
  );
}

/**
 * Elements start, start + step, … before end of one dimension. start and end count from the end when negative and are
 * clipped, as in PyTorch; a negative step walks backwards from start.
 */
export function slice(x: Tensor, dim: number, start?: number | null, end?: number | null, step = 1): Tensor {
  checkTensor(x, 'slice');
  const d = checkDim(dim, x.ndim, 'slice');
  if (x.ndim === 0) throw new ShapeError('slice: the tensor has no dimensions');
  checkInteger(step, 'step', 'slice');
  if (step === 0) throw new ValueError('slice: step must not be 0');
  const size = x.shape[d]!;
  const bound = (value: number | null | undefined, fallback: number, low: number, high: number): number => {
    if (value === null || value === undefined) return fallback;
    const v = value === Number.POSITIVE_INFINITY ? high : checkInteger(value, 'a bound', 'slice');
    return Math.min(high, Math.max(low, v < 0 ? v + size : v));
  };
  const [from, to] = step > 0 ? [bound(start, 0, 0, size), bound(end, size, 0, size)] : [bound(start, size - 1, -1, size - 1), bound(end, -1, -1, size - 1)];
  const count = Math.max(0, Math.ceil((to - from) / step));
  const shape = x.shape.slice();
  const strides = x.strides.slice();
  shape[d] = count;
  strides[d] = x.strides[d]! * step;
  const offset = count === 0 ? x.offset : x.offset + from * x.strides[d]!;
  return viewOf('slice', x, shape, strides, offset, { dim: d, start: from, step });
}

/** `length` elements of a dimension from `start`. */
export function narrow(x: Tensor, dim: number, start: number, length: number): Tensor {
  checkTensor(x, 'narrow');
  const d = checkDim(dim, x.ndim, 'narrow');
  const size = x.shape[d] ?? 1;
  const from = checkInteger(start, 'start', 'narrow', -size, size);
  const n = checkInteger(length, 'length', 'narrow', 0);
  const at = from < 0 ? from + size : from;
  if (at + n > size) throw new ShapeError(`narrow: ${n} elements from ${at} do not fit dimension ${dim} of ${showShape(x.shape)}`);
  return slice(x, d, at, at + n);
}

/** One position of a dimension, which disappears. */
export function select(x: Tensor, dim: number, position: number): Tensor {
  checkTensor(x, 'select');
  const d = checkDim(dim, x.ndim, 'select');
  if (x.ndim === 0) throw new ShapeError('select: the tensor has no dimensions');
  const size = x.shape[d]!;
  checkInteger(position, 'the position', 'select');
  if (position < -size || position >= size)
    throw new ShapeError(`select: position ${position} is out of range [${-size}, ${size}) of dimension ${dim} of ${showShape(x.shape)}`);
  const at = position < 0 ? position + size : position;
  const part = slice(x, d, at, at + 1);
  return reshape(
    part,
    part.shape.filter((_, i) => i !== d),
  );
}

/** The diagonal of two dimensions as a last dimension; positive offsets lie above the main one. */
export function diagonal(x: Tensor, offset = 0, dim1 = 0, dim2 = 1): Tensor {
  checkTensor(x, 'diagonal');
  if (x.ndim < 2) throw new ShapeError(`diagonal: expected at least 2 dimensions, got ${showShape(x.shape)}`);
  const a = checkDim(dim1, x.ndim, 'diagonal');
  const b = checkDim(dim2, x.ndim, 'diagonal');
  if (a === b) throw new ShapeError(`diagonal: dimensions ${dim1} and ${dim2} are the same`);
  const k = checkInteger(offset, 'offset', 'diagonal');
  const count = Math.max(0, k >= 0 ? Math.min(x.shape[a]!, x.shape[b]! - k) : Math.min(x.shape[a]! + k, x.shape[b]!));
  const keep = x.shape.map((_, i) => i).filter((i) => i !== a && i !== b);
  const start = count === 0 ? x.offset : x.offset + (k >= 0 ? k * x.strides[b]! : -k * x.strides[a]!);
  return viewOf('diagonal', x, [...keep.map((i) => x.shape[i]!), count], [...keep.map((i) => x.strides[i]!), x.strides[a]! + x.strides[b]!], start, {
    offset: k,
    dim1: a,
    dim2: b,
  });
}
