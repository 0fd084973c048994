// x.index(0, slice(1, 3), null, mask, rows, '...'): PyTorch's indexing. Numbers, slices and new axes make views; index tensors
// then replace the dimensions they stand at, by one dimension block in place when they are neighbours and in front when they
// are not. Masks are turned into index tensors, whose length only the data knows: that waits for the device.

import { recording } from '../autograd/node.js';
import { arange, fromTypedArray, full } from '../create.js';
import { isFloating } from '../dtype.js';
import { DeviceError, DTypeError, describe, ShapeError, ValueError } from '../errors.js';
import { broadcastShapes, checkInteger, type Shape, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { checkFlag, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { clamp, where } from './blend.js';
import { clone, copy_, to } from './copy.js';
import { checkInPlace, deviceOf, fresh, invoke } from './door.js';
import { checkAddable, indexAt, putAt, shapeAt } from './places.js';
import { sub } from './pointwise.js';
import { countNonzero } from './reduce.js';
import { cumsum } from './sort.js';
import { expand, permute, reshape, select, slice as sliceView, unsqueeze } from './view.js';

export { gather, indexAdd, indexAdd_, indexSelect, scatter, scatter_, scatterAdd, scatterAdd_, takeAlongDim } from './gather.js';

/** Elements start, start + step, … before stop; made by `slice`. */
export class Slice {
  constructor(
    /** First position; null: the end that the step comes from. */
    readonly start: number | null,
    /** Where to stop, itself left out; null: past the end. */
    readonly stop: number | null,
    /** Distance between positions. */
    readonly step: number,
  ) {}
}

/** Python's start:stop:step as an index: `x.index(slice(1, 3))`. Absent bounds are the ends; negative ones count from the end. */
export function slice(start: number | null = null, stop: number | null = null, step = 1): Slice {
  for (const bound of [start, stop]) if (bound !== null && bound !== Number.POSITIVE_INFINITY) checkInteger(bound, 'a bound', 'slice');
  if (checkInteger(step, 'step', 'slice') === 0) throw new ValueError('slice: step must not be 0');
  return new Slice(start, stop, step);
}

/** A position, a slice, a new axis (null), all dimensions not named ('...'), positions as an array or tensor, or a bool mask. */
export type IndexItem = number | Slice | null | '...' | readonly number[] | Tensor;
type Resolved = number | Slice | null | Tensor;

function toTensor(item: unknown, x: Tensor, op: string): Tensor {
  if (Array.isArray(item) && item.every((i) => Number.isSafeInteger(i))) {
    return fromTypedArray(BigInt64Array.from(item as number[], BigInt), [item.length], { device: x.device });
  }
  if (!(item instanceof Tensor)) {
    throw new ValueError(`${op}: an index is a whole number, slice(…), null, '...', an array of whole numbers or a tensor, got ${describe(item)}`);
  }
  if (item.dtype !== 'int64' && item.dtype !== 'int32' && item.dtype !== 'bool') {
    throw new DTypeError(`${op}: an index tensor must be int32, int64 or bool, got ${item.dtype}`);
  }
  if (item.dtype === 'bool' && item.ndim === 0) throw new ShapeError(`${op}: a mask needs at least one dimension`);
  return item;
}

/** Items with arrays and masks as index tensors and '...' as slices: what is left says one thing about one dimension. */
function resolve(op: string, x: Tensor, items: readonly unknown[]): Resolved[] {
  const given = items.map((item) => (item === null || item === '...' || typeof item === 'number' || item instanceof Slice ? item : toTensor(item, x, op)));
  const isMask = (item: unknown): item is Tensor => item instanceof Tensor && item.dtype === 'bool';
  const width = (item: unknown): number => (item === null || item === '...' ? 0 : isMask(item) ? item.ndim : 1);
  const named = given.reduce<number>((sum, item) => sum + width(item), 0);
  if (named > x.ndim) throw new ShapeError(`${op}: ${named} dimensions are indexed, the tensor ${showShape(x.shape)} has ${x.ndim}`);
  if (given.filter((item) => item === '...').length > 1) throw new ValueError(`${op}: '...' may appear only once`);
  const tensors = given.filter((item) => item instanceof Tensor).length;
  const out: Resolved[] = [];
  let dim = 0;
  for (const item of given) {
    if (item === '...') {
      for (let i = 0; i < x.ndim - named; i++) out.push(slice());
      dim += x.ndim - named;
      continue;
    }
    if (isMask(item)) {
      if (!sameShape(item.shape, x.shape.slice(dim, dim + item.ndim))) {
        throw new ShapeError(`${op}: the mask ${showShape(item.shape)} does not match dimensions ${dim} to ${dim + item.ndim - 1} of ${showShape(x.shape)}`);
      }
      const positions = nonzero(item);
      for (let i = 0; i < item.ndim; i++) out.push(select(positions, 1, i));
    } else if (item instanceof Tensor && item.ndim === 0 && tensors > 1) {
      out.push(item.itemSync()); // among others it is a number: it takes no part in where the result's dimensions go
    } else out.push(item);
    dim += width(item);
  }
  return out;
}

interface Place {
  /** A view with the indexed dimensions side by side. */
  readonly view: Tensor;
  readonly first: number;
  /** One a dimension from `first` on, of one shape; none if the view is all. */
  readonly indices: readonly Tensor[];
}

function locate(op: string, x: Tensor, items: readonly Resolved[]): Place {
  let view = x;
  let dim = 0;
  const found: { dim: number; index: Tensor }[] = [];
  for (const item of items) {
    if (typeof item === 'number') {
      const size = view.shape[dim]!;
      if (!Number.isInteger(item) || item < -size || item >= size) {
        throw new ValueError(`${op}: ${item} is not a position of a dimension of ${size} (tensor ${showShape(x.shape)})`);
      }
      view = select(view, dim, item);
      continue;
    }
    if (item === null) view = unsqueeze(view, dim);
    else if (item instanceof Slice) {
      if (item.start !== null || item.stop !== null || item.step !== 1) view = sliceView(view, dim, item.start, item.stop, item.step);
    } else found.push({ dim, index: item });
    dim++;
  }
  const shape = found.reduce<Shape>((s, { index }) => broadcastShapes(s, index.shape, op), []);
  const indices = found.map(({ index }) => expand(index, shape));
  const first = found[0]?.dim ?? 0;
  if (found.every((f, i) => f.dim === first + i)) return { view, first, indices };
  const dims = found.map((f) => f.dim);
  return { view: permute(view, [...dims, ...view.shape.map((_, d) => d).filter((d) => !dims.includes(d))]), first: 0, indices };
}

/**
 * PyTorch's x[…]: `x.index(0, slice(1, 3), null, mask, [2, 0], '...')`. Without index tensors, arrays and masks the result is
 * a view. A mask waits for the device.
 */
export function index(x: Tensor, ...items: IndexItem[]): Tensor {
  checkTensor(x, 'index');
  const { view, first, indices } = locate('index', x, resolve('index', x, items));
  return indices.length ? indexAt(view, first, indices) : view;
}

/** The element, row, … at positions of the first dimensions, as a view; negative ones count from the end. */
export function at(x: Tensor, ...positions: number[]): Tensor {
  checkTensor(x, 'at');
  for (const p of positions) checkInteger(p, 'a position', 'at');
  return locate('at', x, resolve('at', x, positions)).view;
}

/**
 * PyTorch's x[items] = value, in place: `x.indexPut_([0, slice(1, 3)], 5)`. The value broadcasts and is converted.
 * @param options.accumulate adds in place of writing, all of them where index tensors repeat a place; without it the last one wins. Default
 * false
 */
export function indexPut_(x: Tensor, items: readonly IndexItem[], value: Tensor | number, options?: { accumulate?: boolean }): Tensor {
  const op = 'indexPut_';
  checkTensor(x, op);
  if (!Array.isArray(items)) throw new ValueError(`${op}: the indices must be an array, got ${describe(items)}`);
  const accumulate = checkFlag(optionsOf(options, op).accumulate ?? false, 'accumulate', op);
  if (accumulate) checkAddable(op, x);
  const source = valueFor(x, value, op);
  deviceOf(op, [x, source]);
  checkInPlace(op, x, [source]);
  const resolved = resolve(op, x, items);
  const place = locate(op, x.detach(), resolved);
  const shape = shapeAt(op, place.view, place.first, place.indices);
  if (!sameShape(broadcastShapes(shape, source.shape, op), shape)) {
    throw new ShapeError(`${op}: the value ${showShape(source.shape)} does not broadcast to the indexed part ${showShape(shape)}`);
  }
  if (x.ndim > 0 && recording([x, source])) return putAt(x, 0, everyIndex(x, resolved), expand(source, shape), accumulate);
  if (place.indices.length) putAt(place.view, place.first, place.indices, expand(source, shape), accumulate);
  else if (x.ndim === 0) return accumulate ? x.add_(reshape(source, [])) : copy_(x, reshape(source, []));
  else if (accumulate) place.view.add_(source);
  else copy_(place.view, source);
  return x;
}

/**
 * A copy of x with indexPut_ done to it.
 * @param options.accumulate as of `indexPut_`. Default false
 */
export const indexPut = autocasts('indexPut', (x: Tensor, items: readonly IndexItem[], value: Tensor | number, options?: { accumulate?: boolean }): Tensor => {
  checkTensor(x, 'indexPut');
  return indexPut_(clone(x), items, value, options);
});

function valueFor(x: Tensor, value: unknown, op: string): Tensor {
  if (typeof value === 'number') return full([], value, { dtype: x.dtype, device: x.device });
  checkTensor(value, op, 'the value');
  if (isFloating(value.dtype) && !isFloating(x.dtype)) throw new DTypeError(`${op}: ${value.dtype} values do not fit a tensor of ${x.dtype}`);
  return to(value, x.dtype);
}

/**
 * What the items select as one index tensor a dimension: their effect on each dimension's coordinates. Backward through a write
 * to a view needs this form, since the graph knows the whole tensor only.
 */
function everyIndex(x: Tensor, items: readonly Resolved[]): Tensor[] {
  return x.shape.map((size, d) => {
    const coordinates = reshape(
      arange(0, size, 1, { device: x.device }),
      x.shape.map((_, i) => (i === d ? size : 1)),
    );
    const { view, first, indices } = locate('indexPut_', expand(coordinates, x.shape), items);
    return indices.length ? indexAt(view, first, indices) : view;
  });
}

/** Positions of the elements that are not 0, in row-major order: [count, ndim] int64. Waits for the device. */
export function nonzero(x: Tensor): Tensor {
  checkTensor(x, 'nonzero');
  if (x.isMeta) throw new DeviceError('nonzero: how many there are depends on values, which a tensor on device meta has none of');
  const counted = countNonzero(x);
  const count = counted.itemSync();
  counted.dispose();
  return invoke('nonzero', x.device, [x, fresh([count, x.ndim], 'int64')])[0]!;
}

function checkMask(mask: unknown, op: string): asserts mask is Tensor {
  checkTensor(mask, op, 'the mask');
  if (mask.dtype !== 'bool') throw new DTypeError(`${op}: the mask must be bool, got ${mask.dtype}`);
}

/** The elements where the mask is true, in row-major order, as one dimension; both broadcast. Waits for the device. */
export function maskedSelect(x: Tensor, mask: Tensor): Tensor {
  checkTensor(x, 'maskedSelect');
  checkMask(mask, 'maskedSelect');
  deviceOf('maskedSelect', [x, mask]);
  const shape = broadcastShapes(x.shape, mask.shape, 'maskedSelect');
  if (shape.length === 0) return maskedSelect(reshape(x, [1]), mask);
  return index(expand(x, shape), expand(mask, shape));
}

/** x with the elements where the mask is true replaced by those of `source`, in row-major order. The mask broadcasts to x. */
export function maskedScatter(x: Tensor, mask: Tensor, source: Tensor): Tensor {
  const op = 'maskedScatter';
  checkTensor(x, op);
  checkMask(mask, op);
  checkTensor(source, op, 'the source');
  if (source.dtype !== x.dtype) throw new DTypeError(`${op}: dtypes of input and source differ: ${x.dtype} and ${source.dtype}`);
  if (source.numel === 0) throw new ShapeError(`${op}: the source ${showShape(source.shape)} has no elements`);
  deviceOf(op, [x, mask, source]);
  if (!sameShape(broadcastShapes(x.shape, mask.shape, op), x.shape))
    throw new ShapeError(`${op}: the mask ${showShape(mask.shape)} does not broadcast to ${showShape(x.shape)}`);
  const wide = expand(mask, x.shape);
  const order = clamp(sub(cumsum(reshape(wide, [x.numel]), 0), 1), 0);
  const picked = indexAt(reshape(source, [source.numel]), 0, [order]);
  return where(wide, reshape(picked, x.shape), x);
}
