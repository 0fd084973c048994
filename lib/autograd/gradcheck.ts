// Finite differences: the check of every gradient rule, public because users write rules too.

import { fromTypedArray } from '../create.js';
import { AutogradError, DTypeError, describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { Tensor } from '../tensor.js';
import { grad } from './backward.js';

/** Step and tolerances of `gradcheck`; gradients a and differences b are equal within atol + rtol·|b|. */
export interface GradcheckOptions {
  /** Step of the central difference. Default 1e-6. */
  eps?: number;
  /** Default 1e-6. */
  atol?: number;
  /** Default 1e-4. */
  rtol?: number;
  /** Also check the gradient of the gradient, with tolerances of at least 1e-5 and 1e-3. Default false. */
  second?: boolean;
}

/**
 * Compares the gradients of `fn` (a function of float64 tensors that require gradients, giving one tensor) with central
 * differences of its element sum weighted by fixed numbers. Throws AutogradError at the first element that differs.
 */
export function gradcheck(fn: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[], options: GradcheckOptions = {}): true {
  if (typeof options !== 'object' || options === null || !Array.isArray(inputs))
    throw new ValueError('gradcheck: expected a function, an array of inputs and options');
  const { eps = 1e-6, atol = 1e-6, rtol = 1e-4, second = false } = options;
  if (typeof fn !== 'function') throw new ValueError(`gradcheck: expected a function, got ${describe(fn)}`);
  inputs.forEach((x, i) => {
    if (!(x instanceof Tensor) || x.dtype !== 'float64') throw new DTypeError(`gradcheck: input ${i} must be a float64 tensor`);
  });
  const leaves = inputs.filter((x) => x.requiresGrad);
  if (leaves.length === 0) throw new AutogradError('gradcheck: no input requires a gradient');
  const weigh = (y: Tensor): Tensor => {
    if (!(y instanceof Tensor)) throw new ValueError(`gradcheck: the function must give one tensor, got ${describe(y)}`);
    const n = y.numel;
    const weights = Float64Array.from({ length: n }, (_, i) => Math.cos(i * 1.7) + 1.5); // all different, none 0
    return y.mul(fromTypedArray(weights, y.shape)).sum();
  };
  const loss = (...xs: Tensor[]): Tensor => weigh(fn(...xs));
  scope(() => {
    const analytic = grad(loss(...inputs), leaves);
    leaves.forEach((leaf, k) => compare(loss, inputs, leaf, analytic[k] ?? null, k, { eps, atol, rtol }));
    if (!second) return;
    const slope = (...xs: Tensor[]): Tensor => {
      const parts = grad(
        loss(...xs),
        xs.filter((x) => x.requiresGrad),
        { createGraph: true },
      ).filter((g) => g !== null);
      return parts.map((g) => weigh(g)).reduce((a, b) => a.add(b));
    };
    const curvature = grad(slope(...inputs), leaves);
    leaves.forEach((leaf, k) => compare(slope, inputs, leaf, curvature[k] ?? null, k, { eps, atol: Math.max(atol, 1e-5), rtol: Math.max(rtol, 1e-3) }));
  });
  return true;
}

function compare(
  f: (...xs: Tensor[]) => Tensor,
  inputs: readonly Tensor[],
  leaf: Tensor,
  analytic: Tensor | null,
  k: number,
  o: Required<Pick<GradcheckOptions, 'eps' | 'atol' | 'rtol'>>,
): void {
  const values = leaf.toTypedArraySync() as Float64Array;
  const got = (analytic?.toTypedArraySync() as Float64Array | undefined) ?? new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const at = (delta: number): number => {
      const moved = values.slice();
      moved[i]! += delta;
      return scope(() => {
        const x = fromTypedArray(moved, leaf.shape, { requiresGrad: true });
        return f(...inputs.map((t) => (t === leaf ? x : t))).itemSync();
      });
    };
    const want = (at(o.eps) - at(-o.eps)) / (2 * o.eps);
    if (!(Math.abs(want - got[i]!) <= o.atol + o.rtol * Math.abs(want))) {
      throw new AutogradError(`gradcheck: input ${k}, element ${i}: the gradient is ${got[i]}, finite differences give ${want}`);
    }
  }
}
