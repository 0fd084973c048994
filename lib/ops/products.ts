// Products that are made of matmul and mul, distances between rows, and diagonals.

import { arange } from '../create.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { broadcastShapes, checkDim, checkInteger, checkNumber, checkShape, numel, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFloat, checkSameDType, checkTensor } from './arguments.js';
import { autocasts } from './autocast.js';
import { where } from './blend.js';
import { clone, to } from './copy.js';
import { deviceOf } from './door.js';
import { pad } from './joining.js';
import { matmul, wideType } from './matmul.js';
import { cat } from './pieces.js';
import { add, eq, mul, relu, sqrt, sub } from './pointwise.js';
import { mean, norm, sumSquares } from './reduce.js';
import { diagonal, expand, mT, narrow, permute, reshape, unsqueeze } from './view.js';

/** a × b of vectors of three elements along `dim`; the other dimensions broadcast. */
export const cross = autocasts('cross', (a: Tensor, b: Tensor, dim = -1): Tensor => {
  checkTensor(a, 'cross', 'a');
  checkTensor(b, 'cross', 'b');
  deviceOf('cross', [a, b]);
  if (a.ndim !== b.ndim || a.ndim === 0) throw new ShapeError(`cross: a ${showShape(a.shape)} and b ${showShape(b.shape)} must have equally many dimensions`);
  const d = checkDim(dim, a.ndim, 'cross');
  if (a.shape[d] !== 3 || b.shape[d] !== 3)
    throw new ShapeError(`cross: dimension ${d} must have 3 elements, a is ${showShape(a.shape)} and b ${showShape(b.shape)}`);
  const of = (x: Tensor, i: number): Tensor => narrow(x, d, i % 3, 1);
  const part = (i: number): Tensor => sub(mul(of(a, i + 1), of(b, i + 2)), mul(of(a, i + 2), of(b, i + 1)));
  return cat([part(0), part(1), part(2)], d);
});

/** Every element of a times all of b, as blocks: of matrices [M, N] and [P, Q] one [M·P, N·Q]. At most 4 dimensions. */
export function kron(a: Tensor, b: Tensor): Tensor {
  checkTensor(a, 'kron', 'a');
  checkTensor(b, 'kron', 'b');
  const n = Math.max(a.ndim, b.ndim);
  if (n > 4) throw new ShapeError(`kron: at most 4 dimensions, got a ${showShape(a.shape)} and b ${showShape(b.shape)}`);
  const whole = (x: Tensor): number[] => [...new Array<number>(n - x.ndim).fill(1), ...x.shape];
  const [p, q] = [whole(a), whole(b)];
  const blocks = mul(
    reshape(
      a,
      p.flatMap((s) => [s, 1]),
    ),
    reshape(
      b,
      q.flatMap((s) => [1, s]),
    ),
  );
  return reshape(
    blocks,
    checkShape(
      p.map((s, i) => s * q[i]!),
      'kron',
    ),
  );
}

/** Sums of products over dimensions of a and of b: the last `dims` of a with the first of b, or those in two lists, pair by pair. */
export const tensordot = autocasts('tensordot', (a: Tensor, b: Tensor, dims: number | readonly [readonly number[], readonly number[]] = 2): Tensor => {
  const op = 'tensordot';
  checkTensor(a, op, 'a');
  checkTensor(b, op, 'b');
  const [overA, overB] = pairsOf(a, b, dims);
  const [sizesA, sizesB] = [overA.map((d) => a.shape[d]!), overB.map((d) => b.shape[d]!)];
  if (!sameShape(sizesA, sizesB))
    throw new ShapeError(`${op}: sizes differ: ${showShape(sizesA)} of a ${showShape(a.shape)} and ${showShape(sizesB)} of b ${showShape(b.shape)}`);
  const rest = (x: Tensor, over: readonly number[]): number[] => x.shape.map((_, d) => d).filter((d) => !over.includes(d));
  const [restA, restB] = [rest(a, overA), rest(b, overB)];
  const [shapeA, shapeB] = [restA.map((d) => a.shape[d]!), restB.map((d) => b.shape[d]!)];
  const inner = numel(sizesA);
  const rows = reshape(permute(a, [...restA, ...overA]), [numel(shapeA), inner]);
  const columns = reshape(permute(b, [...overB, ...restB]), [inner, numel(shapeB)]);
  return reshape(matmul(rows, columns), checkShape([...shapeA, ...shapeB], op));
});

function pairsOf(a: Tensor, b: Tensor, dims: unknown): [number[], number[]] {
  const op = 'tensordot';
  if (Array.isArray(dims)) {
    const [first, second] = dims as unknown[];
    if (dims.length !== 2 || !Array.isArray(first) || !Array.isArray(second) || first.length !== second.length)
      throw new ValueError(`${op}: dims must be a number or two lists of equally many dimensions, got ${describe(dims)}`);
    const [overA, overB] = [first.map((d) => checkDim(d, a.ndim, op)), second.map((d) => checkDim(d, b.ndim, op))];
    if (new Set(overA).size < overA.length || new Set(overB).size < overB.length)
      throw new ShapeError(`${op}: a dimension appears twice in [${dims.join('] and [')}]`);
    return [overA, overB];
  }
  const n = checkInteger(dims, 'dims', op, 0, Math.min(a.ndim, b.ndim));
  return [Array.from({ length: n }, (_, i) => a.ndim - n + i), Array.from({ length: n }, (_, i) => i)];
}

/** From this many rows on, as in PyTorch, Euclidean distances come from a matrix product: faster, and less exact for near points. */
const ROWS_OF_PRODUCT = 26;

/**
 * Distances of order `p` between the rows of a [.., P, M] and b [.., R, M]: [.., P, R]. Euclidean ones of more than 25 rows by a matrix product of
 * what is left of the mean of b. Where a distance is 0 its gradient is 0.
 */
export const cdist = autocasts('cdist', (a: Tensor, b: Tensor, p = 2): Tensor => {
  const op = 'cdist';
  checkFloat(a, op, 'a');
  checkFloat(b, op, 'b');
  deviceOf(op, [a, b]);
  checkSameDType(a, b, op, 'a and b');
  checkNumber(p, 'p', op, 0);
  if (a.ndim < 2 || b.ndim < 2 || a.shape[a.ndim - 1] !== b.shape[b.ndim - 1])
    throw new ShapeError(`${op}: expected [.., rows, features] with equally many features, got ${showShape(a.shape)} and ${showShape(b.shape)}`);
  broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2), op);
  const many = a.shape[a.ndim - 2]! >= ROWS_OF_PRODUCT || b.shape[b.ndim - 2]! >= ROWS_OF_PRODUCT;
  if (p === 2 && many) return euclidean(a, b);
  const differences = sub(unsqueeze(a, -2), unsqueeze(b, -3));
  if (p === 0 || p === 1 || p === 2 || p === Number.POSITIVE_INFINITY) return norm(differences, p, -1);
  // the root of a sum of powers has no slope at 0
  const isZero = eq(norm(differences.detach(), Number.POSITIVE_INFINITY, -1), 0);
  return where(isZero, 0, norm(where(unsqueeze(isZero, -1), 1, differences), p, -1));
});

function euclidean(a: Tensor, b: Tensor): Tensor {
  const wide = wideType(a.dtype);
  const center = mean(to(b.detach(), wide), -2, true);
  const [x, y] = [sub(to(a, wide), center), sub(to(b, wide), center)];
  const squares = relu(sub(add(sumSquares(x, -1, true), mT(sumSquares(y, -1, true))), mul(matmul(x, mT(y)), 2)));
  const isZero = eq(squares, 0);
  return to(where(isZero, 0, sqrt(where(isZero, 1, squares))), a.dtype);
}

/** Matrices with x [.., N] on a diagonal and 0 elsewhere, in dimensions `dim1` and `dim2` of the result; `offset` above 0 moves it up. */
export function diagEmbed(x: Tensor, offset = 0, dim1 = -2, dim2 = -1): Tensor {
  const op = 'diagEmbed';
  checkTensor(x, op);
  if (x.ndim === 0) throw new ShapeError(`${op}: the tensor has no dimensions`);
  const k = checkInteger(offset, 'offset', op, -(2 ** 31), 2 ** 31);
  const [i, j] = [checkDim(dim1, x.ndim + 1, op), checkDim(dim2, x.ndim + 1, op)];
  if (i === j) throw new ShapeError(`${op}: dimensions ${dim1} and ${dim2} are the same`);
  const size = x.shape[x.ndim - 1]! + Math.abs(k);
  const shape = checkShape([...x.shape.slice(0, -1), size, size], op);
  const place = arange(0, size, 1, { device: x.device });
  const isOn = eq(sub(place, unsqueeze(place, -1)), k);
  // row r has the element r of what is padded at the end, or column c the element c
  const line = k === 0 ? x : pad(x, [0, Math.abs(k)]);
  const y = where(isOn, expand(unsqueeze(line, k >= 0 ? -1 : -2), shape), 0);
  const order = y.shape.map((_, d) => d).slice(0, -2);
  const [first, second] = i < j ? [i, j] : [j, i];
  order.splice(first, 0, i < j ? y.ndim - 2 : y.ndim - 1);
  order.splice(second, 0, i < j ? y.ndim - 1 : y.ndim - 2);
  return permute(y, order);
}

/** Of a vector the matrix that has it on a diagonal, of a matrix this diagonal. */
export function diag(x: Tensor, offset = 0): Tensor {
  checkTensor(x, 'diag');
  if (x.ndim !== 1 && x.ndim !== 2) throw new ShapeError(`diag: expected a vector or a matrix, got ${showShape(x.shape)}`);
  return x.ndim === 1 ? diagEmbed(x, offset) : clone(diagonal(x, offset));
}
