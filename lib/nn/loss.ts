// Losses as modules: options once, tensors on every call.
import { type ClassLossOptions, type CrossEntropyOptions, crossEntropy, nllLoss } from '../ops/cross_entropy.js';
import { type CTCOptions, ctcLoss, type SequenceLengths } from '../ops/ctc_loss.js';
import { gaussianNllLoss, type LikelihoodOptions, poissonNllLoss } from '../ops/likelihood_loss.js';
import { binaryCrossEntropy, binaryCrossEntropyWithLogits, cosineSimilarity, huberLoss, klDiv, l1Loss, mseLoss, smoothL1Loss } from '../ops/loss.js';
import type { LossOptions } from '../ops/loss_pair.js';
import {
  cosineEmbeddingLoss,
  hingeEmbeddingLoss,
  type MarginOptions,
  type MultiMarginOptions,
  marginRankingLoss,
  multilabelSoftMarginLoss,
  multiMarginLoss,
  pairwiseDistance,
  softMarginLoss,
  type TripletMarginOptions,
  tripletMarginLoss,
} from '../ops/margin_loss.js';
import { type Every, withOptions } from '../options.js';
import type { Tensor } from '../tensor.js';
import { Module } from './module.js';

/** A loss module around a function of tensors and its options, whose names are those of `options`. */
function loss<A extends readonly Tensor[], O extends object>(
  fn: (...args: [...A, options?: O]) => Tensor,
  options: Every<O>,
): new (
  options?: O,
) => Module & {
  /** What the function of the same options gives. */
  forward(...tensors: A): Tensor;
} {
  return class extends Module {
    private readonly options: O;
    constructor(given?: O) {
      super();
      this.options = withOptions<Every<O>>(this.constructor.name, options, given);
    }
    override forward(...tensors: A): Tensor {
      return fn(...tensors, this.options);
    }
  };
}

/** @inline */
type Pair = [x: Tensor, target: Tensor];
type OptionsOf<F> = F extends (x: Tensor, target: Tensor, options?: infer O) => Tensor ? O : never;

// what is undefined has the function's default
const REDUCTION = { reduction: undefined };
const WEIGHT = { weight: undefined };
const MARGIN = { margin: undefined, ...REDUCTION };
const CLASSES = { ...WEIGHT, ignoreIndex: undefined, normalizer: undefined, dim: undefined, ...REDUCTION };
const LIKELIHOOD = { full: undefined, eps: undefined, ...REDUCTION };

/** `crossEntropy` as a module: logits with class indices or probabilities. */
export class CrossEntropyLoss extends loss<Pair, CrossEntropyOptions>(crossEntropy, { ...CLASSES, labelSmoothing: undefined }) {}
/** `nllLoss` as a module: log-probabilities with class indices. */
export class NLLLoss extends loss<Pair, ClassLossOptions>(nllLoss, CLASSES) {}
/** `mseLoss` as a module. */
export class MSELoss extends loss<Pair, LossOptions>(mseLoss, REDUCTION) {}
/** `l1Loss` as a module. */
export class L1Loss extends loss<Pair, LossOptions>(l1Loss, REDUCTION) {}
/** `huberLoss` as a module. */
export class HuberLoss extends loss<Pair, OptionsOf<typeof huberLoss>>(huberLoss, { delta: undefined, ...REDUCTION }) {}
/** `smoothL1Loss` as a module. */
export class SmoothL1Loss extends loss<Pair, OptionsOf<typeof smoothL1Loss>>(smoothL1Loss, { beta: undefined, ...REDUCTION }) {}
/** `binaryCrossEntropy` as a module: probabilities. */
export class BCELoss extends loss<Pair, OptionsOf<typeof binaryCrossEntropy>>(binaryCrossEntropy, { ...WEIGHT, ...REDUCTION }) {}
/** `binaryCrossEntropyWithLogits` as a module: logits. */
export class BCEWithLogitsLoss extends loss<Pair, OptionsOf<typeof binaryCrossEntropyWithLogits>>(binaryCrossEntropyWithLogits, {
  ...WEIGHT,
  posWeight: undefined,
  ...REDUCTION,
}) {}
/** `klDiv` as a module: log-probabilities from a target distribution. */
export class KLDivLoss extends loss<Pair, OptionsOf<typeof klDiv>>(klDiv, { logTarget: undefined, ...REDUCTION }) {}

/** `marginRankingLoss` as a module. */
export class MarginRankingLoss extends loss<[a: Tensor, b: Tensor, target: Tensor], MarginOptions>(marginRankingLoss, MARGIN) {}
/** `hingeEmbeddingLoss` as a module. */
export class HingeEmbeddingLoss extends loss<Pair, MarginOptions>(hingeEmbeddingLoss, MARGIN) {}
/** `cosineEmbeddingLoss` as a module. */
export class CosineEmbeddingLoss extends loss<[a: Tensor, b: Tensor, target: Tensor], MarginOptions>(cosineEmbeddingLoss, MARGIN) {}
/** `tripletMarginLoss` as a module. */
export class TripletMarginLoss extends loss<[anchor: Tensor, positive: Tensor, negative: Tensor], TripletMarginOptions>(tripletMarginLoss, {
  p: undefined,
  eps: undefined,
  swap: undefined,
  ...MARGIN,
}) {}
/** `softMarginLoss` as a module. */
export class SoftMarginLoss extends loss<Pair, LossOptions>(softMarginLoss, REDUCTION) {}
/** `multiMarginLoss` as a module. */
export class MultiMarginLoss extends loss<Pair, MultiMarginOptions>(multiMarginLoss, { p: undefined, ...WEIGHT, ...MARGIN }) {}
/** `multilabelSoftMarginLoss` as a module. */
export class MultiLabelSoftMarginLoss extends loss<Pair, OptionsOf<typeof multilabelSoftMarginLoss>>(multilabelSoftMarginLoss, { ...WEIGHT, ...REDUCTION }) {}
/** `gaussianNllLoss` as a module. */
export class GaussianNLLLoss extends loss<[x: Tensor, target: Tensor, variance: Tensor], LikelihoodOptions>(gaussianNllLoss, LIKELIHOOD) {}
/** `poissonNllLoss` as a module. */
export class PoissonNLLLoss extends loss<Pair, OptionsOf<typeof poissonNllLoss>>(poissonNllLoss, { logInput: undefined, ...LIKELIHOOD }) {}

const CTC: Every<CTCOptions> = { blank: undefined, zeroInfinity: undefined, ...REDUCTION };
/** `ctcLoss` as a module. */
export class CTCLoss extends Module {
  private readonly options: CTCOptions;
  constructor(options: CTCOptions = {}) {
    super();
    this.options = withOptions('CTCLoss', CTC, options);
  }
  /** Logarithms of probabilities `[T, N, C]` and targets `[N, S]`, or one after another, with the lengths of both. */
  override forward(logProbs: Tensor, targets: Tensor, inputLengths: SequenceLengths, targetLengths: SequenceLengths): Tensor {
    return ctcLoss(logProbs, targets, inputLengths, targetLengths, this.options);
  }
}

/** `cosineSimilarity` as a module. */
export class CosineSimilarity extends Module {
  constructor(
    /** Along which the vectors lie. Default 1. */
    readonly dim = 1,
    /** The smallest length that is divided by. Default 1e-8. */
    readonly eps = 1e-8,
  ) {
    super();
  }
  /** a and b of shapes that broadcast. */
  override forward(a: Tensor, b: Tensor): Tensor {
    return cosineSimilarity(a, b, this.dim, this.eps);
  }
}

/** `pairwiseDistance` as a module. */
export class PairwiseDistance extends Module {
  constructor(
    /** Order of the norm. Default 2. */
    readonly p = 2,
    /** Added to differences. Default 1e-6. */
    readonly eps = 1e-6,
    /** Whether the last dimension is kept, with size 1. Default false. */
    readonly keepdim = false,
  ) {
    super();
  }
  /** a and b of one shape. */
  override forward(a: Tensor, b: Tensor): Tensor {
    return pairwiseDistance(a, b, this.p, this.eps, this.keepdim);
  }
}
