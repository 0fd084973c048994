// Losses that are 0 beyond a margin: of rankings, pairs, triplets and classes.
import { arange } from '../create.js';
import { ShapeError, ValueError } from '../errors.js';
import { checkDim, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFinite, checkFlag, checkFloat, checkIndices, checkParameter, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { where } from './blend.js';
import { type Reduction, reduceLoss } from './cross_entropy.js';
import { deviceOf } from './door.js';
import { gather, indexSelect } from './gather.js';
import { binaryCrossEntropyWithLogits } from './loss.js';
import { checkPair, type LossOptions, reductionOf } from './loss_pair.js';
import { add, div, eq, minimum, mul, ne, neg, pow, relu, softplus, sqrt, sub } from './pointwise.js';
import { mean, norm, sum, sumSquares } from './reduce.js';
import { select, unsqueeze } from './view.js';

/** A loss with a margin. */
export interface MarginOptions extends LossOptions {
  /** Where the loss ends. */
  margin?: number;
}

function marginOf(options: MarginOptions | undefined, otherwise: number, op: string): number {
  return checkFinite(optionsOf(options, op).margin ?? otherwise, 'margin', op);
}

/**
 * max(0, margin − target·(a − b)): a is to be ranked above b where the target is 1, below where it is −1. All shapes must be equal.
 * @param options.margin Default 0
 */
export const marginRankingLoss = autocasts('marginRankingLoss', (a: Tensor, b: Tensor, target: Tensor, options?: MarginOptions): Tensor => {
  const op = 'marginRankingLoss';
  checkPair(a, b, op, 'first input and second input');
  checkPair(a, target, op);
  return reduceLoss(relu(add(mul(neg(target), sub(a, b)), marginOf(options, 0, op))), reductionOf(options, op));
});

/**
 * Of distances x: x where the target is 1, max(0, margin − x) where it is −1. Shapes must be equal.
 * @param options.margin Default 1
 */
export const hingeEmbeddingLoss = autocasts('hingeEmbeddingLoss', (x: Tensor, target: Tensor, options?: MarginOptions): Tensor => {
  const op = 'hingeEmbeddingLoss';
  checkPair(x, target, op);
  const apart = where(ne(target, 1), relu(add(neg(x), marginOf(options, 1, op))), 0);
  return reduceLoss(add(apart, where(ne(target, -1), x, 0)), reductionOf(options, op));
});

/**
 * Of vectors a and b [N, D] or [D]: 1 − cos(a, b) where the target [N] or [] is 1, max(0, cos(a, b) − margin) where it is −1.
 * @param options.margin from −1 to 1. Default 0
 */
export const cosineEmbeddingLoss = autocasts('cosineEmbeddingLoss', (a: Tensor, b: Tensor, target: Tensor, options?: MarginOptions): Tensor => {
  const op = 'cosineEmbeddingLoss';
  checkPair(a, b, op, 'first input and second input');
  checkTensor(target, op, 'the target');
  deviceOf(op, [a, target]);
  if (a.ndim < 1 || a.ndim > 2 || !sameShape(target.shape, a.shape.slice(0, -1)))
    throw new ShapeError(`${op}: expected inputs [N, D] and a target [N], or [D] and [], got ${showShape(a.shape)} and ${showShape(target.shape)}`);
  const tiny = 1e-12; // where PyTorch has it, so that zeros have a gradient
  const lengths = sqrt(mul(add(sumSquares(a, -1), tiny), add(sumSquares(b, -1), tiny)));
  const cosine = div(sum(mul(a, b), -1), lengths);
  const alike = where(eq(target, 1), add(neg(cosine), 1), 0);
  const unlike = where(eq(target, -1), relu(sub(cosine, marginOf(options, 0, op))), 0);
  return reduceLoss(add(alike, unlike), reductionOf(options, op));
});

/** ‖a − b + eps‖ of order `p` over the last dimension: a distance that has a gradient where a and b are equal. Shapes must be equal. */
export const pairwiseDistance = autocasts('pairwiseDistance', (a: Tensor, b: Tensor, p = 2, eps = 1e-6, keepdim = false): Tensor => {
  const op = 'pairwiseDistance';
  checkPair(a, b, op, 'first input and second input');
  if (a.ndim === 0) throw new ShapeError(`${op}: expected vectors, got tensors without dimensions`);
  checkFinite(eps, 'eps', op);
  return norm(add(sub(a, b), eps), p, -1, keepdim);
});

/** Options of `tripletMarginLoss`. */
export interface TripletMarginOptions extends MarginOptions {
  /** Order of the norm. Default 2. */
  p?: number;
  /** Added to differences. Default 1e-6. */
  eps?: number;
  /** Take the distance of positive and negative where it is smaller (Balntas et al., 2016). Default false. */
  swap?: boolean;
}

/**
 * max(0, d(anchor, positive) − d(anchor, negative) + margin) (Schroff et al., 2015) of [N, D] or [D], with `pairwiseDistance`.
 * @param options.margin Default 1
 */
export const tripletMarginLoss = autocasts(
  'tripletMarginLoss',
  (anchor: Tensor, positive: Tensor, negative: Tensor, options?: TripletMarginOptions): Tensor => {
    const op = 'tripletMarginLoss';
    checkPair(anchor, positive, op, 'anchor and positive');
    checkPair(anchor, negative, op, 'anchor and negative');
    const { p = 2, eps = 1e-6, swap = false } = optionsOf(options, op);
    checkFlag(swap, 'swap', op);
    const near = pairwiseDistance(anchor, positive, p, eps);
    const far = pairwiseDistance(anchor, negative, p, eps);
    const apart = swap ? minimum(far, pairwiseDistance(positive, negative, p, eps)) : far;
    return reduceLoss(relu(add(sub(near, apart), marginOf(options, 1, op))), reductionOf(options, op));
  },
);

/** ln(1 + e^(−target·x)) of targets 1 and −1. Shapes must be equal. */
export const softMarginLoss = autocasts('softMarginLoss', (x: Tensor, target: Tensor, options?: LossOptions): Tensor => {
  checkPair(x, target, 'softMarginLoss');
  return reduceLoss(softplus(mul(neg(target), x)), reductionOf(options, 'softMarginLoss'));
});

/** Options of `multiMarginLoss`. */
export interface MultiMarginOptions extends MarginOptions {
  /** 1, or 2 for squares. Default 1. */
  p?: number;
  /** A factor for every class, [C]. */
  weight?: Tensor | null;
}

/**
 * Σ max(0, margin − x[target] + x[i])^p / C over the classes i that are not the target, of x [N, C] or [C] and class indices [N] or [].
 * @param options.margin Default 1
 */
export const multiMarginLoss = autocasts('multiMarginLoss', (x: Tensor, target: Tensor, options?: MultiMarginOptions): Tensor => {
  const op = 'multiMarginLoss';
  checkFloat(x, op);
  checkIndices(target, op, 'the target');
  deviceOf(op, [x, target]);
  if (x.ndim < 1 || x.ndim > 2 || !sameShape(target.shape, x.shape.slice(0, -1)))
    throw new ShapeError(`${op}: expected [N, C] and a target [N], or [C] and [], got ${showShape(x.shape)} and ${showShape(target.shape)}`);
  const o = optionsOf(options, op);
  const p = o.p ?? 1;
  if (p !== 1 && p !== 2) throw new ValueError(`${op}: p must be 1 or 2, got ${p}`);
  const classes = x.shape[x.ndim - 1]!;
  const weight = checkParameter(o.weight, [classes], op, 'the class weight');
  const at = unsqueeze(target, -1);
  const over = relu(add(sub(x, gather(x, -1, at)), marginOf(options, 1, op)));
  const losses = where(eq(arange(0, classes, 1, { device: x.device }), at), 0, p === 2 ? pow(over, 2) : over);
  const each = div(sum(losses, -1), classes);
  if (weight === null) return reduceLoss(each, reductionOf(options, op));
  // a target without dimensions names one weight
  const own = target.ndim === 0 ? select(indexSelect(weight, 0, at), 0, 0) : indexSelect(weight, 0, target);
  return reduceLoss(mul(each, own), reductionOf(options, op));
});

/**
 * The mean over the last dimension of `binaryCrossEntropyWithLogits`: several labels a sample, x and target [.., C].
 * @param options.weight multiplies each class; broadcasts to x
 */
export const multilabelSoftMarginLoss = autocasts(
  'multilabelSoftMarginLoss',
  (x: Tensor, target: Tensor, options?: LossOptions & { weight?: Tensor | null }): Tensor => {
    const op = 'multilabelSoftMarginLoss';
    checkPair(x, target, op);
    checkDim(-1, x.ndim, op);
    const { weight } = optionsOf(options, op);
    const each: Reduction = 'none';
    return reduceLoss(mean(binaryCrossEntropyWithLogits(x, target, { weight, reduction: each }), -1), reductionOf(options, op));
  },
);
