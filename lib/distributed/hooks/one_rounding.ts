// A sum over the ranks that is rounded once, with the bytes of one in 16 bits: rank r gets everybody's r-th part, adds them in float32, and
// sends the rounded result to all. A ring in 16 bits rounds at every rank it passes. (Megatron-LM's reduce-scatter with
// accumulation in float32.)
import { dtypeSize } from '../../dtype.js';
import { copy_ } from '../../ops/copy.js';
import { fresh, invoke, pointwiseInto } from '../../ops/door.js';
import { narrow, reshape } from '../../ops/view.js';
import type { Work } from '../work.js';
import type { CommunicationHook, GradientBucket, ReductionContext } from './hook.js';

/**
 * Reduces in bfloat16 (16-bit buckets: in their dtype) with one rounding on the way in and one on the way out, whatever the number of ranks:
 * half of what float32 sends. Both together are off by at most 2⁻⁸ of the sum of magnitudes; a gradient in 16 bits is not rounded on the way in.
 */
export const oneRoundingReduction: CommunicationHook = {
  name: 'oneRoundingReduction',
  *reduce(bucket: GradientBucket, { ensemble, divisor }: ReductionContext): Generator<Work<unknown>, void, void> {
    const { buffer, label } = bucket;
    const { name } = oneRoundingReduction;
    const ranks = ensemble.active.length;
    const dtype = dtypeSize[buffer.dtype] === 2 ? buffer.dtype : 'bfloat16';
    const part = Math.ceil(buffer.numel / ranks);
    let parts = buffer;
    if (buffer.dtype !== dtype || buffer.numel !== part * ranks) {
      parts = bucket.scratch(name, part * ranks, dtype);
      copy_(narrow(parts, 0, 0, buffer.numel), buffer);
    }
    const exchanged = ensemble.allToAll(parts, { label });
    yield exchanged;
    const rows = reshape(exchanged.wait(), [ranks, part]);
    const [sum] = invoke('sum', buffer.device, [rows, fresh([1, part], 'float32')], [1]);
    const mine = bucket.scratch(`${name} of a part`, part, dtype);
    pointwiseInto('mul', 'same', mine, [reshape(sum!, [part]), 1 / divisor]);
    rows.dispose();
    const all = ensemble.allGatherActive(mine, { label });
    yield all;
    copy_(buffer, narrow(all.wait(), 0, 0, buffer.numel));
  },
};
