// What DistributedDataParallel does without a hook: the bucket itself is summed, without a copy.
import { copy_ } from '../../ops/copy.js';
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

class AllReduce implements CommunicationHook {
  readonly name = 'allReduce';
  constructor(private readonly wide: boolean) {}

  *reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void> {
    const { buffer, label } = bucket;
    // NCCL rounds its sums of 16-bit floats at every rank; the other backends sum them in float32
    if (!this.wide || context.ensemble.backend !== 'nccl' || !(buffer.dtype === 'bfloat16' || buffer.dtype === 'float16')) {
      yield* mean(buffer, label, context);
      return;
    }
    const sum = bucket.scratch('in float32', buffer.numel, 'float32');
    copy_(sum, buffer);
    yield* mean(sum, label, context);
    copy_(buffer, sum);
  }
}

/** Sums in float32, whatever the gradients' dtype. */
export const plainReduction: CommunicationHook = new AllReduce(true);
/** Sums in the gradients' dtype, where the backend does: half the bytes for 16-bit ones. */
export const narrowReduction: CommunicationHook = new AllReduce(false);
