// Activations made of other functions: rarely where the time goes, so no kernels of their own. Where one is not smooth, the gradient is PyTorch's.

import { ShapeError, ValueError } from '../errors.js';
import { checkDim, checkNumber, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFinite, checkFloat } from './arguments.js';
import { autocasts } from './autocast.js';
import { clamp, elu, where } from './blend.js';
import { deviceOf } from './door.js';
import { abs, add, div, gt, le, mul, neg, sigmoid, sub, tanh } from './pointwise.js';
import { softmax } from './softmax.js';
import { narrow, reshape } from './view.js';

/** x, or weight·x below 0 (He et al., 2015). The weight has one element, or one for each channel, which are dimension 1 of x. */
export const prelu = autocasts('prelu', (x: Tensor, weight: Tensor): Tensor => {
  checkFloat(x, 'prelu');
  checkFloat(weight, 'prelu', 'the weight');
  deviceOf('prelu', [x, weight]);
  const channels = x.ndim > 1 ? x.shape[1]! : 1;
  if (weight.ndim > 1 || (weight.numel !== 1 && weight.numel !== channels))
    throw new ShapeError(`prelu: the weight must be [1] or [${channels}] for ${showShape(x.shape)}, got ${showShape(weight.shape)}`);
  const shape = weight.numel === 1 ? [] : x.shape.map((_, d) => (d === 1 ? channels : 1));
  return where(gt(x, 0), x, mul(reshape(weight, shape), x));
});

/** a·σ(b) of the two halves of dimension `dim` (Dauphin et al., 2017). */
export function glu(x: Tensor, dim = -1): Tensor {
  checkFloat(x, 'glu');
  const d = checkDim(dim, x.ndim, 'glu');
  const size = x.shape[d] ?? 1;
  if (size % 2 !== 0) throw new ShapeError(`glu: dimension ${d} of ${showShape(x.shape)} must be even`);
  return mul(narrow(x, d, 0, size / 2), sigmoid(narrow(x, d, size / 2, size / 2)));
}

/** x, or `alpha`·(e^(x/alpha) − 1) below 0: elu with slope 1 at 0 for every alpha (Barron, 2017). */
export function celu(x: Tensor, alpha = 1): Tensor {
  checkFloat(x, 'celu');
  if (!(checkFinite(alpha, 'alpha', 'celu') > 0)) throw new ValueError(`celu: alpha must be above 0, got ${alpha}`);
  return alpha === 1 ? elu(x) : mul(elu(div(x, alpha)), alpha);
}

/** x / (1 + |x|). */
export function softsign(x: Tensor): Tensor {
  checkFloat(x, 'softsign');
  return div(x, add(abs(x), 1));
}

/** x − tanh x. */
export function tanhshrink(x: Tensor): Tensor {
  checkFloat(x, 'tanhshrink');
  return sub(x, tanh(x));
}

/** x, or 0 where |x| ≤ `lambda`. */
export function hardshrink(x: Tensor, lambda = 0.5): Tensor {
  checkFloat(x, 'hardshrink');
  // what is compared needs no graph
  return where(le(abs(x.detach()), checkNumber(lambda, 'lambda', 'hardshrink')), 0, x);
}

/** x moved towards 0 by `lambda`, and 0 where it is nearer than that. */
export function softshrink(x: Tensor, lambda = 0.5): Tensor {
  checkFloat(x, 'softshrink');
  checkFinite(lambda, 'lambda', 'softshrink', 0);
  return sub(x, clamp(x, -lambda, lambda));
}

/** x, or `value` where x ≤ `limit`. */
export function threshold(x: Tensor, limit: number, value: number): Tensor {
  checkFloat(x, 'threshold');
  return where(le(x, checkNumber(limit, 'the threshold', 'threshold')), checkNumber(value, 'the value', 'threshold'), x);
}

/** softmax(−x) along `dim`. */
export const softmin = autocasts('softmin', (x: Tensor, dim: number): Tensor => {
  checkFloat(x, 'softmin');
  return softmax(neg(x), dim);
});
