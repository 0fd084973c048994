// Compression by rounding: gradients travel in 16 bits and are divided before they are summed, so that the sum does not overflow.
import { type DType, dtypeSize } from '../../dtype.js';
import { copy_ } from '../../ops/copy.js';
import { pointwiseInto } from '../../ops/door.js';
import type { Work } from '../work.js';
import type { CommunicationHook, GradientBucket, ReductionContext } from './hook.js';
import { plainReduction } from './plain.js';

class Rounding implements CommunicationHook {
  constructor(
    readonly name: string,
    private readonly dtype: DType,
  ) {}

  *reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void> {
    const { buffer, label } = bucket;
    if (dtypeSize[buffer.dtype] <= 2) {
      yield* plainReduction.reduce(bucket, context);
      return;
    }
    const small = bucket.scratch(this.name, buffer.numel, this.dtype);
    pointwiseInto('mul', 'same', small, [buffer, 1 / context.divisor]);
    yield context.ensemble.allReduce(small, { op: 'sum', label });
    copy_(buffer, small);
  }
}

/** Halves what is sent, at 11 bits of precision: gradients below 6e-8 become zero, those above 65504 infinite. */
export const float16Compression: CommunicationHook = new Rounding('float16Compression', 'float16');
/** Halves what is sent, at 8 bits of precision and the range of float32. */
export const bfloat16Compression: CommunicationHook = new Rounding('bfloat16Compression', 'bfloat16');
