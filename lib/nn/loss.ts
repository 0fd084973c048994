// Losses as modules: options once, tensors on every call.
import { type ClassLossOptions, type CrossEntropyOptions, crossEntropy, nllLoss } from '../ops/cross_entropy.js';
import { binaryCrossEntropy, binaryCrossEntropyWithLogits, huberLoss, klDiv, l1Loss, mseLoss, smoothL1Loss } from '../ops/loss.js';
import type { Tensor } from '../tensor.js';
import { Module } from './module.js';

type LossFunction<O> = (x: Tensor, target: Tensor, options?: O) => Tensor;

/** A loss module around a function and its options. */
function loss<O>(fn: LossFunction<O>): new (
  options?: O,
) => Module & {
  /** What the function of the same options gives. */
  forward(x: Tensor, target: Tensor): Tensor;
} {
  return class extends Module {
    constructor(private readonly options?: O) {
      super();
    }
    override forward(x: Tensor, target: Tensor): Tensor {
      return fn(x, target, this.options);
    }
  };
}

type OptionsOf<F> = F extends (x: Tensor, target: Tensor, options?: infer O) => Tensor ? O : never;

/** `crossEntropy` as a module: logits with class indices or probabilities. */
export class CrossEntropyLoss extends loss<CrossEntropyOptions>(crossEntropy) {}
/** `nllLoss` as a module: log-probabilities with class indices. */
export class NLLLoss extends loss<ClassLossOptions>(nllLoss) {}
/** `mseLoss` as a module. */
export class MSELoss extends loss<OptionsOf<typeof mseLoss>>(mseLoss) {}
/** `l1Loss` as a module. */
export class L1Loss extends loss<OptionsOf<typeof l1Loss>>(l1Loss) {}
/** `huberLoss` as a module. */
export class HuberLoss extends loss<OptionsOf<typeof huberLoss>>(huberLoss) {}
/** `smoothL1Loss` as a module. */
export class SmoothL1Loss extends loss<OptionsOf<typeof smoothL1Loss>>(smoothL1Loss) {}
/** `binaryCrossEntropy` as a module: probabilities. */
export class BCELoss extends loss<OptionsOf<typeof binaryCrossEntropy>>(binaryCrossEntropy) {}
/** `binaryCrossEntropyWithLogits` as a module: logits. */
export class BCEWithLogitsLoss extends loss<OptionsOf<typeof binaryCrossEntropyWithLogits>>(binaryCrossEntropyWithLogits) {}
/** `klDiv` as a module: log-probabilities from a target distribution. */
export class KLDivLoss extends loss<OptionsOf<typeof klDiv>>(klDiv) {}
