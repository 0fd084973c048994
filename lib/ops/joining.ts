// Rearranging: padding, rolling, flipping, repeating, triangles, grids. Made of views, joined by one copy.

import { arange, fromTypedArray, full, ones, zeros } from '../create.js';
import { describe, ShapeError } from '../errors.js';
import { checkDim, checkInteger, checkNumber, checkShape, numel, type Shape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { checkChoice, checkIndices, checkTensor, checkTensors, optionsOf } from './arguments.js';
import { clone, contiguous } from './copy.js';
import { door, like } from './door.js';
import { indexAdd_, indexSelect } from './gather.js';
import { cat, checkCut } from './pieces.js';
import { indexAt } from './places.js';
import { add } from './pointwise.js';
import { cumsum } from './sort.js';
import { expand, movedim, narrow, reshape, slice } from './view.js';

export { cat, chunk, split, stack, unbind } from './pieces.js';

/** What `pad` fills borders with: a value, the tensor mirrored at the border element, that element, or the tensor's other end. */
export type PadMode = 'constant' | 'reflect' | 'replicate' | 'circular';

/**
 * Pads dimensions from the last to the first: `padding` is [before, after] of the last, then of the one before it, … Negative numbers cut
 * off.
 * @param options.mode Default constant
 * @param options.value what constant fills in. Default 0
 */
export function pad(x: Tensor, padding: readonly number[], options?: { mode?: PadMode; value?: number }): Tensor {
  checkTensor(x, 'pad');
  if (!Array.isArray(padding) || padding.length % 2 !== 0 || padding.length > 2 * x.ndim) {
    throw new ShapeError(
      `pad: expected pairs of numbers for at most ${x.ndim} dimensions of ${showShape(x.shape)}, got ${Array.isArray(padding) ? showShape(padding) : describe(padding)}`,
    );
  }
  const o = optionsOf(options, 'pad');
  const mode = checkChoice(o.mode ?? 'constant', ['constant', 'reflect', 'replicate', 'circular'], 'mode', 'pad');
  const value = checkNumber(o.value ?? 0, 'value', 'pad');
  let y = x;
  for (let i = 0; 2 * i < padding.length; i++) {
    const before = checkInteger(padding[2 * i], 'a padding', 'pad', -(2 ** 31), 2 ** 31);
    const after = checkInteger(padding[2 * i + 1], 'a padding', 'pad', -(2 ** 31), 2 ** 31);
    const d = x.ndim - 1 - i;
    const n = x.shape[d]!;
    if (Math.min(0, before) + Math.min(0, after) + n < 0)
      throw new ShapeError(`pad: ${before} and ${after} cut more from dimension ${d} of ${showShape(x.shape)} than it has`);
    const limit = { constant: Infinity, reflect: n - 1, replicate: n === 0 ? 0 : Infinity, circular: n }[mode];
    if (Math.max(before, after) > Math.max(0, limit))
      throw new ShapeError(`pad: ${mode} padding ${before}, ${after} of dimension ${d} of ${showShape(x.shape)} may be at most ${limit}`);
    const borders = mode === 'constant' ? filled(y, d, value) : repeats[mode](y, d);
    const kept = narrow(y, d, Math.max(0, -before), n + Math.min(0, before) + Math.min(0, after));
    const parts = [...(before > 0 ? [borders.before(before)] : []), kept, ...(after > 0 ? [borders.after(after)] : [])];
    if (before !== 0 || after !== 0) y = parts.length === 1 ? kept : cat(parts, d);
  }
  return y === x || y.isView ? clone(y) : y;
}

/** What pad puts before and after a dimension, by its length. */
interface Borders {
  before(count: number): Tensor;
  after(count: number): Tensor;
}

function filled(x: Tensor, d: number, value: number): Borders {
  const block = (count: number): Tensor =>
    expand(
      full([], value, { dtype: x.dtype, device: x.device }),
      x.shape.map((s, i) => (i === d ? count : s)),
    );
  return { before: block, after: block };
}

/** Borders made of the tensor itself, as views. */
const repeats: Record<Exclude<PadMode, 'constant'>, (x: Tensor, d: number) => Borders> = {
  reflect: (x, d) => ({
    before: (count) => slice(x, d, count, 0, -1),
    after: (count) => slice(x, d, x.shape[d]! - 2, x.shape[d]! - 2 - count < 0 ? null : x.shape[d]! - 2 - count, -1),
  }),
  replicate: (x, d) => {
    const edge = (at: number, count: number): Tensor =>
      expand(
        narrow(x, d, at, 1),
        x.shape.map((s, i) => (i === d ? count : s)),
      );
    return { before: (count) => edge(0, count), after: (count) => edge(x.shape[d]! - 1, count) };
  },
  circular: (x, d) => ({ before: (count) => narrow(x, d, x.shape[d]! - count, count), after: (count) => narrow(x, d, 0, count) }),
};

/** Elements moved by `shifts` places along `dims`, around the end; without `dims`, of the flattened tensor. */
export function roll(x: Tensor, shifts: number | readonly number[], dims?: number | readonly number[] | null): Tensor {
  checkTensor(x, 'roll');
  if (dims === undefined || dims === null) {
    const count = checkInteger(Array.isArray(shifts) && shifts.length === 1 ? shifts[0] : shifts, 'the shift without dimensions', 'roll');
    return reshape(roll(reshape(x, [x.numel]), count, 0), x.shape);
  }
  const by = (Array.isArray(shifts) ? shifts : [shifts]).map((s: unknown) => checkInteger(s, 'a shift', 'roll'));
  const along = (Array.isArray(dims) ? dims : [dims]).map((d: unknown) => checkDim(d, x.ndim, 'roll'));
  if (by.length !== along.length) throw new ShapeError(`roll: ${by.length} shifts for ${along.length} dimensions`);
  const moved = along.reduce((y, d, i) => {
    const n = y.shape[d] ?? 0;
    const shift = n === 0 ? 0 : ((by[i]! % n) + n) % n;
    return shift === 0 ? y : cat([narrow(y, d, n - shift, shift), narrow(y, d, 0, n - shift)], d);
  }, x);
  return moved === x ? clone(x) : moved;
}

/** A copy with the order of the elements of `dims` reversed. */
export function flip(x: Tensor, dims: number | readonly number[]): Tensor {
  checkTensor(x, 'flip');
  const along = (Array.isArray(dims) ? dims : [dims]).map((d: unknown) => checkDim(d, x.ndim, 'flip'));
  if (new Set(along).size !== along.length) throw new ShapeError(`flip: a dimension appears twice in ${showShape(dims as Shape)}`);
  return x.ndim === 0 ? clone(x) : contiguous(clone(along.reduce((y, d) => slice(y, d, null, null, -1), x)));
}

/** The blocks of dimensions [d, …) of x repeated, by a view of three dimensions and one copy. */
function repeated(x: Tensor, d: number, times: number, at: number): Tensor {
  const shape = x.shape.map((s, i) => (i === d ? s * times : s));
  const [outer, inner] = [numel(x.shape.slice(0, at)), numel(x.shape.slice(at))];
  return reshape(expand(reshape(x, [outer, 1, inner]), [outer, times, inner]), checkShape(shape, 'repeat'));
}

/** The tensor repeated `repeats[d]` times along each dimension; more numbers than dimensions add dimensions in front. */
export function repeat(x: Tensor, repeats: readonly number[]): Tensor {
  checkTensor(x, 'repeat');
  if (!Array.isArray(repeats) || repeats.length < x.ndim) {
    throw new ShapeError(
      `repeat: expected at least ${x.ndim} numbers for ${showShape(x.shape)}, got ${Array.isArray(repeats) ? showShape(repeats) : describe(repeats)}`,
    );
  }
  for (const r of repeats) checkInteger(r, 'a number of repeats', 'repeat', 0);
  const lead = repeats.length - x.ndim;
  const wide = reshape(x, [...new Array<number>(lead).fill(1), ...x.shape]);
  // from the last dimension on: the early copies are the small ones
  const y = repeats.reduceRight<Tensor>((z, times, d) => (times === 1 ? z : repeated(z, d, times, d)), wide);
  return y.storage === x.storage ? clone(y) : y;
}

/** As repeat, with 1 for dimensions not given. */
export function tile(x: Tensor, dims: readonly number[]): Tensor {
  checkTensor(x, 'tile');
  if (!Array.isArray(dims)) throw new ShapeError(`tile: expected an array of numbers, got ${describe(dims)}`);
  return repeat(x, [...new Array<number>(Math.max(0, x.ndim - dims.length)).fill(1), ...dims]);
}

/**
 * Each element of `dim` repeated: the same number of times, or as an array or index tensor says for each (a tensor waits for the
 * device). Without `dim`, of the flattened tensor.
 */
export function repeatInterleave(x: Tensor, repeats: number | readonly number[] | Tensor, dim?: number | null): Tensor {
  const op = 'repeatInterleave';
  checkTensor(x, op);
  if (dim === undefined || dim === null) return repeatInterleave(reshape(x, [x.numel]), repeats, 0);
  const [t, d, length] = checkCut(x, dim, op);
  if (typeof repeats === 'number') {
    const y = repeated(t, d, checkInteger(repeats, 'the number of repeats', op, 0), d + 1);
    return y.storage === t.storage ? clone(y) : y;
  }
  if (repeats instanceof Tensor) checkIndices(repeats, op, 'the repeats');
  const counts: number[] = (repeats instanceof Tensor ? Array.from(repeats.toTypedArraySync(), Number) : Array.isArray(repeats) ? repeats : [repeats]).map(
    (r) => checkInteger(r, 'a number of repeats', op, 0),
  );
  if (counts.length === 1) return repeatInterleave(t, counts[0]!, d);
  if (counts.length !== length)
    throw new ShapeError(`${op}: ${counts.length} numbers of repeats for ${length} elements of dimension ${d} of ${showShape(t.shape)}`);
  // place j of the result holds element i when i elements have ended by j
  let total = 0;
  const ends = counts.map((n) => (total += n));
  const inside = ends.filter((end) => end < total);
  const int64 = { dtype: 'int64', device: t.device } as const;
  const ended = zeros(checkShape([total], op), int64);
  indexAdd_(ended, 0, fromTypedArray(BigInt64Array.from(inside, BigInt), [inside.length], int64), ones([inside.length], int64));
  return indexSelect(t, d, cumsum(ended, 0));
}

/** Windows of `size` elements of `dim`, `step` apart, as a new last dimension: a copy. */
export function unfold(x: Tensor, dim: number, size: number, step: number): Tensor {
  const [t, d, length] = checkCut(x, dim, 'unfold');
  checkInteger(size, 'size', 'unfold', 0, length);
  checkInteger(step, 'step', 'unfold', 1);
  const count = Math.floor((length - size) / step) + 1;
  const along = (n: number, by: number): Tensor => arange(0, n * by, by, { device: t.device });
  const places = add(reshape(along(count, step), [count, 1]), along(size, 1));
  return movedim(indexAt(t, d, [places]), d + 1, -1);
}

function triangle(op: 'tril' | 'triu', x: Tensor, diagonal: number): Tensor {
  checkTensor(x, op);
  if (x.ndim < 2) throw new ShapeError(`${op}: expected at least 2 dimensions, got ${showShape(x.shape)}`);
  const upper = op === 'triu';
  return door('triangle', [x], [like(x)], [checkInteger(diagonal, 'diagonal', op), Number(upper)], { diagonal, upper })[0]!;
}
/** The lower triangle of each matrix, 0 above; `diagonal` moves the border up. */
export function tril(x: Tensor, diagonal = 0): Tensor {
  return triangle('tril', x, diagonal);
}
/** The upper triangle of each matrix, 0 below; `diagonal` moves the border up. */
export function triu(x: Tensor, diagonal = 0): Tensor {
  return triangle('triu', x, diagonal);
}

/** Grids of coordinates from vectors: views of one shape, the vectors' lengths; `xy` swaps the first two dimensions. */
export function meshgrid(tensors: readonly Tensor[], options?: { indexing?: 'ij' | 'xy' }): Tensor[] {
  checkTensors(tensors, 'meshgrid');
  const indexing = checkChoice(optionsOf(options, 'meshgrid').indexing ?? 'ij', ['ij', 'xy'], 'indexing', 'meshgrid');
  for (const x of tensors) if (x.ndim > 1) throw new ShapeError(`meshgrid: expected vectors, got ${showShape(x.shape)}`);
  const swap = <T>(list: readonly T[]): T[] => (indexing === 'xy' && list.length > 1 ? [list[1]!, list[0]!, ...list.slice(2)] : [...list]);
  const ordered = swap(tensors);
  const shape = checkShape(
    ordered.map((x) => x.numel),
    'meshgrid',
  );
  return swap(
    ordered.map((x, d) =>
      expand(
        reshape(
          x,
          shape.map((s, i) => (i === d ? s : 1)),
        ),
        shape,
      ),
    ),
  );
}
