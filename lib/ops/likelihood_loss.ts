// Losses that are negative logarithms of a density: normal with a variance that is predicted too, and Poisson.
import { ShapeError } from '../errors.js';
import { sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { checkFinite, checkFlag, checkFloat, checkOperand, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { clamp, where } from './blend.js';
import { reduceLoss } from './cross_entropy.js';
import { deviceOf } from './door.js';
import { checkPair, type LossOptions, reductionOf } from './loss_pair.js';
import { add, div, exp, gt, log, mul, square, sub } from './pointwise.js';
import { unsqueeze } from './view.js';

/** Options of `gaussianNllLoss` and `poissonNllLoss`. */
export interface LikelihoodOptions extends LossOptions {
  /** Add what does not depend on the input, so that the loss is the whole logarithm. Default false. */
  full?: boolean;
  /** The smallest variance (default 1e-6), or what is added to a rate before its logarithm (default 1e-8). */
  eps?: number;
}

/**
 * ½(ln v + (x − target)²/v) of a normal distribution with mean x and variance v (Nix & Weigend, 1994). A variance below `eps` counts as `eps`, and
 * its gradient is that of `eps`. The variance has the shape of x, or lacks its last dimension or has size 1 in one, or is a number.
 */
export const gaussianNllLoss = autocasts('gaussianNllLoss', (x: Tensor, target: Tensor, variance: Tensor | number, options?: LikelihoodOptions): Tensor => {
  const op = 'gaussianNllLoss';
  checkPair(x, target, op);
  const { full = false, eps = 1e-6 } = optionsOf(options, op);
  checkFinite(eps, 'eps', op, 0);
  const v = varianceFor(x, variance, op);
  const floor = typeof v === 'number' ? Math.max(v, eps) : add(v, sub(clamp(v.detach(), eps), v.detach()));
  const logarithm = typeof floor === 'number' ? Math.log(floor) : log(floor);
  const loss = mul(add(div(square(sub(x, target)), floor), logarithm), 0.5);
  return reduceLoss(checkFlag(full, 'full', op) ? add(loss, Math.log(2 * Math.PI) / 2) : loss, reductionOf(options, op));
});

function varianceFor(x: Tensor, variance: Tensor | number, op: string): Tensor | number {
  checkOperand(op, variance, 'the variance');
  if (!(variance instanceof Tensor)) return checkFinite(variance, 'the variance', op, 0);
  checkFloat(variance, op, 'the variance');
  deviceOf(op, [x, variance]);
  if (sameShape(x.shape, variance.shape)) return variance;
  if (x.ndim > 0 && sameShape(x.shape.slice(0, -1), variance.shape)) return unsqueeze(variance, -1);
  const differing = x.shape.flatMap((s, d) => (variance.shape[d] === s ? [] : [variance.shape[d]]));
  if (variance.ndim !== x.ndim || differing.length !== 1 || differing[0] !== 1)
    throw new ShapeError(`${op}: the variance ${showShape(variance.shape)} does not fit the input ${showShape(x.shape)}`);
  return variance;
}

/**
 * e^x − target·x of a Poisson distribution with the rate e^x, or x − target·ln(x + eps) with the rate x. Shapes must be equal.
 * @param options.logInput whether x is the logarithm of the rate. Default true
 * @param options.full adds Stirling's approximation of ln(target!) where the target is above 1. Default false
 */
export const poissonNllLoss = autocasts('poissonNllLoss', (x: Tensor, target: Tensor, options?: LikelihoodOptions & { logInput?: boolean }): Tensor => {
  const op = 'poissonNllLoss';
  checkPair(x, target, op);
  const { logInput = true, full = false, eps = 1e-8 } = optionsOf(options, op);
  checkFinite(eps, 'eps', op, 0);
  const isLog = checkFlag(logInput, 'logInput', op);
  const loss = isLog ? sub(exp(x), mul(target, x)) : sub(x, mul(target, log(add(x, eps))));
  return reduceLoss(checkFlag(full, 'full', op) ? add(loss, stirling(target)) : loss, reductionOf(options, op));
});

function stirling(target: Tensor): Tensor {
  const isLarge = gt(target, 1);
  const t = where(isLarge, target, 2); // whose logarithm is harmless
  return where(isLarge, add(sub(mul(t, log(t)), t), mul(log(mul(t, 2 * Math.PI)), 0.5)), 0);
}
