// Initialisations, in place, with PyTorch's names and formulas. Numbers come from the generator in force, keyed by element, so
// they do not depend on threads or devices.
import { ShapeError, ValueError } from '../errors.js';
import { noGrad } from '../autograd/modes.js';
import { numel } from '../shape.js';
import { type Generator, normal_, uniform_ } from '../random.js';
import { fill_ } from '../ops/copy.js';
import type { Tensor } from '../tensor.js';

export interface InitOptions {
  generator?: Generator;
}

export function uniform(t: Tensor, low = 0, high = 1, options: InitOptions = {}): Tensor {
  return noGrad(() => uniform_(t, low, high, options));
}
export function normal(t: Tensor, mean = 0, std = 1, options: InitOptions = {}): Tensor {
  return noGrad(() => normal_(t, mean, std, options));
}
export function constant(t: Tensor, value: number): Tensor {
  return noGrad(() => fill_(t, value));
}
export function zeros(t: Tensor): Tensor {
  return constant(t, 0);
}
export function ones(t: Tensor): Tensor {
  return constant(t, 1);
}

/** Inputs and outputs of one unit of a weight [out, in, ...kernel]. */
export function fanInAndOut(t: Tensor): [number, number] {
  if (t.ndim < 2) throw new ShapeError(`init: fan needs at least 2 dimensions, got [${t.shape}]`);
  const field = numel(t.shape.slice(2));
  return [t.shape[1]! * field, t.shape[0]! * field];
}

export type Nonlinearity = 'linear' | 'sigmoid' | 'tanh' | 'relu' | 'leakyRelu' | 'selu';

/** The factor that keeps variances through a nonlinearity; `param` is leakyRelu's slope (0.01). */
export function gain(nonlinearity: Nonlinearity, param = 0.01): number {
  switch (nonlinearity) {
    case 'linear':
    case 'sigmoid':
      return 1;
    case 'tanh':
      return 5 / 3;
    case 'relu':
      return Math.SQRT2;
    case 'leakyRelu':
      return Math.sqrt(2 / (1 + param * param));
    case 'selu':
      return 3 / 4;
    default:
      nonlinearity satisfies never;
      throw new ValueError(`init: unknown nonlinearity ${String(nonlinearity)}`);
  }
}

/** Glorot & Bengio, 2010. */
export function xavierUniform(t: Tensor, scale = 1, options: InitOptions = {}): Tensor {
  const [fanIn, fanOut] = fanInAndOut(t);
  const bound = scale * Math.sqrt(6 / (fanIn + fanOut));
  return uniform(t, -bound, bound, options);
}
export function xavierNormal(t: Tensor, scale = 1, options: InitOptions = {}): Tensor {
  const [fanIn, fanOut] = fanInAndOut(t);
  return normal(t, 0, scale * Math.sqrt(2 / (fanIn + fanOut)), options);
}

export interface KaimingOptions extends InitOptions {
  /** Slope of the leaky ReLU behind the layer. */
  a?: number;
  mode?: 'fanIn' | 'fanOut';
  nonlinearity?: Nonlinearity;
}
function kaimingStd(t: Tensor, o: KaimingOptions): number {
  const [fanIn, fanOut] = fanInAndOut(t);
  return gain(o.nonlinearity ?? 'leakyRelu', o.a ?? 0) / Math.sqrt(o.mode === 'fanOut' ? fanOut : fanIn);
}
/** He et al., 2015. */
export function kaimingUniform(t: Tensor, options: KaimingOptions = {}): Tensor {
  const bound = Math.sqrt(3) * kaimingStd(t, options);
  return uniform(t, -bound, bound, options);
}
export function kaimingNormal(t: Tensor, options: KaimingOptions = {}): Tensor {
  return normal(t, 0, kaimingStd(t, options), options);
}
