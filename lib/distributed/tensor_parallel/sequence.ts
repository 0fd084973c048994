// The collectives of sequence parallelism, in two halves: started here, waited for where the result is needed, so that products run in between.
// The sequence is the dimension before the features. Its pieces are equal, as a rank that has one must know the size of the whole.
import { ShapeError } from '../../errors.js';
import { contiguous } from '../../ops/copy.js';
import { movedim, narrow, reshape } from '../../ops/view.js';
import { numel, showShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { ProcessGroup } from '../process_group.js';

/** A result that is on its way: the compute stream waits for it from the call on. */
export type Pending = () => Tensor;

/** The whole sequence [.., T, C] of all ranks' pieces [.., T / ranks, C]; outside of graphs. */
export function startGather(x: Tensor, group: ProcessGroup, label: string): Pending {
  const { lead, time, features } = sizesOf(x, 'the sequence');
  const work = group.allGather(reshape(contiguous(x.detach()), [1, ...x.shape]), { label });
  return () => {
    const pieces = work.wait();
    // of one sequence, the pieces lie in order already
    const ordered = numel(lead) === 1 ? pieces : contiguous(movedim(pieces, 0, -3));
    return reshape(ordered, [...lead, time * group.size, features]);
  };
}

/** This rank's piece [.., T / ranks, C] of the sum of all ranks' [.., T, C]; outside of graphs. */
export function startReduceScatter(x: Tensor, group: ProcessGroup, label: string): Pending {
  const { lead, time, features } = sizesOf(x, 'the sequence');
  const each = pieceOf(x, group);
  const split = reshape(contiguous(x.detach()), [...lead, group.size, each, features]);
  const pieces = numel(lead) === 1 ? reshape(split, [group.size, each * features]) : contiguous(movedim(split, -3, 0));
  const work = group.reduceScatter(pieces, { label });
  return () => reshape(work.wait(), [...lead, time / group.size, features]);
}

/** This rank's piece of what every rank has; a view, differentiable as such. */
export function pieceOfSequence(x: Tensor, group: ProcessGroup): Tensor {
  sizesOf(x, 'the sequence');
  const each = pieceOf(x, group);
  return narrow(x, x.ndim - 2, group.rank * each, each);
}

function sizesOf(x: Tensor, what: string): { lead: number[]; time: number; features: number } {
  if (x.ndim < 2) throw new ShapeError(`tensor parallelism: ${what} is the dimension before the features, which ${showShape(x.shape)} does not have`);
  return { lead: x.shape.slice(0, -2), time: x.shape[x.ndim - 2]!, features: x.shape[x.ndim - 1]! };
}

function pieceOf(x: Tensor, { size }: ProcessGroup): number {
  const time = x.shape[x.ndim - 2]!;
  if (time % size !== 0) throw new ShapeError(`tensor parallelism: a sequence of ${time}, of ${showShape(x.shape)}, does not divide over ${size} ranks`);
  return time / size;
}
