// Initialisations, in place, with PyTorch's names and formulas. Numbers come from the generator in force, keyed by element, so
// they do not depend on threads or devices.

import { taped } from '../autograd/checkpoint.js';
import { noGrad } from '../autograd/modes.js';
import { withContext } from '../context.js';
import { fromTypedArray } from '../create.js';
import { deferFill } from '../deferred.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { checkFloat } from '../ops/arguments.js';
import { copy_, fill_ } from '../ops/copy.js';
import { normal_ as fillNormal, uniform_ as fillUniform, type Generator, rand, randn } from '../random.js';
import { checkNumber, numel } from '../shape.js';
import type { Tensor } from '../tensor.js';

/** Where random numbers come from. */
export interface InitOptions {
  /** Source of the numbers; by default the one in force. */
  generator?: Generator;
}

/** Uniform numbers in [low, high). */
export function uniform_(t: Tensor, low = 0, high = 1, options: InitOptions = {}): Tensor {
  return noGrad(() => fillUniform(t, low, high, options));
}
/** Normal numbers. */
export function normal_(t: Tensor, mean = 0, std = 1, options: InitOptions = {}): Tensor {
  return noGrad(() => fillNormal(t, mean, std, options));
}
/** One value everywhere. */
export function constant_(t: Tensor, value: number): Tensor {
  return noGrad(() => fill_(t, value));
}
/** Zeros. */
export function zeros_(t: Tensor): Tensor {
  return constant_(t, 0);
}
/** Ones. */
export function ones_(t: Tensor): Tensor {
  return constant_(t, 1);
}

/** Inputs and outputs of one unit of a weight [out, in, ...kernel]. */
export function fanInAndOut(t: Tensor): [number, number] {
  checkFloat(t, 'init', 'the weight');
  if (t.ndim < 2) throw new ShapeError(`init: fan needs at least 2 dimensions, got [${t.shape}]`);
  const field = numel(t.shape.slice(2));
  return [t.shape[1]! * field, t.shape[0]! * field];
}

/** What stands behind a layer, for `gain`. */
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
      throw new ValueError(`init: unknown nonlinearity ${describe(nonlinearity)}`);
  }
}

/** Uniform in ±scale·√(6 / (fanIn + fanOut)) (Glorot & Bengio, 2010). Throws ShapeError for fewer than 2 dimensions. */
export function xavierUniform_(t: Tensor, scale = 1, options: InitOptions = {}): Tensor {
  const [fanIn, fanOut] = fanInAndOut(t);
  const bound = checkNumber(scale, 'scale', 'xavierUniform_') * Math.sqrt(6 / (fanIn + fanOut));
  return uniform_(t, -bound, bound, options);
}
/** Normal with standard deviation scale·√(2 / (fanIn + fanOut)) (Glorot & Bengio, 2010). */
export function xavierNormal_(t: Tensor, scale = 1, options: InitOptions = {}): Tensor {
  const [fanIn, fanOut] = fanInAndOut(t);
  return normal_(t, 0, checkNumber(scale, 'scale', 'xavierNormal_') * Math.sqrt(2 / (fanIn + fanOut)), options);
}

/** Options of the initializations of He et al. */
export interface KaimingOptions extends InitOptions {
  /** Slope of the leaky ReLU behind the layer. Default 0. */
  a?: number;
  /** Whether variances are kept in the forward (`fanIn`, the default) or in the backward. */
  mode?: 'fanIn' | 'fanOut';
  /** What is behind the layer. Default leakyRelu. */
  nonlinearity?: Nonlinearity;
}
function kaimingStd(t: Tensor, o: KaimingOptions): number {
  const [fanIn, fanOut] = fanInAndOut(t);
  return gain(o?.nonlinearity ?? 'leakyRelu', o?.a ?? 0) / Math.sqrt(o?.mode === 'fanOut' ? fanOut : fanIn);
}
/** Uniform in ±gain·√(3 / fan) (He et al., 2015). Throws ShapeError for fewer than 2 dimensions. */
export function kaimingUniform_(t: Tensor, options: KaimingOptions = {}): Tensor {
  const bound = Math.sqrt(3) * kaimingStd(t, options);
  return uniform_(t, -bound, bound, options);
}
/** Normal with standard deviation gain / √fan (He et al., 2015). */
export function kaimingNormal_(t: Tensor, options: KaimingOptions = {}): Tensor {
  return normal_(t, 0, kaimingStd(t, options), options);
}

/** Normal numbers limited to [a, b]: those outside are replaced by the inverse of the distribution function, as in PyTorch. */
export function truncNormal_(t: Tensor, mean = 0, std = 1, a = -2, b = 2, options: InitOptions = {}): Tensor {
  const where = 'truncNormal_';
  checkFloat(t, where, 'the weight');
  checkNumber(mean, 'mean', where);
  checkNumber(std, 'std', where, 0);
  checkNumber(a, 'a', where);
  checkNumber(b, 'b', where);
  if (!(a < b)) throw new ValueError(`${where}: the bounds must satisfy a < b, got ${a} and ${b}`);
  const cdf = (x: number): number => (1 + erfNumber((x - mean) / std / Math.SQRT2)) / 2;
  const [low, high] = [cdf(a), cdf(b)];
  return deferring(t, (w) => {
    // erf⁻¹ by Newton's method on the device: uniform numbers between the two ends of the distribution function
    const u = rand(w.shape, { dtype: 'float64', device: w.device, ...options })
      .mul(2 * (high - low))
      .add(2 * low - 1);
    let x = u.mul(Math.sqrt(Math.PI) / 2);
    for (let i = 0; i < 40; i++)
      x = x.sub(
        x
          .erf()
          .sub(u)
          .mul(x.square().clamp(null, 30).exp())
          .mul(Math.sqrt(Math.PI) / 2)
          .clamp(-0.5, 0.5),
      );
    return copy_(
      w,
      x
        .mul(std * Math.SQRT2)
        .add(mean)
        .clamp(a, b),
    );
  });
}

/** A fill of several operations. One of a tensor on device meta is remembered as a whole, with the keys that it drew. */
function deferring(t: Tensor, fill: (t: Tensor) => Tensor): Tensor {
  const run = (x: Tensor): Tensor => noGrad(() => scope(() => fill(x)));
  if (!t.isMeta) return run(t);
  const [, keys] = taped(() => run(t));
  deferFill(t, (real) => withContext({ keyTape: { keys, next: 0 } }, () => run(real)));
  return t;
}

/** The error function of one number, by its power series. */
function erfNumber(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let [sum, term] = [x, x];
  for (let n = 1; n < 200 && Math.abs(term) > 1e-17; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** A random (semi-)orthogonal matrix of [rows, everything else] (Saxe et al., 2014). */
export function orthogonal_(t: Tensor, scale = 1, options: InitOptions = {}): Tensor {
  checkFloat(t, 'orthogonal_', 'the weight');
  if (t.ndim < 2) throw new ShapeError(`orthogonal_: needs at least 2 dimensions, got [${t.shape}]`);
  const rows = t.shape[0]!;
  const columns = numel(t.shape) / rows;
  const [count, length] = rows < columns ? [rows, columns] : [columns, rows];
  return deferring(t, (w) => {
    const g = randn([count, length], { dtype: 'float64', ...options }).toTypedArraySync() as Float64Array;
    for (let i = 0; i < count; i++) {
      const row = g.subarray(i * length, (i + 1) * length);
      // twice is enough: Gram-Schmidt with one reorthogonalisation
      for (let pass = 0; pass < 2; pass++) {
        for (let j = 0; j < i; j++) {
          const other = g.subarray(j * length, (j + 1) * length);
          const along = row.reduce((s, v, k) => s + v * other[k]!, 0);
          for (let k = 0; k < length; k++) row[k]! -= along * other[k]!;
        }
      }
      const size = Math.sqrt(row.reduce((s, v) => s + v * v, 0));
      for (let k = 0; k < length; k++) row[k]! /= size;
    }
    const basis = fromTypedArray(g, [count, length], { device: w.device }).mul(scale);
    return copy_(w, (rows < columns ? basis : basis.t()).reshape(w.shape));
  });
}
