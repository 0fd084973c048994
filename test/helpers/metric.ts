// How far a result may be from what it should be: ‖a−b‖/‖b‖ over a tensor. NaN and infinities must be where they belong.
import { expect } from 'vitest';

export type Numbers = ArrayLike<number> | ArrayLike<bigint>;

/** ‖a−b‖/‖b‖; against `scale` where it is given and larger; the absolute error where ‖b‖ is zero. */
export function relativeError(actual: Numbers, expected: Numbers, scale = 0): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    const a = Number(actual[i]);
    const b = Number(expected[i]);
    if (Object.is(a, b) || a === b) {
      if (Number.isFinite(b)) norm += b * b;
      continue;
    }
    if (!Number.isFinite(a) || !Number.isFinite(b)) return Number.POSITIVE_INFINITY;
    difference += (a - b) ** 2;
    norm += b * b;
  }
  const base = Math.max(Math.sqrt(norm), scale);
  return base === 0 ? Math.sqrt(difference) : Math.sqrt(difference) / base;
}

export function norm(values: Numbers): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += Number(values[i]) ** 2;
  return Math.sqrt(total);
}

/** Fails, showing the first values of both sides, when the relative error passes the tolerance. */
export function expectClose(actual: Numbers, expected: Numbers, tolerance: number, label: string, scale = 0): void {
  const error = relativeError(actual, expected, scale);
  if (error <= tolerance) return;
  const show = (x: Numbers): string => `[${Array.from({ length: Math.min(8, x.length) }, (_, i) => Number(x[i])).join(', ')}${x.length > 8 ? ', …' : ''}]`;
  expect.fail(`${label}: relative error ${error.toExponential(2)} > ${tolerance}\n  got      ${show(actual)}\n  expected ${show(expected)}`);
}

/** Compares tensors by name; one below 1e-6 of the total norm is measured against the total. */
export function expectAllClose(actual: Record<string, Numbers>, expected: Record<string, Numbers>, tolerance: number, label: string): void {
  expect(Object.keys(actual).sort(), `${label}: names`).toEqual(Object.keys(expected).sort());
  const total = Math.hypot(...Object.values(expected).map(norm));
  for (const [name, values] of Object.entries(expected)) {
    const small = norm(values) < 1e-6 * total;
    expectClose(actual[name]!, values, tolerance, `${label} ${name}`, small ? total : 0);
  }
}
