// How many targets count, over all ranks and micro-batches: what a loss is divided by so that uneven batches, accumulation and masked
// tokens give the gradients of one process on the whole batch.
import { describe, ValueError } from '../errors.js';
import { add, ne } from '../ops/pointwise.js';
import { sum } from '../ops/reduce.js';
import { Tensor } from '../tensor.js';
import type { ProcessGroup } from './process_group.js';
import type { Work } from './work.js';

/**
 * Counts the targets that are not `ignoreIndex`, over all ranks of a group:
 *
 * ```ts
 * const normalizer = dist.countValid(microBatches.map((b) => b.targets), world).wait(); // waits for nobody here
 * for (const b of microBatches) ddp.forward(b.inputs, b.targets, { normalizer }).backward(); // all but the last in noSync
 * ```
 *
 * with `gradientReduction: 'sum'`, which the normalizer asks for. A loss whose count is 0 is 0.
 * @param targets of this rank, all that one optimizer step is made of
 * @returns an int64 tensor of no dimensions
 */
export function countValid(targets: Tensor | readonly Tensor[], group: ProcessGroup, options: { ignoreIndex?: number } = {}): Work<Tensor> {
  const all = (Array.isArray(targets) ? targets : [targets]) as Tensor[];
  const { ignoreIndex = -100 } = options ?? {};
  if (!Number.isSafeInteger(ignoreIndex)) throw new ValueError(`countValid: ignoreIndex must be a whole number, got ${describe(ignoreIndex)}`);
  if (all.length === 0 || !all.every((t) => t instanceof Tensor)) {
    throw new ValueError(`countValid: expected targets, one tensor or a list of them, got ${all.length === 0 ? 'an empty list' : describe(targets)}`);
  }
  const counts = all.map((t) => sum(ne(t, ignoreIndex)));
  return group.allReduce(
    counts.reduce((a, b) => add(a, b)),
    { label: 'of valid targets' },
  );
}
