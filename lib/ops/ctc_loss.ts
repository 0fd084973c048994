// Connectionist temporal classification: the sum over all ways to spell a target with blanks and repetitions, by the forward recursion over time. What
// cannot be is a large negative number and not −∞, so that no gradient is NaN.
import { arange, fromTypedArray, full } from '../create.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { checkInteger, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { checkFlag, checkFloat, checkIndices, optionsOf } from './arguments.js';
import { clamp, where } from './blend.js';
import { to } from './copy.js';
import { reduceLoss } from './cross_entropy.js';
import { deviceOf } from './door.js';
import { gather, indexSelect } from './gather.js';
import { type LossOptions, reductionOf } from './loss_pair.js';
import { wideType } from './matmul.js';
import { cat, stack } from './pieces.js';
import { add, div, eq, gt, logaddexp, logicalAnd, lt, mul, ne, neg, sub } from './pointwise.js';
import { expand, narrow, permute, reshape, select, unsqueeze } from './view.js';

/** Options of `ctcLoss`. */
export interface CTCOptions extends LossOptions {
  /** The class that stands for no label. Default 0. */
  blank?: number;
  /** A target that its input is too short for has the loss 0 in place of ∞. Default false. */
  zeroInfinity?: boolean;
}

/** How long each sequence is: numbers, or a tensor [N] of whole ones. */
export type SequenceLengths = readonly number[] | Tensor;

const NEVER = -1e30;

/** SequenceLengths as int64 [N]. Those that are numbers are checked; those of a tensor are on the device. */
function lengthsOf(lengths: SequenceLengths, n: number, most: number, name: string, like: Tensor): Tensor {
  const op = 'ctcLoss';
  if (lengths instanceof Tensor) {
    checkIndices(lengths, op, name);
    deviceOf(op, [like, lengths]);
    if (lengths.numel !== n || lengths.ndim > 1) throw new ShapeError(`${op}: ${name} must be [${n}], got ${showShape(lengths.shape)}`);
    return to(reshape(lengths, [n]), 'int64');
  }
  if (!Array.isArray(lengths) || lengths.length !== n) throw new ValueError(`${op}: ${name} must be ${n} numbers or a tensor, got ${describe(lengths)}`);
  const values = lengths.map((l: unknown) => BigInt(checkInteger(l, `one of ${name}`, op, 0, most)));
  return fromTypedArray(BigInt64Array.from(values), [n], { device: like.device });
}

/** Targets one after another as rows [N, S]: where they begin follows from their lengths, which this has to know. */
function rowsOf(targets: Tensor, lengths: SequenceLengths, n: number): [Tensor, number[]] {
  const op = 'ctcLoss';
  const counts = lengths instanceof Tensor ? Array.from(lengths.toTypedArraySync(), Number) : [...lengths];
  for (const count of counts) checkInteger(count, 'one of the target lengths', op, 0);
  const total = counts.reduce((a, b) => a + b, 0);
  if (counts.length !== n || total !== targets.numel)
    throw new ShapeError(`${op}: ${counts.length} target lengths that sum to ${total} do not fit ${n} sequences and targets ${showShape(targets.shape)}`);
  const longest = Math.max(0, ...counts);
  const starts = counts.map((_, i) => counts.slice(0, i).reduce((a, b) => a + b, 0));
  const places = starts.flatMap((start) => Array.from({ length: longest }, (_, s) => BigInt(Math.min(start + s, Math.max(0, total - 1)))));
  const index = fromTypedArray(BigInt64Array.from(places), [places.length], { device: targets.device });
  return [reshape(total === 0 ? to(index, targets.dtype) : indexSelect(targets, 0, index), [n, longest]), counts];
}

/**
 * −ln of the probability of targets (Graves et al., 2006), given logarithms of probabilities [T, N, C] or [T, C] of each class at each time, as
 * `logSoftmax` makes them. Targets are [N, S], of which the first `targetLengths` count, or all of them one after another, for which lengths in a tensor
 * wait for the device. 16-bit inputs are computed in float32. `mean` divides each loss by the length of its target first.
 */
export function ctcLoss(logProbs: Tensor, targets: Tensor, inputLengths: SequenceLengths, targetLengths: SequenceLengths, options?: CTCOptions): Tensor {
  const op = 'ctcLoss';
  checkFloat(logProbs, op);
  checkIndices(targets, op, 'the targets');
  deviceOf(op, [logProbs, targets]);
  if (logProbs.ndim !== 2 && logProbs.ndim !== 3)
    throw new ShapeError(`${op}: expected [time, batch, classes] or [time, classes], got ${showShape(logProbs.shape)}`);
  const single = logProbs.ndim === 2;
  const probabilities = single ? unsqueeze(logProbs, 1) : logProbs;
  const [time, n, classes] = probabilities.shape as [number, number, number];
  if (time === 0) throw new ShapeError(`${op}: the input ${showShape(logProbs.shape)} has no steps`);
  const o = optionsOf(options, op);
  const blank = checkInteger(o.blank ?? 0, 'blank', op, 0, classes - 1);
  const zeroInfinity = checkFlag(o.zeroInfinity ?? false, 'zeroInfinity', op);
  const reduction = reductionOf(options, op);
  if (targets.ndim !== 1 && (targets.ndim !== 2 || targets.shape[0] !== n))
    throw new ShapeError(`${op}: targets must be [${n}, length] or one after another in one dimension, got ${showShape(targets.shape)}`);
  const [rows, counts] = targets.ndim === 2 ? [targets, targetLengths] : rowsOf(targets, targetLengths, n);
  const labels = rows.shape[1]!;
  const inputs = lengthsOf(inputLengths, n, time, 'the input lengths', logProbs);
  const lengths = lengthsOf(counts, n, labels, 'the target lengths', logProbs);
  const score = recursion(to(probabilities, wideType(logProbs.dtype)), rows, inputs, lengths, blank);
  const isPossible = gt(score, NEVER / 2);
  const loss = where(isPossible, neg(score), zeroInfinity ? 0 : Number.POSITIVE_INFINITY);
  const scaled = reduction === 'mean' ? div(loss, clamp(lengths, 1)) : loss;
  const reduced = reduceLoss(single && reduction === 'none' ? select(scaled, 0, 0) : scaled, reduction);
  return to(reduced, logProbs.dtype);
}

/** ln of the probability of each target. */
function recursion(logProbs: Tensor, targets: Tensor, inputs: Tensor, lengths: Tensor, blank: number): Tensor {
  const [time, n] = logProbs.shape as [number, number, number];
  const labels = targets.shape[1]!;
  const { device, dtype } = logProbs;
  const states = 2 * labels + 1; // blanks around the labels and between them
  const blanks = (count: number): Tensor => expand(full([], blank, { dtype: 'int64', device }), [n, count]);
  const never = (count: number): Tensor => expand(full([], NEVER, { dtype, device }), [n, count]);
  const inside = lt(arange(0, labels, 1, { device }), unsqueeze(lengths, -1));
  const own = where(inside, to(targets, 'int64'), blank); // what pads a target may be anything
  const spelled = cat([reshape(stack([blanks(labels), own], 2), [n, 2 * labels]), blanks(1)], 1);
  const index = expand(unsqueeze(spelled, 1), [n, time, states]);
  const emitted = clamp(gather(permute(logProbs, [1, 0, 2]), 2, index), NEVER);
  // a label may follow another one without a blank between them, if it is another one
  const before = cat([blanks(Math.min(2, states)), narrow(spelled, 1, 0, Math.max(0, states - 2))], 1);
  const skips = logicalAnd(ne(spelled, blank), ne(spelled, before));

  const state = arange(0, states, 1, { device });
  const begun = where(lt(state, 2), select(emitted, 1, 0), NEVER);
  const nothing = where(eq(state, 0), full([], 0, { dtype, device }), NEVER); // of no input at all
  let alpha = where(unsqueeze(gt(inputs, 0), -1), begun, nothing);
  for (let t = 1; t < time; t++) {
    const moved = (by: number): Tensor => cat([never(Math.min(by, states)), narrow(alpha, 1, 0, Math.max(0, states - by))], 1);
    const arrived = logaddexp(logaddexp(alpha, moved(1)), where(skips, moved(2), NEVER));
    alpha = where(unsqueeze(gt(inputs, t), -1), add(arrived, select(emitted, 1, t)), alpha);
  }
  // in the last label, or the blank behind it
  const end = mul(lengths, 2);
  const last = select(gather(alpha, 1, unsqueeze(end, -1)), 1, 0);
  const label = select(gather(alpha, 1, unsqueeze(clamp(sub(end, 1), 0), -1)), 1, 0);
  return logaddexp(last, where(eq(lengths, 0), NEVER, label));
}
