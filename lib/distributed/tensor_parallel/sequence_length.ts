// How long a sequence is, for a rank that has a piece of it: pieces are ⌈T / ranks⌉, the last ones shorter or empty, so a piece does not say. What
// cut the sequence knew; each group remembers it by the length of the piece. Ranks that remember differently cannot go wrong in silence, as the
// pieces of two lengths never agree on all ranks: the collective that follows finds different counts, and says so.
import { context, withContext } from '../../context.js';
import { ShapeError } from '../../errors.js';
import { recall } from '../../random.js';
import { checkInteger } from '../../shape.js';
import type { ProcessGroup } from '../process_group.js';

/** By group: the last length that was cut into a piece of this one. */
const lengths = new WeakMap<ProcessGroup, Map<number, number>>();

/** Where the piece of a rank begins, and how long it is. */
export function pieceOf(length: number, ranks: number, rank: number): { start: number; length: number } {
  const each = Math.ceil(length / ranks);
  const start = Math.min(length, rank * each);
  return { start, length: Math.min(each, length - start) };
}

/** Of each rank. */
export function pieceLengths(length: number, ranks: number): number[] {
  return Array.from({ length: ranks }, (_, rank) => pieceOf(length, ranks, rank).length);
}

/** This rank's piece of a sequence that is being cut. */
export function cutSequence(length: number, group: ProcessGroup): { start: number; length: number } {
  const piece = pieceOf(length, group.size, group.rank);
  const known = lengths.get(group);
  if (known) known.set(piece.length, length);
  else lengths.set(group, new Map([[piece.length, length]]));
  return piece;
}

/** The length of the sequence that this rank has a piece of: as it was cut last, else as many as this rank's on every rank. */
export function lengthOfWhole(piece: number, group: ProcessGroup): number {
  const length = recall(() => context().sequenceLength ?? lengths.get(group)?.get(piece) ?? piece * group.size);
  if (pieceOf(length, group.size, group.rank).length !== piece)
    throw new ShapeError(`tensor parallelism: of a sequence of ${length}, rank ${group.rank} of ${group.size} has no piece of ${piece}`);
  return length;
}

/**
 * Runs `fn`, in which pieces of sequences are those of sequences this long. Needed only where that does not follow from what went before: pieces that
 * came from elsewhere, such as another pipeline stage, when the length does not divide over the ranks; or two sequences of similar lengths
 * in turn, such as 5 and 6 on 2 ranks, of which both times a rank has 3.
 */
export function withSequenceLength<T>(length: number, fn: () => T): T {
  return withContext({ sequenceLength: checkInteger(length, 'the length', 'withSequenceLength', 0) }, fn);
}
