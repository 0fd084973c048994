// Rows of dimension 0 per rank: how a tensor is cut up among the ranks of a group.
import { describe, ShapeError } from '../errors.js';
import { checkInteger, numel, type Shape, showShape } from '../shape.js';
import { type Tensor, wrap } from '../tensor.js';

/** Equal shares of the rows. */
export function evenRows(op: string, rows: number, ranks: number): readonly number[] {
  if (rows % ranks !== 0) throw new ShapeError(`${op}: ${rows} rows are not a multiple of ${ranks} ranks; give the rows of each`);
  return new Array<number>(ranks).fill(rows / ranks);
}

/** Elements of each rank, from its rows and the dimensions behind them. */
export function elementsOf(op: string, rows: readonly number[], tail: Shape, ranks: number): number[] {
  if (!Array.isArray(rows) || rows.length !== ranks) {
    throw new ShapeError(`${op}: expected the rows of each of ${ranks} ranks, got ${Array.isArray(rows) ? showShape(rows) : describe(rows)}`);
  }
  return rows.map((r) => checkInteger(r, 'a number of rows', op, 0) * numel(tail));
}

export function sum(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0);
}

/** The elements in row-major order, as collectives take them. */
export function flat(x: Tensor): Tensor {
  return x.detach().contiguous().reshape([x.numel]);
}

export const shaped = (made: Tensor, shape: Shape): Tensor => wrap(made.storage, shape, made.dtype);

/** What all ranks' rows make together, and the elements of each: as many rows as this rank's unless given. */
export function gatheredRows(op: string, x: Tensor, given: readonly number[] | undefined, ranks: number, rank: number): { shape: number[]; counts: number[] } {
  if (x.ndim === 0) throw new ShapeError(`${op}: expected at least one dimension, got []; use reshape([1])`);
  const tail = x.shape.slice(1);
  const rows = given ?? new Array<number>(ranks).fill(x.shape[0]!);
  const counts = elementsOf(op, rows, tail, ranks);
  if (rows[rank] !== x.shape[0]) throw new ShapeError(`${op}: the rows say ${rows[rank]} for rank ${rank}, the tensor is ${showShape(x.shape)}`);
  return { shape: [sum(rows), ...tail], counts };
}
