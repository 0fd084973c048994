// The collectives of sequence parallelism, in two halves: started here, waited for where the result is needed, so that products run in between.
// The sequence is the dimension before the features. Pieces that differ in length cost no padding: what is sent is laid out by ranks anyway, and
// collectives take counts.
import { empty } from '../../create.js';
import { ShapeError } from '../../errors.js';
import { contiguous, copy_ } from '../../ops/copy.js';
import { cat } from '../../ops/pieces.js';
import { movedim, narrow, reshape } from '../../ops/view.js';
import { numel, showShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { ProcessGroup } from '../process_group.js';
import { cutSequence, pieceLengths } from './sequence_length.js';

/** A result that is on its way: the compute stream waits for it from the call on. */
export type Pending = () => Tensor;

/** The whole sequence [.., T, C], T being `length`, of all ranks' pieces; outside of graphs. */
export function startGather(x: Tensor, group: ProcessGroup, length: number, label: string): Pending {
  const { lead, features } = sizesOf(x);
  const pieces = pieceLengths(length, group.size);
  const each = numel(lead) * features;
  const work = group.allGather(reshape(contiguous(x.detach()), [x.numel]), { label, rows: pieces.map((n) => n * each) });
  return () => {
    const all = work.wait();
    const shape = [...lead, length, features];
    // of one sequence, the pieces lie in order already
    if (numel(lead) === 1) return reshape(all, shape);
    if (areEven(pieces)) return reshape(contiguous(movedim(reshape(all, [group.size, ...lead, pieces[0]!, features]), 0, -3)), shape);
    return cat(
      byRank(all, pieces, each).map((part, rank) => reshape(part, [...lead, pieces[rank]!, features])),
      -2,
    );
  };
}

/** This rank's piece of the sum of all ranks' [.., T, C]; outside of graphs. */
export function startReduceScatter(x: Tensor, group: ProcessGroup, label: string): Pending {
  const { lead, time, features } = sizesOf(x);
  const mine = cutSequence(time, group).length;
  const pieces = pieceLengths(time, group.size);
  const each = numel(lead) * features;
  const work = group.reduceScatter(inPieces(x.detach(), pieces), { label, rows: pieces.map((n) => n * each) });
  return () => reshape(work.wait(), [...lead, mine, features]);
}

/** This rank's piece of what every rank has; a view, differentiable as such. */
export function pieceOfSequence(x: Tensor, group: ProcessGroup): Tensor {
  const piece = cutSequence(sizesOf(x).time, group);
  return narrow(x, x.ndim - 2, piece.start, piece.length);
}

/** What a sequence consists of. */
export function sizesOf(x: Tensor): { lead: number[]; time: number; features: number } {
  if (x.ndim < 2) throw new ShapeError(`tensor parallelism: the sequence is the dimension before the features, which ${showShape(x.shape)} does not have`);
  return { lead: x.shape.slice(0, -2), time: x.shape[x.ndim - 2]!, features: x.shape[x.ndim - 1]! };
}

const areEven = (pieces: readonly number[]): boolean => pieces.at(-1) === pieces[0];

/** The elements of x, one rank's piece after another. */
function inPieces(x: Tensor, pieces: readonly number[]): Tensor {
  const { lead, time, features } = sizesOf(x);
  const flat = [x.numel];
  if (numel(lead) === 1) return reshape(contiguous(x), flat);
  if (areEven(pieces)) return reshape(contiguous(movedim(reshape(x, [...lead, pieces.length, time / pieces.length, features]), -3, 0)), flat);
  const laid = empty(flat, { dtype: x.dtype, device: x.device });
  let start = 0;
  byRank(laid, pieces, numel(lead) * features).forEach((part, rank) => {
    copy_(reshape(part, [...lead, pieces[rank]!, features]), narrow(x, x.ndim - 2, start, pieces[rank]!));
    start += pieces[rank]!;
  });
  return laid;
}

/** Views of the elements of each rank. */
function byRank(all: Tensor, pieces: readonly number[], each: number): Tensor[] {
  let at = 0;
  return pieces.map((n) => {
    const part = narrow(all, 0, at, n * each);
    at += n * each;
    return part;
  });
}
