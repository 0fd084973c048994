// Pure functions on shapes. Everything a user can get wrong about a shape is found here, with the op's name in the text.

import { describe, ShapeError } from './errors.js';
import { MAX_DIMS } from './native.js';

export { checkInteger, checkNumber } from './numbers.js';

/** @inline */
export type Shape = readonly number[];

export function numel(shape: Shape): number {
  let n = 1;
  for (let i = 0; i < shape.length; i++) n *= shape[i]!;
  return n;
}

export function contiguousStrides(shape: Shape): number[] {
  const n = shape.length;
  const strides = new Array<number>(n);
  let step = 1;
  for (let i = n - 1; i >= 0; i--) {
    strides[i] = step;
    step *= shape[i]! === 0 ? 1 : shape[i]!;
  }
  return strides;
}

export function isContiguous(shape: Shape, strides: Shape): boolean {
  let expected = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    const size = shape[i]!;
    if (size === 0) return true;
    if (size !== 1) {
      if (strides[i] !== expected) return false;
      expected *= size;
    }
  }
  return true;
}

export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

export function showShape(shape: Shape): string {
  return `[${shape.map(String).join(',')}]`;
}

/** Checks a user's shape: an array of whole numbers from 0, at most 8 of them, with a product below 2^53. */
export function checkShape(shape: unknown, where: string): number[] {
  if (!Array.isArray(shape)) throw new ShapeError(`${where}: a shape is an array of sizes, got ${describe(shape)}`);
  if (shape.length > MAX_DIMS) throw new ShapeError(`${where}: at most ${MAX_DIMS} dimensions, got ${shape.length}`);
  let n = 1;
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new ShapeError(`${where}: sizes are whole numbers from 0, got ${describe(size)} in ${showShape(shape)}`);
    }
    n *= size;
  }
  if (!Number.isSafeInteger(n)) throw new ShapeError(`${where}: ${showShape(shape)} has more elements than 2^53`);
  return shape.slice() as number[];
}

/** A dimension from the user, negative ones counting from the end. */
export function checkDim(dim: unknown, ndim: number, where: string): number {
  if (typeof dim !== 'number' || !Number.isInteger(dim)) {
    throw new ShapeError(`${where}: a dimension is a whole number, got ${describe(dim)}`);
  }
  // a tensor without dimensions takes 0 and -1, as in PyTorch
  const n = Math.max(ndim, 1);
  if (dim < -n || dim >= n) {
    throw new ShapeError(`${where}: dimension ${dim} is out of range [${-n}, ${n}) of a tensor with ${ndim} dimensions`);
  }
  return dim < 0 ? dim + n : dim;
}

const ALL_DIMS = Array.from({ length: MAX_DIMS }, (_, i) => i);
/** Sorted, distinct dimensions; null or undefined means all. */
export function checkDims(dims: number | readonly number[] | null | undefined, ndim: number, where: string): number[] {
  if (dims === null || dims === undefined) return ALL_DIMS.slice(0, ndim);
  const list = Array.isArray(dims) ? dims.map((d) => checkDim(d, ndim, where)) : [checkDim(dims, ndim, where)];
  if (ndim === 0) return [];
  if (list.length === 1) return list;
  if (new Set(list).size !== list.length) throw new ShapeError(`${where}: dimension ${list.find((d, i) => list.indexOf(d) !== i)} appears twice`);
  return list.sort((a, b) => a - b);
}

/** The common shape of operands that broadcast, as NumPy and PyTorch define it. */
export function broadcastShapes(a: Shape, b: Shape, where: string): Shape {
  if (sameShape(a, b)) return a;
  const n = Math.max(a.length, b.length);
  const out = new Array<number>(n);
  for (let i = 1; i <= n; i++) {
    const x = i <= a.length ? a[a.length - i]! : 1;
    const y = i <= b.length ? b[b.length - i]! : 1;
    if (x !== y && x !== 1 && y !== 1) {
      throw new ShapeError(`${where}: shapes do not broadcast: ${showShape(a)} and ${showShape(b)} (${x} ≠ ${y} in dimension ${-i})`);
    }
    out[n - i] = x === 1 ? y : x;
  }
  return out;
}

/** Fills in one -1 of a reshape. */
export function inferShape(shape: readonly number[], count: number, where: string): number[] {
  if (!Array.isArray(shape)) throw new ShapeError(`${where}: a shape is an array of sizes, got ${describe(shape)}`);
  const unknown = shape.indexOf(-1);
  if (unknown < 0) {
    const out = checkShape(shape, where);
    if (numel(out) !== count) throw new ShapeError(`${where}: ${showShape(out)} has ${numel(out)} elements, the tensor has ${count}`);
    return out;
  }
  const out = shape.slice();
  out[unknown] = 1;
  const rest = numel(checkShape(out, where));
  if (rest === 0 || count % rest !== 0) throw new ShapeError(`${where}: cannot infer -1 of ${showShape(shape)} for ${count} elements`);
  out[unknown] = count / rest;
  return out;
}

/**
 * Strides of `shape` over the same memory, or null when a copy is needed: groups of new dimensions must lie inside runs of
 * old dimensions that are laid out without gaps.
 */
export function viewStrides(oldShape: Shape, oldStrides: Shape, shape: Shape): number[] | null {
  if (numel(oldShape) === 0) return contiguousStrides(shape);
  const out = new Array<number>(shape.length);
  let view = shape.length - 1;
  let chunkStride = oldStrides.length ? oldStrides[oldStrides.length - 1]! : 1;
  let chunk = 1;
  let used = 1;
  for (let d = oldShape.length - 1; d >= 0; d--) {
    chunk *= oldShape[d]!;
    const ends = d === 0 || (oldShape[d - 1] !== 1 && oldStrides[d - 1] !== chunk * chunkStride);
    if (!ends) continue;
    while (view >= 0 && (used < chunk || shape[view] === 1)) {
      out[view] = used * chunkStride;
      used *= shape[view]!;
      view--;
    }
    if (used !== chunk) return null;
    if (d > 0) {
      chunkStride = oldStrides[d - 1]!;
      chunk = 1;
      used = 1;
    }
  }
  for (; view >= 0; view--) out[view] = 1; // only sizes of 1 are left
  return out;
}
