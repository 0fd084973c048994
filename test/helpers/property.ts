// Runs a law over cases that fast-check makes: each in a scope of its own, with a fixed seed; a failure prints the smallest
// counter-example.
import fc from 'fast-check';
import { scope } from '../../lib/index.js';

export function check<T extends unknown[]>(arbitraries: { [K in keyof T]: fc.Arbitrary<T[K]> }, law: (...values: T) => void, numRuns = 300): void {
  fc.assert(
    fc.property(fc.tuple(...arbitraries), (values) => {
      scope(() => law(...(values as T)));
    }),
    { numRuns, seed: 2026 },
  );
}
