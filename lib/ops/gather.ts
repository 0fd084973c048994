// Reading and writing along one dimension by index tensors (int32 or int64; negative ones count from the end). Where indices
// repeat, sums are taken in row-major order and the last write wins: the same result on every run. The functional forms are a
// copy followed by the in-place form.
import { full } from '../create.js';
import { DTypeError, ShapeError } from '../errors.js';
import { broadcastShapes, checkDim, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFinite, checkIndices, checkSameDType, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { clone } from './copy.js';
import { deviceOf, door, fresh } from './door.js';
import { checkAddable, writeInto } from './places.js';
import { mul } from './pointwise.js';
import { expand, narrow, reshape } from './view.js';

/** The index has the tensor's dimensions, and no other dimension than `dim` reaches past it. */
function checkAlong(op: string, x: Tensor, dim: number, index: unknown, which: string): number {
  checkTensor(x, op);
  checkIndices(index, op);
  const d = checkDim(dim, x.ndim, op);
  if (index.ndim !== x.ndim || index.shape.some((s, i) => i !== d && s > x.shape[i]!)) {
    throw new ShapeError(`${op}: index ${showShape(index.shape)} does not fit ${which} ${showShape(x.shape)} along dimension ${d}`);
  }
  return d;
}

/** y[i][j] = x[index[i][j]][j] for `dim` 0, and likewise for others. The result has the index's shape. */
export function gather(x: Tensor, dim: number, index: Tensor): Tensor {
  const d = checkAlong('gather', x, dim, index, 'the input');
  return door('gather', [x, index], [fresh(index.shape, x.dtype)], [d], { dim: d })[0]!;
}

/** As gather along `dim`, with the other dimensions broadcast; without a dimension, on the flattened tensors. */
export function takeAlongDim(x: Tensor, index: Tensor, dim?: number | null): Tensor {
  checkTensor(x, 'takeAlongDim');
  checkIndices(index, 'takeAlongDim');
  deviceOf('takeAlongDim', [x, index]);
  if (dim === undefined || dim === null) return gather(reshape(x, [x.numel]), 0, reshape(index, [index.numel]));
  const d = checkDim(dim, x.ndim, 'takeAlongDim');
  if (index.ndim !== x.ndim) throw new ShapeError(`takeAlongDim: index ${showShape(index.shape)} must have the ${x.ndim} dimensions of ${showShape(x.shape)}`);
  const one = (shape: readonly number[]): number[] => shape.map((s, i) => (i === d ? 1 : s));
  const shape = broadcastShapes(one(x.shape), one(index.shape), 'takeAlongDim');
  const along = (z: Tensor): Tensor =>
    expand(
      z,
      shape.map((s, i) => (i === d ? z.shape[i]! : s)),
    );
  return x.ndim === 0 ? gather(x, 0, index) : gather(along(x), d, along(index));
}

/** The part of the source that the index covers; a number stands for a tensor full of it. */
function sourceOf(op: string, x: Tensor, index: Tensor, src: Tensor | number): Tensor {
  if (typeof src === 'number') return expand(full([], src, { dtype: x.dtype, device: x.device }), index.shape);
  checkTensor(src, op, 'the source');
  checkSameDType(x, src, op, 'input and source');
  if (src.ndim !== index.ndim || src.shape.some((s, i) => s < index.shape[i]!)) {
    throw new ShapeError(`${op}: index ${showShape(index.shape)} does not fit the source ${showShape(src.shape)}`);
  }
  return index.shape.reduce((part, s, i) => (part.shape[i] === s ? part : narrow(part, i, 0, s)), src);
}

/** In place: x[index[i][j]][j] = src[i][j] for `dim` 0, and likewise for others. Where indices repeat, the last one wins. */
export function scatter_(x: Tensor, dim: number, index: Tensor, src: Tensor | number): Tensor {
  const d = checkAlong('scatter_', x, dim, index, 'the target');
  return writeInto('scatter', x, d, index, sourceOf('scatter_', x, index, src));
}
/** A copy of x with scatter_ done to it. */
export function scatter(x: Tensor, dim: number, index: Tensor, src: Tensor | number): Tensor {
  const d = checkAlong('scatter', x, dim, index, 'the input');
  const source = sourceOf('scatter', x, index, src);
  return writeInto('scatter', clone(x), d, index, source);
}

/** In place: x[index[i][j]][j] += src[i][j] for `dim` 0, and likewise for others. */
export function scatterAdd_(x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor {
  const d = checkAlong('scatterAdd_', x, dim, index, 'the target');
  checkAddable('scatterAdd_', x);
  return writeInto('scatterAdd', x, d, index, sourceOf('scatterAdd_', x, index, src));
}
/** A copy of x with scatterAdd_ done to it. */
export const scatterAdd = autocasts('scatterAdd', (x: Tensor, dim: number, index: Tensor, src: Tensor): Tensor => {
  const d = checkAlong('scatterAdd', x, dim, index, 'the input');
  checkAddable('scatterAdd', x);
  const source = sourceOf('scatterAdd', x, index, src);
  return writeInto('scatterAdd', clone(x), d, index, source);
});

function checkRow(op: string, x: Tensor, dim: number, index: unknown): number {
  checkTensor(x, op);
  checkIndices(index, op);
  if (index.ndim > 1) throw new ShapeError(`${op}: the index must have one dimension, got ${showShape(index.shape)}`);
  return checkDim(dim, x.ndim, op);
}

/** The slices of `dim` that a one-dimensional index names, in its order. */
export function indexSelect(x: Tensor, dim: number, index: Tensor): Tensor {
  const d = checkRow('indexSelect', x, dim, index);
  if (x.ndim === 0 && index.numel !== 1) throw new ShapeError(`indexSelect: a tensor without dimensions takes one index, got ${index.numel}`);
  const shape = x.shape.map((s, i) => (i === d ? index.numel : s));
  return door('indexSelect', [x, index], [fresh(shape, x.dtype)], [d], { dim: d })[0]!;
}

function addendOf(op: string, x: Tensor, d: number, index: Tensor, src: unknown, options: { alpha?: number } | undefined): Tensor {
  checkTensor(src, op, 'the source');
  checkSameDType(x, src, op, 'input and source');
  checkAddable(op, x);
  const expected = x.shape.map((s, i) => (i === d ? index.numel : s));
  if (!sameShape(src.shape, expected) || (x.ndim === 0 && index.numel !== 1)) {
    throw new ShapeError(`${op}: the source must be ${showShape(expected)} for ${index.numel} indices along dimension ${d}, got ${showShape(src.shape)}`);
  }
  const alpha = checkFinite(optionsOf(options, op).alpha ?? 1, 'alpha', op);
  if (alpha === 1) return src;
  const scaled = mul(src, alpha);
  if (scaled.dtype !== x.dtype) throw new DTypeError(`${op}: alpha ${alpha} would turn ${x.dtype} into ${scaled.dtype}`);
  return scaled;
}

/**
 * In place: the slices of `dim` that the index names grow by alpha times those of `src`.
 * @param options.alpha Default 1
 */
export function indexAdd_(x: Tensor, dim: number, index: Tensor, src: Tensor, options?: { alpha?: number }): Tensor {
  const d = checkRow('indexAdd_', x, dim, index);
  return writeInto('indexAdd', x, d, index, addendOf('indexAdd_', x, d, index, src, options));
}
/**
 * A copy of x with indexAdd_ done to it.
 * @param options.alpha Default 1
 */
export function indexAdd(x: Tensor, dim: number, index: Tensor, src: Tensor, options?: { alpha?: number }): Tensor {
  const d = checkRow('indexAdd', x, dim, index);
  const addend = addendOf('indexAdd', x, d, index, src, options);
  return writeInto('indexAdd', clone(x), d, index, addend);
}
