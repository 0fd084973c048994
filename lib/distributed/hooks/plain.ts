// What DistributedDataParallel does without a hook: the bucket itself is summed, without a copy.
import { mul_ } from '../../ops/pointwise.js';
import type { Tensor } from '../../tensor.js';
import type { Work } from '../work.js';
import type { CommunicationHook, GradientBucket, ReductionContext } from './hook.js';

/**
 * Where a float16 mean of `ranks` values is divided: before the sum and after it. All before would lose small gradients, all after
 * overflow; about the root of the number, a power of two so that nothing is rounded, keeps half the range on either side.
 */
export function halfDivision(ranks: number): [before: number, after: number] {
  let before = 1;
  while (ranks % before === 0 && ranks / before > before) before *= 2;
  return [before, ranks / before];
}

function* mean(x: Tensor, label: string, { ensemble, divisor }: ReductionContext): Generator<Work<unknown>, void, void> {
  if (divisor === 1) yield ensemble.allReduce(x, { op: 'sum', label });
  else if (x.dtype === 'float16') {
    const [before, after] = halfDivision(divisor);
    yield ensemble.allReduce(x, { op: { premulSum: 1 / before }, label });
    if (after !== 1) mul_(x, 1 / after);
  } else if (divisor === ensemble.size) yield ensemble.allReduce(x, { op: 'avg', label });
  else yield ensemble.allReduce(x, { op: { premulSum: 1 / divisor }, label });
}

/** Sums in the dtype of the bucket: on NCCL a 16-bit sum is rounded at every rank, elsewhere once. */
export const plainReduction: CommunicationHook = {
  name: 'allReduce',
  *reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void> {
    yield* mean(bucket.buffer, bucket.label, context);
  },
};
