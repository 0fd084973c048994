// Joining, cutting and rearranging. Cuts are views; joins copy each element once.

import { record, recording } from '../autograd/node.js';
import { arange, fromTypedArray, full, ones, zeros } from '../create.js';
import { resultType } from '../dtype.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { checkDim, checkInteger, checkNumber, checkShape, numel, type Shape, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { checkChoice, checkIndices, checkTensor, checkTensors, optionsOf } from './arguments.js';
import { clone, contiguous, to } from './copy.js';
import { deviceOf, door, fresh, invoke, like } from './door.js';
import { indexAdd_, indexSelect } from './gather.js';
import { indexAt } from './places.js';
import { abs, add, clamp, neg, remainder } from './pointwise.js';
import { cumsum } from './sort.js';
import { expand, movedim, narrow, reshape, select, slice, unsqueeze } from './view.js';

/** Tensors one after another along `dim`, equal in all other sizes. Dtypes are promoted; tensors of shape [0] are skipped. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  checkTensors(tensors, 'cat');
  if (tensors.length === 0) throw new ValueError('cat: expected at least one tensor');
  const present = tensors.filter((x) => !sameShape(x.shape, [0]));
  const first = present[0] ?? tensors[0]!;
  if (first.ndim === 0) throw new ShapeError('cat: tensors without dimensions cannot be joined; use stack()');
  const d = checkDim(dim, first.ndim, 'cat');
  for (const x of present) {
    if (x.ndim !== first.ndim || x.shape.some((s, i) => i !== d && s !== first.shape[i])) {
      throw new ShapeError(`cat: sizes differ outside dimension ${d}: ${showShape(first.shape)} and ${showShape(x.shape)}`);
    }
  }
  const dtype = resultType(tensors);
  const parts = (present.length ? present : [first]).map((x) => to(x, dtype));
  const sizes = parts.map((x) => x.shape[d]!);
  const shape = checkShape(
    first.shape.map((s, i) => (i === d ? sizes.reduce((a, b) => a + b, 0) : s)),
    'cat',
  );
  const y = invoke('cat', deviceOf('cat', parts), [fresh(shape, dtype), ...parts], [d])[0]!;
  if (recording(parts)) record('cat', parts, [y], { dim: d, sizes });
  return y;
}

/** Tensors of one shape along a new dimension. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  checkTensors(tensors, 'stack');
  if (tensors.length === 0) throw new ValueError('stack: expected at least one tensor');
  const { shape } = tensors[0]!;
  for (const x of tensors) if (!sameShape(x.shape, shape)) throw new ShapeError(`stack: shapes differ: ${showShape(shape)} and ${showShape(x.shape)}`);
  const d = checkDim(dim, shape.length + 1, 'stack');
  return cat(
    tensors.map((x) => unsqueeze(x, d)),
    d,
  );
}

function checkCut(x: unknown, dim: number, op: string): [Tensor, number, number] {
  checkTensor(x, op);
  const d = checkDim(dim, x.ndim, op);
  if (x.ndim === 0) throw new ShapeError(`${op}: the tensor has no dimensions`);
  return [x, d, x.shape[d]!];
}

/** Each piece is a JavaScript object: more than a million of them is a mistake. */
function checkPieces(count: number, x: Tensor, d: number, op: string): number {
  if (count > 2 ** 20) throw new ShapeError(`${op}: dimension ${d} of ${showShape(x.shape)} would make ${count} tensors, at most ${2 ** 20} are possible`);
  return count;
}

function cut(x: Tensor, d: number, sizes: readonly number[]): Tensor[] {
  let start = 0;
  return sizes.map((size) => {
    start += size;
    return narrow(x, d, start - size, size);
  });
}

/** Views of `size` elements of `dim` each, the last with what is left; or of the sizes given. */
export function split(x: Tensor, size: number | readonly number[], dim = 0): Tensor[] {
  const [t, d, length] = checkCut(x, dim, 'split');
  if (Array.isArray(size)) {
    const sizes = size.map((s) => checkInteger(s, 'a size', 'split', 0));
    const total = sizes.reduce((a, b) => a + b, 0);
    if (total !== length) throw new ShapeError(`split: sizes ${showShape(sizes)} sum to ${total}, dimension ${d} of ${showShape(t.shape)} has ${length}`);
    return cut(t, d, sizes);
  }
  const each = checkInteger(size, 'the size', 'split', 1);
  const sizes = Array.from({ length: checkPieces(Math.max(1, Math.ceil(length / each)), t, d, 'split') }, (_, i) => Math.min(each, length - i * each));
  return cut(t, d, sizes);
}

/** At most `chunks` views of equal size along `dim`, the last perhaps smaller. */
export function chunk(x: Tensor, chunks: number, dim = 0): Tensor[] {
  const [t, d, length] = checkCut(x, dim, 'chunk');
  checkInteger(chunks, 'the number of chunks', 'chunk', 1);
  if (length === 0) return cut(t, d, new Array<number>(checkPieces(chunks, t, d, 'chunk')).fill(0));
  return split(t, Math.ceil(length / chunks), d);
}

/** One view for each position of `dim`, without that dimension. */
export function unbind(x: Tensor, dim = 0): Tensor[] {
  const [t, d, length] = checkCut(x, dim, 'unbind');
  return Array.from({ length: checkPieces(length, t, d, 'unbind') }, (_, i) => select(t, d, i));
}

export type PadMode = 'constant' | 'reflect' | 'replicate' | 'circular';

/**
 * Pads dimensions from the last to the first: `padding` is [before, after] of the last, then of the one before it, … Negative
 * numbers cut off. Modes other than constant repeat the tensor: mirrored at the border element, that element, or around.
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
    if (Math.min(0, before) + Math.min(0, after) + x.shape[d]! < 0)
      throw new ShapeError(`pad: ${before} and ${after} cut more from dimension ${d} of ${showShape(x.shape)} than it has`);
    if (before === 0 && after === 0) continue;
    y = mode === 'constant' ? padConstant(y, d, before, after, value) : padBorder(y, d, before, after, mode);
  }
  return y === x || y.isView ? clone(y) : y;
}

function padConstant(x: Tensor, d: number, before: number, after: number, value: number): Tensor {
  const [lead, tail] = [Math.min(0, before), Math.min(0, after)];
  const kept = lead === 0 && tail === 0 ? x : narrow(x, d, -lead, x.shape[d]! + lead + tail);
  const block = (size: number): Tensor[] =>
    size <= 0
      ? []
      : [
          expand(
            full([], value, { dtype: x.dtype, device: x.device }),
            x.shape.map((s, i) => (i === d ? size : s)),
          ),
        ];
  const parts = [...block(before), kept, ...block(after)];
  return parts.length === 1 ? kept : cat(parts, d);
}

function padBorder(x: Tensor, d: number, before: number, after: number, mode: Exclude<PadMode, 'constant'>): Tensor {
  const n = x.shape[d]!;
  const limit = mode === 'reflect' ? n - 1 : mode === 'circular' ? n : n === 0 ? 0 : 2 ** 31;
  if (before > limit || after > limit)
    throw new ShapeError(`pad: ${mode} padding ${before}, ${after} of dimension ${d} of ${showShape(x.shape)} may be at most ${limit}`);
  const i = arange(-before, n + after, 1, { device: x.device });
  const mirrored = (): Tensor => add(neg(abs(add(neg(abs(i)), n - 1))), n - 1);
  return indexSelect(x, d, mode === 'replicate' ? clamp(i, 0, n - 1) : mode === 'circular' ? remainder(i, n) : mirrored());
}

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
