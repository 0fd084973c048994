// Cross-entropy of logits whose classes are spread over the ranks. Every rank takes the log-sum-exp of its own classes; what is sent are a few
// numbers a row, and never logits. The kernels are those of crossEntropy: none stores probabilities, and 16-bit logits are read as they are.
import { defineFunction, type FunctionContext } from '../../autograd/function.js';
import { isGradEnabled } from '../../autograd/modes.js';
import { arange, full, zeros, zerosLike } from '../../create.js';
import { AutogradError, ShapeError } from '../../errors.js';
import { checkFloat, checkIndices, optionsOf } from '../../ops/arguments.js';
import { where } from '../../ops/blend.js';
import { clone, to } from '../../ops/copy.js';
import { type CrossEntropyOptions, crossEntropy, divided, settingsOf } from '../../ops/cross_entropy.js';
import { fresh, invoke, like, pointwiseInto } from '../../ops/door.js';
import { gather, indexSelect } from '../../ops/gather.js';
import { indexPut_ } from '../../ops/indexing.js';
import { wideType } from '../../ops/matmul.js';
import { cat } from '../../ops/pieces.js';
import { add, exp, ge, log, logicalAnd, logicalNot, lt, mul, ne, sub } from '../../ops/pointwise.js';
import { sum } from '../../ops/reduce.js';
import { narrow, reshape, unsqueeze } from '../../ops/view.js';
import { checkInteger, checkNumber, numel, sameShape, showShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import { declarePlacement, requirePlacement } from '../activation_placements.js';
import type { DeviceMesh } from '../device_mesh.js';
import { Replicate, Shard } from '../placement.js';
import type { ProcessGroup } from '../process_group.js';
import { checkMesh } from './shard_parameter.js';
import { vocabularyOf } from './vocab_embedding.js';

/** As CrossEntropyOptions, with the ranks. */
export interface VocabParallelLossOptions extends Omit<CrossEntropyOptions, 'dim'> {
  /** The ranks of its axis `tp` share the classes. */
  readonly mesh: DeviceMesh;
  /** Of all ranks together. */
  readonly vocabSize: number;
}

/** What all rows have in common. */
interface Call {
  readonly group: ProcessGroup;
  readonly classes: number;
  /** This rank's. */
  readonly start: number;
  readonly length: number;
  readonly ignoreIndex: number;
  readonly smoothing: number;
  /** Of the classes, [classes]; null: 1. */
  readonly weight: Tensor | null;
}

/** No target of the kernels is left out: what does not count weighs nothing. */
const NONE = -100;

/**
 * crossEntropy of logits [.., part of the classes], of which each rank has those of a column-parallel layer, and targets [..], which every rank
 * has. The loss is the same on every rank, and float32 (float64 for float64); it must not be summed over them again. Options are those of
 * crossEntropy; sums over classes, also those of labelSmoothing, are over the classes of all ranks.
 * @throws ShapeError for logits that are not this rank's part, such as gathered ones
 */
export function vocabParallelCrossEntropy(logits: Tensor, targets: Tensor, options: VocabParallelLossOptions): Tensor {
  const op = 'vocabParallelCrossEntropy';
  const { mesh: given, vocabSize, ...rest } = optionsOf<VocabParallelLossOptions>(options, op);
  const mesh = checkMesh(given, op);
  const group = mesh.group('tp');
  const classes = checkInteger(vocabSize, 'vocabSize', op, 1);
  checkFloat(logits, op, 'the logits');
  checkIndices(targets, op, 'the targets');
  const { start, length } = vocabularyOf(classes, mesh);
  if (logits.ndim === 0 || logits.shape[logits.ndim - 1] !== length) {
    throw new ShapeError(`${op}: of ${classes} classes rank ${group.rank} of ${group.size} has ${length}, the logits are ${showShape(logits.shape)}`);
  }
  if (!sameShape(logits.shape.slice(0, -1), targets.shape))
    throw new ShapeError(`${op}: targets ${showShape(targets.shape)} are not logits ${showShape(logits.shape)} without the last dimension`);
  const smoothing = checkNumber(rest.labelSmoothing ?? 0, 'labelSmoothing', op, 0, 1);
  const settings = settingsOf(rest, classes, op);
  if (group.size === 1) return crossEntropy(logits, targets, { ...rest, dim: -1 });
  const { ignoreIndex, reduction } = settings;
  const weight = settings.weight && to(settings.weight, wideType(logits.dtype));
  const rows = numel(targets.shape);
  const indices = reshape(targets, [rows]);
  const call: Call = { group, classes, start, length, ignoreIndex, smoothing, weight };
  requirePlacement(logits, Shard(logits.ndim - 1), group, op);
  const losses = declarePlacement(rowLosses(reshape(logits, [rows, length]), indices, call), Replicate(), group);
  if (reduction === 'none') return reshape(losses, targets.shape);
  return divided(sum(losses), settings, () => {
    const counts = ne(indices, ignoreIndex);
    return sum(weight ? where(counts, weightsOf(indices, call), 0) : counts);
  });
}

/** The weight of each row's class. */
function weightsOf(indices: Tensor, { weight, classes }: Call): Tensor | number {
  if (!weight) return 1;
  const exists = logicalAnd(ge(indices, 0), lt(indices, classes));
  return indexSelect(weight, 0, where(exists, indices, 0));
}

/** Losses of the rows [R] from this rank's logits [R, length]. */
const rowLosses: (logits: Tensor, indices: Tensor, call: Call) => Tensor = defineFunction({
  name: 'vocabParallelCrossEntropy',
  forward: (ctx: FunctionContext, logits: Tensor, indices: Tensor, call: Call): Tensor => {
    const { group, start, length, ignoreIndex, smoothing, classes } = call;
    const dtype = wideType(logits.dtype);
    const rows = indices.numel;
    const on = { dtype, device: logits.device };
    const counts = ne(indices, ignoreIndex);
    const local = sub(indices, start);
    const own = logicalAnd(counts, logicalAnd(ge(local, 0), lt(local, length)));
    const missing = logicalAnd(counts, logicalNot(logicalAnd(ge(indices, 0), lt(indices, classes))));
    // of another rank's classes any will do; one that no rank has becomes an error
    const safe = where(own, local, where(missing, length, 0));
    const [loss, lse] =
      length > 0
        ? invoke('crossEntropy', logits.device, [logits, safe, null, fresh([rows], dtype), fresh([rows], dtype), fresh([2], dtype), null], [NONE, 0, 0])
        : [zeros([rows], on), full([rows], Number.NEGATIVE_INFINITY, on)];
    const highest = group.allReduce(clone(lse!), { op: 'max', label: 'of the largest logits' }).wait();
    const parts = [exp(sub(lse!, highest)), where(own, sub(lse!, loss!), 0)];
    if (smoothing > 0) parts.push(sum(mul(sub(to(logits, dtype), unsqueeze(highest, 1)), localWeights(call)), -1));
    const sums = group.allReduce(cat(parts), { label: 'of the sums over classes' }).wait();
    const row = (i: number): Tensor => narrow(sums, 0, i * rows, rows);
    const above = log(row(0));
    const total = add(above, highest);
    let result = mul(mul(sub(total, row(1)), 1 - smoothing), weightsOf(indices, call));
    if (smoothing > 0) result = add(result, mul(sub(mul(above, weightSum(call)), row(2)), smoothing / classes));
    ctx.saveForBackward(logits, indices, own, safe, total);
    ctx['call'] = call;
    return where(counts, result, 0);
  },
  backward: (ctx, g) => {
    const call = ctx['call'] as Call;
    if (isGradEnabled()) throw new AutogradError('createGraph: no second derivative of vocabParallelCrossEntropy');
    const [logits, indices, own, safe, total] = ctx.savedTensors as [Tensor, Tensor, Tensor, Tensor, Tensor];
    const { length, ignoreIndex, smoothing, classes } = call;
    if (length === 0) return [zerosLike(logits), null, null];
    const upstream = clone(where(ne(indices, ignoreIndex), g, 0));
    const hit = mul(mul(upstream, 1 - smoothing), weightsOf(indices, call));
    // of the probabilities: what is given to the target and to all
    const scale = smoothing > 0 ? add(hit, mul(mul(upstream, smoothing / classes), weightSum(call))) : hit;
    const d = invoke('crossEntropyBackward', logits.device, [scale, logits, safe, null, total, like(logits)], [NONE, 0])[0]!;
    // the kernel takes every row for one whose target is here
    const at = to(reshape(gather(logits, 1, unsqueeze(safe, 1)), total.shape), total.dtype);
    const exact = sub(mul(exp(sub(at, total)), scale), where(own, hit, 0));
    indexPut_(d, [arange(0, total.numel, 1, { dtype: 'int64', device: d.device }), safe], to(exact, d.dtype));
    if (smoothing > 0) {
      const even = mul(unsqueeze(mul(upstream, smoothing / classes), 1), localWeights(call));
      pointwiseInto('sub', 'same', d, [d, even]);
    }
    return [d, null, null];
  },
});

/** Of this rank's classes. */
function localWeights({ weight, start, length }: Call): Tensor | number {
  return weight ? narrow(weight, 0, start, length) : 1;
}

/** The sum of the weights of all classes. */
function weightSum({ weight, classes }: Call): Tensor | number {
  return weight ? sum(weight) : classes;
}
