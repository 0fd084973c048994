import { describe, ValueError } from '../errors.js';
import { checkNumber } from '../numbers.js';

/** How contributions become one. Sums run in rank order and in float32 for 16-bit floats, so results are equal on every rank and from run to run. */
export type ReduceOp = 'sum' | 'avg' | 'min' | 'max' | 'product' | { readonly premulSum: number };

const REDUCTIONS = ['sum', 'avg', 'min', 'max', 'product'] as const;
const PREMUL_SUM = 5;

/** The two numbers by which the native side knows a reduction. */
export function reductionOf(op: string, given: ReduceOp = 'sum'): readonly [code: number, factor: number] {
  if (typeof given === 'object' && given !== null && 'premulSum' in given) return [PREMUL_SUM, checkNumber(given.premulSum, 'premulSum', op)];
  const code = REDUCTIONS.indexOf(given as (typeof REDUCTIONS)[number]);
  if (code < 0) throw new ValueError(`${op}: op must be one of ${REDUCTIONS.join(', ')} or { premulSum: factor }, got ${describe(given)}`);
  return [code, 1];
}
