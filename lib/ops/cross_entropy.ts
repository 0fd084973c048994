// Classification losses. Cross-entropy on class indices is one fused kernel that never stores probabilities; its sum of losses
// and sum of weights come back together, so every reduction is one more small op.

import { record, recording } from '../autograd/node.js';
import { context } from '../context.js';
import { isFloating } from '../dtype.js';
import { AutogradError, ShapeError, ValueError } from '../errors.js';
import { checkDim, checkInteger, checkNumber, numel, type Shape, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { checkChoice, checkFloat, checkIndices, checkParameter, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { where } from './blend.js';
import { to } from './copy.js';
import { deviceOf, fresh, invoke } from './door.js';
import { gather, indexSelect } from './gather.js';
import { wideType } from './matmul.js';
import { add, div, eq, lt, mul, ne, neg } from './pointwise.js';
import { mean, sum } from './reduce.js';
import { logSoftmax } from './softmax.js';
import { movedim, reshape, select, unsqueeze } from './view.js';

/** What becomes of the losses of all elements or rows: their mean, their sum, or all of them. */
export type Reduction = 'mean' | 'sum' | 'none';
const REDUCTIONS = ['mean', 'sum', 'none'] as const;

/** Options of `nllLoss` and `crossEntropy`. */
export interface ClassLossOptions {
  /** A factor for every class, [C]. */
  weight?: Tensor | null;
  /** Rows with this target lose nothing and do not count; −100 by default. */
  ignoreIndex?: number;
  /** `mean` (default) divides by the weights of the rows that count, `none` keeps one loss a row. */
  reduction?: Reduction;
  /**
   * Divides the sum of the losses by this instead, a number or a one-element tensor: a count over all ranks and micro-batches, as
   * `countValid` of shardgrad/distributed gives it. Where nothing counts (0), the loss is 0. For gradients that are summed over ranks.
   */
  normalizer?: number | Tensor;
  /** The dimension of the classes; needed only where two would fit. */
  dim?: number;
}

/** As ClassLossOptions, with label smoothing. */
export interface CrossEntropyOptions extends ClassLossOptions {
  /** Share of the target, in [0, 1], that is spread evenly over all classes (Szegedy et al., 2016). Default 0. */
  labelSmoothing?: number;
}

export function reduceLoss(loss: Tensor, reduction: Reduction): Tensor {
  return reduction === 'none' ? loss : reduction === 'sum' ? sum(loss) : mean(loss);
}

export function checkReduction(reduction: unknown, op: string): Reduction {
  return checkChoice(reduction, REDUCTIONS, 'reduction', op);
}

export interface Settings {
  readonly weight: Tensor | null;
  readonly ignoreIndex: number;
  readonly reduction: Reduction;
  readonly normalizer: number | Tensor | null;
}

/** The checked options of a loss over `classes`. */
export function settingsOf(o: ClassLossOptions, classes: number, op: string): Settings {
  const weight = checkParameter(o.weight, [classes], op, 'the class weight');
  if (weight?.requiresGrad && context().gradEnabled) throw new AutogradError(`${op}: the class weight has no gradient; detach() it`);
  const reduction = checkReduction(o.reduction ?? 'mean', op);
  const normalizer = o.normalizer ?? null;
  if (normalizer instanceof Tensor) {
    checkTensor(normalizer, op, 'the normalizer');
    if (normalizer.numel !== 1) throw new ShapeError(`${op}: the normalizer must have one element, got ${showShape(normalizer.shape)}`);
    if (normalizer.requiresGrad && context().gradEnabled) throw new AutogradError(`${op}: the normalizer has no gradient; detach() it`);
  } else if (normalizer !== null && !Number.isFinite(checkNumber(normalizer, 'normalizer', op))) {
    throw new ValueError(`${op}: the normalizer must be finite, got ${normalizer}`);
  }
  if (normalizer !== null && reduction === 'none') throw new ValueError(`${op}: a normalizer needs a reduction other than none`);
  return { weight, ignoreIndex: checkInteger(o.ignoreIndex ?? -100, 'ignoreIndex', op), reduction, normalizer };
}

function checkDevices(x: Tensor, targets: Tensor, { weight, normalizer }: Settings, op: string): void {
  deviceOf(op, [x, targets, weight, normalizer]);
}

/**
 * Where the classes of logits are: dimension 1 (0 of a vector) as in PyTorch, or the last one when the targets have the
 * shape of all others. Where both fit, guessing would train the wrong thing without a word, so `dim` must say it.
 */
function classDim(logits: Tensor, targets: Tensor, dim: number | undefined, op: string): number {
  if (logits.ndim === 0) throw new ShapeError(`${op}: the logits need a dimension of classes, got []`);
  const last = logits.ndim - 1;
  const first = Math.min(1, last);
  const soft = sameShape(logits.shape, targets.shape) && isFloating(targets.dtype);
  if (dim !== undefined) {
    const d = checkDim(dim, logits.ndim, op);
    if (!soft && !sameShape(without(logits.shape, d), targets.shape)) throw misfit(logits, targets, op);
    return d;
  }
  if (soft) return first;
  const fits = (d: number): boolean => sameShape(without(logits.shape, d), targets.shape);
  if (!fits(first) && !fits(last)) throw misfit(logits, targets, op);
  if (fits(first) && fits(last) && first !== last) {
    throw new ValueError(
      `${op}: the classes of ${showShape(logits.shape)} may be dimension ${first} or ${last} for targets ${showShape(targets.shape)}; say which with { dim }`,
    );
  }
  return fits(first) ? first : last;
}

const without = (shape: Shape, d: number): Shape => shape.filter((_, i) => i !== d);

function misfit(logits: Tensor, targets: Tensor, op: string): ShapeError {
  return new ShapeError(`${op}: targets ${showShape(targets.shape)} are not logits ${showShape(logits.shape)} without a dimension of classes`);
}

/**
 * −ln softmax(logits)[target], the loss of classification. Logits are [N, C], [C], [N, C, d…] or [.., C]; targets are class
 * indices (int32 or int64) of the shape without classes, or class probabilities of the logits' shape. With indices the loss
 * is float32 (float64 for float64), whatever the logits: it is never rounded to 16 bits.
 */
export function crossEntropy(logits: Tensor, targets: Tensor, options?: CrossEntropyOptions): Tensor {
  const op = 'crossEntropy';
  checkFloat(logits, op, 'the logits');
  checkTensor(targets, op, 'the targets');
  const o = optionsOf(options, op);
  const smoothing = checkNumber(o.labelSmoothing ?? 0, 'labelSmoothing', op, 0, 1);
  const dim = classDim(logits, targets, o.dim, op);
  const settings = settingsOf(o, logits.shape[dim]!, op);
  checkDevices(logits, targets, settings, op);
  if (isFloating(targets.dtype)) return softCrossEntropy(logits, targets, dim, smoothing, settings, o.ignoreIndex);
  checkIndices(targets, op, 'the targets');
  return fusedCrossEntropy(logits, targets, dim, smoothing, settings);
}

function fusedCrossEntropy(logits: Tensor, targets: Tensor, dim: number, smoothing: number, settings: Settings): Tensor {
  const { weight, ignoreIndex, reduction } = settings;
  const classes = logits.shape[dim]!;
  const rows = numel(targets.shape);
  const flat = reshape(dim === logits.ndim - 1 ? logits : movedim(logits, dim, -1), [rows, classes]);
  const indices = reshape(targets, [rows]);
  const wide = wideType(logits.dtype);
  const [rowLoss, lse, totals] = invoke(
    'crossEntropy',
    deviceOf('crossEntropy', [flat, indices, weight]),
    [flat, indices, weight, fresh([rows], wide), fresh([rows], wide), fresh([2], wide), null],
    [ignoreIndex, smoothing, 0],
  ) as [Tensor, Tensor, Tensor];
  const loss = reduction === 'none' ? rowLoss : select(totals, 0, 0);
  loss.isView = false; // nobody else sees the totals
  if (recording([flat])) record('crossEntropy', [flat, indices, weight], [loss, lse], { ignoreIndex, smoothing });
  else lse.dispose();
  if (reduction === 'none') return reshape(loss, targets.shape);
  return divided(loss, settings, () => select(totals, 0, 1));
}

/** The sum of losses over what the settings divide it by. */
export function divided(total: Tensor, settings: Settings, count?: () => Tensor): Tensor {
  if (settings.normalizer !== null) return normalized(total, settings.normalizer);
  return settings.reduction === 'sum' || !count ? total : div(total, count());
}

/** A node of its own, so that who averages gradients over ranks finds in backward that this was done here. */
function normalized(total: Tensor, normalizer: number | Tensor): Tensor {
  // the sum of nothing is 0, whatever divides it
  const divisor = normalizer instanceof Tensor ? to(where(eq(normalizer, 0), 1, normalizer), total.dtype) : normalizer || 1;
  const loss = reshape(div(total.detach(), divisor), []);
  loss.isView = false; // nobody else sees the quotient
  if (recording([total])) record('normalize', [total, divisor], [loss], undefined);
  return loss;
}

/** Against class probabilities: −Σ p·ln softmax(x), a row counting 1. */
function softCrossEntropy(logits: Tensor, targets: Tensor, dim: number, smoothing: number, settings: Settings, ignoreIndex: unknown): Tensor {
  const op = 'crossEntropy';
  if (!sameShape(logits.shape, targets.shape))
    throw new ShapeError(`${op}: class probabilities ${showShape(targets.shape)} must have the shape of the logits ${showShape(logits.shape)}`);
  if (ignoreIndex !== undefined && settings.ignoreIndex >= 0)
    throw new ValueError(`${op}: ignoreIndex ${settings.ignoreIndex} has no meaning with class probabilities`);
  const classes = logits.shape[dim]!;
  const p = smoothing > 0 ? add(mul(targets, 1 - smoothing), smoothing / classes) : targets;
  const weighted =
    settings.weight === null
      ? p
      : mul(
          p,
          reshape(
            settings.weight,
            logits.shape.map((_, i) => (i === dim ? classes : 1)),
          ),
        );
  const loss = neg(sum(mul(weighted, logSoftmax(logits, dim)), dim));
  if (settings.reduction === 'none') return loss;
  return settings.reduction === 'mean' && settings.normalizer === null ? mean(loss) : divided(sum(loss), settings);
}

/** The negative log likelihood −x[target] of log probabilities, as crossEntropy without its softmax. */
export const nllLoss = autocasts('nllLoss', (logProbabilities: Tensor, targets: Tensor, options?: ClassLossOptions): Tensor => {
  const op = 'nllLoss';
  checkFloat(logProbabilities, op, 'the log probabilities');
  checkIndices(targets, op, 'the targets');
  const o = optionsOf(options, op);
  const dim = classDim(logProbabilities, targets, o.dim, op);
  const settings = settingsOf(o, logProbabilities.shape[dim]!, op);
  checkDevices(logProbabilities, targets, settings, op);
  const counts = ne(targets, settings.ignoreIndex);
  // gather would count a negative class from the end: past the end it is the error it should be
  const safe = where(counts, where(lt(targets, 0), logProbabilities.shape[dim]!, targets), 0);
  const picked = reshape(gather(logProbabilities, dim, unsqueeze(safe, dim)), targets.shape);
  const ones = settings.weight === null ? null : reshape(indexSelect(settings.weight, 0, reshape(safe, [safe.numel])), targets.shape);
  const loss = where(counts, neg(ones === null ? picked : mul(picked, ones)), 0);
  if (settings.reduction === 'none') return loss;
  return divided(sum(loss), settings, () => sum(ones === null ? counts : where(counts, ones, 0)));
});
