// Losses that compare two tensors of one shape, element by element.
import { ShapeError, ValueError } from '../errors.js';
import { broadcastShapes, checkDim, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkChoice, checkFinite, checkFlag, checkFloat, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { where } from './blend.js';
import { type Reduction, reduceLoss } from './cross_entropy.js';
import { deviceOf } from './door.js';
import { checkPair, type LossOptions, reductionOf } from './loss_pair.js';
import { abs, add, div, eq, exp, log, logSigmoid, maximum, mul, neg, square, sub, xlogy } from './pointwise.js';
import { apply } from './pointwise_table.js';
import { norm, sum } from './reduce.js';
import { expand, reshape } from './view.js';

export { type ClassLossOptions, type CrossEntropyOptions, crossEntropy, nllLoss, type Reduction } from './cross_entropy.js';
export { type LinearCrossEntropyOptions, linearCrossEntropy } from './linear_cross_entropy.js';

export type { LossOptions } from './loss_pair.js';

/** (x − target)², the mean of all elements unless `reduction` says otherwise. Shapes must be equal: nothing is broadcast. */
export const mseLoss = autocasts('mseLoss', (x: Tensor, target: Tensor, options?: LossOptions): Tensor => {
  checkPair(x, target, 'mseLoss');
  return reduceLoss(square(sub(x, target)), reductionOf(options, 'mseLoss'));
});

/** |x − target|, the mean of all elements unless `reduction` says otherwise. Shapes must be equal: nothing is broadcast. */
export const l1Loss = autocasts('l1Loss', (x: Tensor, target: Tensor, options?: LossOptions): Tensor => {
  checkPair(x, target, 'l1Loss');
  return reduceLoss(abs(sub(x, target)), reductionOf(options, 'l1Loss'));
});

/**
 * ½d² where d = |x − target| ≤ delta, else delta·(d − ½delta) (Huber, 1964). Shapes must be equal.
 * @param options.delta above 0. Default 1
 */
export const huberLoss = autocasts('huberLoss', (x: Tensor, target: Tensor, options?: LossOptions & { delta?: number }): Tensor => {
  checkPair(x, target, 'huberLoss');
  const delta = checkFinite(optionsOf(options, 'huberLoss').delta ?? 1, 'delta', 'huberLoss', 0);
  if (delta === 0) throw new ValueError('huberLoss: delta must be above 0, got 0');
  return reduceLoss(apply('huber', x, target, delta), reductionOf(options, 'huberLoss'));
});

/**
 * ½d²/beta where d = |x − target| < beta, else d − ½beta (Girshick, 2015). Shapes must be equal.
 * @param options.beta 0 makes it l1Loss. Default 1
 */
export const smoothL1Loss = autocasts('smoothL1Loss', (x: Tensor, target: Tensor, options?: LossOptions & { beta?: number }): Tensor => {
  checkPair(x, target, 'smoothL1Loss');
  const beta = checkFinite(optionsOf(options, 'smoothL1Loss').beta ?? 1, 'beta', 'smoothL1Loss', 0);
  return beta === 0 ? l1Loss(x, target, options) : reduceLoss(apply('smoothL1', x, target, beta), reductionOf(options, 'smoothL1Loss'));
});

/**
 * −t·ln σ(x) − (1 − t)·ln(1 − σ(x)), without overflow. Shapes of x and target must be equal.
 * @param options.weight multiplies each loss; broadcasts to x
 * @param options.posWeight multiplies the part of the positive class; broadcasts to x
 */
export const binaryCrossEntropyWithLogits = autocasts(
  'binaryCrossEntropyWithLogits',
  (x: Tensor, target: Tensor, options?: LossOptions & { weight?: Tensor | null; posWeight?: Tensor | null }): Tensor => {
    const op = 'binaryCrossEntropyWithLogits';
    checkPair(x, target, op);
    const { weight, posWeight } = optionsOf(options, op);
    let loss: Tensor;
    if (posWeight === undefined || posWeight === null) loss = apply('bceWithLogits', x, target);
    else {
      checkFactor(posWeight, x, op, 'posWeight');
      // (1 − t)·x − (1 + (w − 1)·t)·ln σ(x)
      const factor = add(mul(sub(posWeight, 1), target), 1);
      loss = sub(sub(x, mul(x, target)), mul(factor, logSigmoid(x)));
    }
    return reduceLoss(weighted(loss, weight, op), reductionOf(options, op));
  },
);

/**
 * −t·ln p − (1 − t)·ln(1 − p) of probabilities p in [0, 1]. Logarithms are limited to −100 as in PyTorch, so that a certain mistake costs
 * 100; it has no gradient there. binaryCrossEntropyWithLogits is exact everywhere.
 * @param options.weight multiplies each loss; broadcasts to p
 */
export const binaryCrossEntropy = autocasts('binaryCrossEntropy', (p: Tensor, target: Tensor, options?: LossOptions & { weight?: Tensor | null }): Tensor => {
  const op = 'binaryCrossEntropy';
  checkPair(p, target, op);
  const negative = mul(oneMinus(target), limitedLog(oneMinus(p)));
  const loss = neg(add(mul(target, limitedLog(p)), negative));
  return reduceLoss(weighted(loss, optionsOf(options, op).weight, op), reductionOf(options, op));
});

const oneMinus = (x: Tensor): Tensor => add(neg(x), 1);

/** max(ln p, −100); the logarithm never sees 0, whose slope would turn the gradient into NaN. */
function limitedLog(p: Tensor): Tensor {
  const zero = eq(p, 0);
  return where(zero, -100, maximum(log(where(zero, 1, p)), -100));
}

function weighted(loss: Tensor, weight: unknown, op: string): Tensor {
  if (weight === undefined || weight === null) return loss;
  checkFactor(weight, loss, op, 'the weight');
  return mul(loss, weight);
}

/** A factor of the losses, which broadcasts to them and not they to it. */
function checkFactor(factor: unknown, x: Tensor, op: string, name: string): asserts factor is Tensor {
  checkTensor(factor, op, name);
  deviceOf(op, [x, factor]);
  if (!sameShape(broadcastShapes(x.shape, factor.shape, `${op}: ${name}`), x.shape)) {
    throw new ShapeError(`${op}: ${name} ${showShape(factor.shape)} does not broadcast to ${showShape(x.shape)}`);
  }
}

/**
 * Kullback–Leibler divergence target·(ln target − x) of log probabilities x from probabilities.
 * @param options.reduction `mean` (default), `sum`, `none`, or `batchmean`: the sum divided by the first dimension, the mathematical
 * definition
 * @param options.logTarget whether the target is log probabilities too. Default false
 */
export const klDiv = autocasts('klDiv', (x: Tensor, target: Tensor, options?: { reduction?: Reduction | 'batchmean'; logTarget?: boolean }): Tensor => {
  checkPair(x, target, 'klDiv');
  const o = optionsOf(options, 'klDiv');
  const reduction = checkChoice(o.reduction ?? 'mean', ['mean', 'sum', 'none', 'batchmean'], 'reduction', 'klDiv');
  const loss = checkFlag(o.logTarget ?? false, 'logTarget', 'klDiv') ? mul(exp(target), sub(target, x)) : sub(xlogy(target, target), mul(target, x));
  return reduction === 'batchmean' ? div(sum(loss), x.shape[0] ?? 1) : reduceLoss(loss, reduction);
});

/** a·b / (max(‖a‖, eps)·max(‖b‖, eps)) along `dim`; a and b broadcast. */
export const cosineSimilarity = autocasts('cosineSimilarity', (a: Tensor, b: Tensor, dim = 1, eps = 1e-8): Tensor => {
  checkFloat(a, 'cosineSimilarity', 'a');
  checkFloat(b, 'cosineSimilarity', 'b');
  deviceOf('cosineSimilarity', [a, b]);
  checkFinite(eps, 'eps', 'cosineSimilarity', 0);
  const shape = broadcastShapes(a.shape, b.shape, 'cosineSimilarity');
  const d = checkDim(dim, shape.length, 'cosineSimilarity');
  if (shape.length === 0) return cosineSimilarity(reshape(a, [1]), reshape(b, [1]), 0, eps);
  const [x, y] = [expand(a, shape), expand(b, shape)];
  const length = (z: Tensor): Tensor => maximum(norm(z, 2, d), eps);
  return div(sum(mul(x, y), d), mul(length(x), length(y)));
});
