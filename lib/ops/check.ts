// Questions about values. They wait for the device and are meant for debugging and tests.

import { noGrad } from '../autograd/modes.js';
import { isFloating } from '../dtype.js';
import { DTypeError, ShapeError } from '../errors.js';
import { scope } from '../memory.js';
import { sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkTensor } from './arguments.js';

/** Whether any element is NaN. Waits. */
export function anyNaN(x: Tensor): boolean {
  if (!isFloating(x.dtype) || x.isMeta) return false;
  return noGrad(() => scope(() => x.detach().isnan().any().itemSync())) !== 0;
}

/** Tolerances of `allclose`. */
export interface CloseOptions {
  /** Relative to b. Default 1e-5. */
  rtol?: number;
  /** Default 1e-8. */
  atol?: number;
  /** Whether two NaN are equal. Default false. */
  equalNan?: boolean;
}

/** Whether |a − b| ≤ atol + rtol·|b| everywhere. Waits. */
export function allclose(a: Tensor, b: Tensor, options: CloseOptions = {}): boolean {
  checkTensor(a, 'allclose');
  checkTensor(b, 'allclose', 'the other operand');
  const { rtol = 1e-5, atol = 1e-8, equalNan = false } = options ?? {};
  if (!sameShape(a.shape, b.shape)) throw new ShapeError(`allclose: shapes differ: ${showShape(a.shape)} and ${showShape(b.shape)}`);
  return (
    noGrad(() =>
      scope(() => {
        const [x, y] = [a.detach().to('float64'), b.detach().to('float64')];
        let close = x.eq(y).logicalOr(x.sub(y).abs().le(y.abs().mul(rtol).add(atol)));
        if (equalNan) close = close.logicalOr(x.isnan().logicalAnd(y.isnan()));
        return close.all().itemSync();
      }),
    ) !== 0
  );
}

/** Whether shapes, dtypes and all elements are equal. Waits. */
export function equal(a: Tensor, b: Tensor): boolean {
  checkTensor(a, 'equal');
  checkTensor(b, 'equal', 'the other operand');
  if (a.dtype !== b.dtype) throw new DTypeError(`equal: dtypes differ: ${a.dtype} and ${b.dtype}`);
  if (!sameShape(a.shape, b.shape)) return false;
  return noGrad(() => scope(() => a.detach().eq(b.detach()).all().itemSync())) !== 0;
}
