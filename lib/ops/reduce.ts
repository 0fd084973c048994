// Reductions over any set of dimensions. The native result keeps reduced dimensions as size 1; without keepdim the same storage gets
// the shorter shape.

import { record, recording } from '../autograd/node.js';
import type { OpAttrs, ReduceName, Reduction } from '../autograd/rules/types.js';
import { type DType, isFloating, promoteTypes } from '../dtype.js';
import { DTypeError, describe, ShapeError, ValueError } from '../errors.js';
import { checkDim, checkDims, checkNumber, numel, type Shape, sameShape, showShape } from '../shape.js';
import { Tensor, wrap } from '../tensor.js';
import { checkFlag } from './arguments.js';
import { wideResult } from './autocast.js';
import { where } from './blend.js';
import { to } from './copy.js';
import { fresh, invoke } from './door.js';
import { abs, div, eq, ne, pow, sqrt, sub } from './pointwise.js';
import { reshape } from './view.js';

/** Dimensions to reduce: one, several, or all (null). Negative ones count from the end. */
export type Dims = number | readonly number[] | null;

function checkTensor(x: unknown, op: string): asserts x is Tensor {
  if (!(x instanceof Tensor)) throw new ValueError(`${op}: expected a tensor, got ${describe(x)}`);
}

function reduce(op: ReduceName, x: Tensor, dims: readonly number[], dtype: DType, keepdim: boolean): Tensor {
  checkFlag(keepdim, 'keepdim', op);
  if (dims.length > 0 && (op === 'max' || op === 'min' || op === 'argmax' || op === 'argmin') && dims.some((d) => x.shape[d] === 0)) {
    throw new ShapeError(`${op}: no elements to reduce in ${showShape(x.shape)}`);
  }
  let mask = 0;
  for (const d of dims) mask |= 1 << d;
  const kept: number[] = [];
  const dropped: number[] = [];
  for (let i = 0; i < x.ndim; i++) {
    const gone = mask & (1 << i);
    kept.push(gone ? 1 : x.shape[i]!);
    if (!gone) dropped.push(x.shape[i]!);
  }
  const full = invoke(op, x.device, [x, fresh(kept, dtype)], [mask])[0]!;
  const y = keepdim ? full : wrap(full.storage, dropped, dtype);
  if (recording([x])) record(op, [x], [y], { dims, kept, count: numel(dims.map((d) => x.shape[d]!)) } satisfies Reduction as OpAttrs<typeof op>);
  return y;
}

function sumType(op: 'sum' | 'prod' | 'sumSquares', dtype: DType): DType {
  return isFloating(dtype) ? wideResult(op, dtype) : 'int64';
}

/** Sum over `dims` (all by default). Integers and bool give int64; 16-bit floats are accumulated in float32. */
export function sum(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'sum');
  return reduce('sum', x, checkDims(dims, x.ndim, 'sum'), sumType('sum', x.dtype), keepdim);
}
/** Mean over `dims` (all by default) of a floating-point tensor. */
export function mean(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'mean');
  if (!isFloating(x.dtype)) throw new DTypeError(`mean: expects a floating-point tensor, got ${x.dtype}; convert it with float()`);
  return reduce('mean', x, checkDims(dims, x.ndim, 'mean'), x.dtype, keepdim);
}
/** Product over `dims` (all by default). Integers and bool give int64. */
export function prod(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'prod');
  return reduce('prod', x, checkDims(dims, x.ndim, 'prod'), sumType('prod', x.dtype), keepdim);
}
/** Largest element over `dims` (all by default); NaN wins. Ties share the gradient evenly. */
export function max(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'max');
  return reduce('max', x, checkDims(dims, x.ndim, 'max'), x.dtype, keepdim);
}
/** Smallest element over `dims` (all by default); NaN wins. Ties share the gradient evenly. */
export function min(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'min');
  return reduce('min', x, checkDims(dims, x.ndim, 'min'), x.dtype, keepdim);
}
/** Whether any element over `dims` (all by default) is not 0; false of none. */
export function any(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'any');
  return reduce('any', x, checkDims(dims, x.ndim, 'any'), 'bool', keepdim);
}
/** Whether all elements over `dims` (all by default) are not 0; true of none. */
export function all(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'all');
  return reduce('all', x, checkDims(dims, x.ndim, 'all'), 'bool', keepdim);
}
/** Index of the largest element along one dimension, or of the flattened tensor; the first of equals. int64. */
export function argmax(x: Tensor, dim?: number | null, keepdim = false): Tensor {
  checkTensor(x, 'argmax');
  return reduce(
    'argmax',
    x,
    dim === undefined || dim === null ? checkDims(null, x.ndim, 'argmax') : [checkDim(dim, x.ndim, 'argmax')].slice(0, x.ndim),
    'int64',
    keepdim,
  );
}
/** Index of the smallest element along one dimension, or of the flattened tensor; the first of equals. int64. */
export function argmin(x: Tensor, dim?: number | null, keepdim = false): Tensor {
  checkTensor(x, 'argmin');
  return reduce(
    'argmin',
    x,
    dim === undefined || dim === null ? checkDims(null, x.ndim, 'argmin') : [checkDim(dim, x.ndim, 'argmin')].slice(0, x.ndim),
    'int64',
    keepdim,
  );
}
/** How many elements over `dims` (all by default) are not 0: int64. */
export function countNonzero(x: Tensor, dims?: Dims): Tensor {
  checkTensor(x, 'countNonzero');
  return reduce('countNonzero', x, checkDims(dims, x.ndim, 'countNonzero'), 'int64', false);
}
/** Σx² over `dims` (all by default), in one pass. */
export function sumSquares(x: Tensor, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'sumSquares');
  return reduce('sumSquares', x, checkDims(dims, x.ndim, 'sumSquares'), sumType('sumSquares', x.dtype), keepdim);
}
/** Vector norm (Σ|x|^order)^(1/order) over `dims` (all by default). Orders Infinity and -Infinity are max and min of |x|, 0 counts what is not 0. */
export function norm(x: Tensor, order = 2, dims?: Dims, keepdim = false): Tensor {
  checkTensor(x, 'norm');
  if (!isFloating(x.dtype)) throw new DTypeError(`norm: expects a floating-point tensor, got ${x.dtype}`);
  const over = checkDims(dims, x.ndim, 'norm');
  const dtype = wideResult('norm', x.dtype);
  checkFlag(keepdim, 'keepdim', 'norm');
  if (order === 1) return reduce('norm1', x, over, dtype, keepdim);
  if (order === 2) return reduce('norm2', x, over, dtype, keepdim);
  checkNumber(order, 'order', 'norm');
  if (order === Number.POSITIVE_INFINITY) return to(max(abs(x), over, keepdim), dtype);
  if (order === Number.NEGATIVE_INFINITY) return to(min(abs(x), over, keepdim), dtype);
  if (order === 0) return sum(to(ne(x, 0), dtype), over, keepdim);
  return pow(sum(pow(abs(x), order), over, keepdim), 1 / order);
}

/**
 * Variance over `dims` (all by default), two-pass in at least float32. Also exported as `var`.
 * @param options.correction the sum of squares is divided by n − correction. Default 1, unbiased, as PyTorch's
 * @param options.keepdim keeps reduced dimensions as size 1. Default false
 */
export function variance(x: Tensor, dims?: Dims, options: { correction?: number; keepdim?: boolean } = {}): Tensor {
  checkTensor(x, 'var');
  if (!isFloating(x.dtype)) throw new DTypeError(`var: expects a floating-point tensor, got ${x.dtype}`);
  const over = checkDims(dims, x.ndim, 'var');
  const n = numel(over.map((d) => x.shape[d]!));
  const correction = checkNumber(options?.correction ?? 1, 'correction', 'var', 0);
  // two passes in at least float32: no cancellation, whatever the mean
  const center = reduce('mean', x, over, promoteTypes(x.dtype, 'float32'), true);
  const squares = sumSquares(sub(x, center), over, options?.keepdim ?? false);
  return to(div(squares, Math.max(0, n - correction)), x.dtype);
}
/**
 * Square root of the variance over `dims` (all by default). Its gradient is 0 where it is 0.
 * @param options.correction as of `variance`. Default 1
 * @param options.keepdim keeps reduced dimensions as size 1. Default false
 */
export function std(x: Tensor, dims?: Dims, options: { correction?: number; keepdim?: boolean } = {}): Tensor {
  const v = variance(x, dims, options);
  if (!v.requiresGrad) return sqrt(v);
  const zero = eq(v, 0); // where the root has no slope, the subgradient 0
  return where(zero, 0, sqrt(where(zero, 1, v)));
}

/** Sums a gradient down to the shape it was broadcast from. */
export function sumTo(g: Tensor, shape: Shape): Tensor {
  if (sameShape(g.shape, shape)) return g;
  const lead = g.ndim - shape.length;
  const dims = g.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && g.shape[i] !== 1));
  return reshape(sum(g, dims, true), shape);
}
