// Counting and looking up: which values there are, how often, and where others belong among them. What depends on values is on the device, except
// where the length of a result does: that waits.

import { full, ones, zeros } from '../create.js';
import { isFloating } from '../dtype.js';
import { DeviceError, DTypeError, ShapeError, ValueError } from '../errors.js';
import { checkInteger, checkShape, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFinite, checkFlag, checkFloat, checkSameDType, checkTensor, optionsOf } from './arguments.js';
import { clamp, where } from './blend.js';
import { to } from './copy.js';
import { deviceOf } from './door.js';
import { gather, indexAdd_, indexSelect, scatter } from './gather.js';
import { nonzero } from './indexing.js';
import { cat, stack } from './pieces.js';
import { checkAddable, indexAt } from './places.js';
import { add, div, eq, floor, ge, gt, le, logicalAnd, logicalNot, mul, ne, sub } from './pointwise.js';
import { max, min } from './reduce.js';
import { cumsum, sort } from './sort.js';
import { narrow, reshape, select } from './view.js';

/** How `bincount` counts. */
export interface BincountOptions {
  /** What each number adds in place of 1, [N]. */
  weights?: Tensor | null;
  /** The least length of the result. Default 0. */
  minLength?: number;
}

/** How often each number from 0 to the largest occurs among whole numbers x [N]: int64, or the sums of weights. Waits for the device. */
export function bincount(x: Tensor, options?: BincountOptions): Tensor {
  const op = 'bincount';
  checkTensor(x, op);
  if (isFloating(x.dtype) || x.dtype === 'bool') throw new DTypeError(`${op}: expects whole numbers, got ${x.dtype}`);
  if (x.ndim !== 1) throw new ShapeError(`${op}: expected one dimension, got ${showShape(x.shape)}`);
  if (x.isMeta) throw new DeviceError(`${op}: the length depends on values, which a tensor on device meta has none of`);
  const o = optionsOf(options, op);
  const weights = o.weights ?? null;
  const least = checkInteger(o.minLength ?? 0, 'minLength', op, 0);
  if (weights !== null) {
    checkTensor(weights, op, 'the weights');
    checkAddable(op, weights);
    deviceOf(op, [x, weights]);
    if (!sameShape(x.shape, weights.shape)) throw new ShapeError(`${op}: the weights must be ${showShape(x.shape)}, got ${showShape(weights.shape)}`);
  }
  const index = to(x, 'int64');
  const [low, high] = x.numel === 0 ? [0, -1] : (stack([min(index), max(index)]).toArraySync() as [number, number]).map(Number);
  if (low! < 0) throw new ValueError(`${op}: numbers must be from 0, the smallest is ${low}`);
  const counts = zeros(checkShape([Math.max(high! + 1, least)], op), { dtype: weights?.dtype ?? 'int64', device: x.device });
  return indexAdd_(counts, 0, index, weights ?? ones([x.numel], { dtype: 'int64', device: x.device }));
}

/**
 * How many elements lie in each of `bins` equal parts of [low, high], which holds both its ends; others and NaN count nowhere. With low = high, from the
 * smallest to the largest element. The result has the dtype of x.
 */
export function histc(x: Tensor, bins = 100, low = 0, high = 0): Tensor {
  const op = 'histc';
  checkFloat(x, op);
  checkInteger(bins, 'bins', op, 1, 2 ** 31);
  if (checkFinite(low, 'low', op) > checkFinite(high, 'high', op)) throw new ValueError(`${op}: low ${low} is above high ${high}`);
  const values = to(reshape(x.detach(), [x.numel]), 'float64');
  const [from, until] = low === high ? ends(values, low) : [low, high];
  const inside = logicalAnd(ge(values, from), le(values, until));
  const place = floor(mul(div(sub(values, from), typeof until === 'number' ? until - (from as number) : sub(until, from)), bins));
  const index = to(where(inside, clamp(place, 0, bins - 1), 0), 'int64');
  return to(indexAdd_(zeros([bins], { dtype: 'int64', device: x.device }), 0, index, to(inside, 'int64')), x.dtype);
}

/** Smallest and largest element, a unit apart where they are equal. */
function ends(values: Tensor, otherwise: number): [Tensor, Tensor] | [number, number] {
  if (values.numel === 0) return [otherwise, otherwise + 1];
  const [low, high] = [min(values), max(values)];
  const same = eq(low, high);
  return [where(same, sub(low, 1), low), where(same, add(high, 1), high)];
}

/**
 * Where each value belongs in `sorted` [N], or in the row of it [.., N] that it shares the first dimensions with, so that the order is kept: int64, of the
 * shape of the values. Values equal to elements belong before them.
 * @param options.right equal values belong behind them. Default false
 */
export function searchsorted(sorted: Tensor, values: Tensor, options?: { right?: boolean }): Tensor {
  const op = 'searchsorted';
  checkTensor(sorted, op, 'what is sorted');
  checkTensor(values, op, 'the values');
  deviceOf(op, [sorted, values]);
  checkSameDType(sorted, values, op, 'what is sorted and of the values');
  const right = checkFlag(optionsOf(options, op).right ?? false, 'right', op);
  const rows = sorted.ndim > 1;
  if (sorted.ndim === 0 || (rows && !sameShape(sorted.shape.slice(0, -1), values.shape.slice(0, -1))) || (rows && values.ndim !== sorted.ndim))
    throw new ShapeError(
      `${op}: expected what is sorted [N], or [.., N] and values [.., M] with the same first dimensions, got ${showShape(sorted.shape)} and ${showShape(values.shape)}`,
    );
  const [table, wanted] = [sorted.detach(), values.detach()];
  const n = sorted.shape[sorted.ndim - 1]!;
  const at = (place: Tensor): Tensor => (rows ? gather(table, -1, place) : indexAt(table, 0, [place]));
  let found: Tensor = zeros(values.shape, { dtype: 'int64', device: values.device });
  // by steps of powers of two: as far as what is passed comes before the value
  for (let step = n === 0 ? 0 : 2 ** Math.floor(Math.log2(n)); step >= 1; step /= 2) {
    const next = add(found, step);
    const last = at(clamp(sub(next, 1), 0, n - 1));
    const passes = logicalNot(right ? gt(last, wanted) : ge(last, wanted));
    found = where(logicalAnd(passes, le(next, n)), next, found);
  }
  return found;
}

/**
 * Which of the parts between `boundaries` [N] each element of x lies in: `searchsorted` the other way around.
 * @param options.right as of searchsorted. Default false
 */
export function bucketize(x: Tensor, boundaries: Tensor, options?: { right?: boolean }): Tensor {
  checkTensor(x, 'bucketize');
  checkTensor(boundaries, 'bucketize', 'the boundaries');
  if (boundaries.ndim !== 1) throw new ShapeError(`bucketize: the boundaries must have one dimension, got ${showShape(boundaries.shape)}`);
  return searchsorted(boundaries, x, options);
}

/** The runs of equal neighbours of y [N]: their values, the run of each element, their lengths. */
function runs(y: Tensor): [Tensor, Tensor, Tensor] {
  const n = y.numel;
  const int64 = { dtype: 'int64', device: y.device } as const;
  if (n === 0) return [y, zeros([0], int64), zeros([0], int64)];
  const begins = cat([full([1], true, { device: y.device }), ne(narrow(y, 0, 1, n - 1), narrow(y, 0, 0, n - 1))]);
  const starts = select(nonzero(begins), 1, 0);
  const lengths = sub(cat([narrow(starts, 0, 1, starts.numel - 1), full([1], n, int64)]), starts);
  return [indexSelect(y, 0, starts), sub(cumsum(begins, 0), 1), lengths];
}

function checkValues(x: unknown, op: string): Tensor {
  checkTensor(x, op);
  if (x.isMeta) throw new DeviceError(`${op}: how many values there are depends on them, and a tensor on device meta has none`);
  return reshape(x.detach(), [x.numel]);
}

/**
 * The values among all elements of x, in ascending order; for each element the position of its value, in the shape of x; and how often each value occurs:
 * [values, inverse, counts]. Each NaN is a value of its own. Waits for the device; without a gradient.
 */
export function unique(x: Tensor): [values: Tensor, inverse: Tensor, counts: Tensor] {
  const [sorted, order] = sort(checkValues(x, 'unique'), 0);
  const [values, run, counts] = runs(sorted);
  return [values, reshape(scatter(run, 0, order, run), x.shape), counts];
}

/**
 * As `unique`, without sorting: one value for each run of equal neighbours of the flattened tensor. Waits for the device; without a gradient.
 */
export function uniqueConsecutive(x: Tensor): [values: Tensor, inverse: Tensor, counts: Tensor] {
  const [values, run, counts] = runs(checkValues(x, 'uniqueConsecutive'));
  return [values, reshape(run, x.shape), counts];
}
