import { isFloating } from '../dtype.js';
import { DTypeError, describe, ValueError } from '../errors.js';
import { checkNumber } from '../numbers.js';
import { Tensor } from '../tensor.js';

/** A sum of contributions that are each multiplied before. */
export interface PremulSum {
  /** By what. */
  readonly premulSum: number;
}

/** How contributions become one. Sums run in rank order and in float32 for 16-bit floats, so results are equal on every rank and from run to run. */
export type ReduceOp = 'sum' | 'avg' | 'min' | 'max' | 'product' | PremulSum;

const REDUCTIONS = ['sum', 'avg', 'min', 'max', 'product'] as const;
const PREMUL_SUM = 5;

/** The two numbers by which the native side knows a reduction. */
export function reductionOf(op: string, given: ReduceOp = 'sum', x: unknown): readonly [code: number, factor: number] {
  const factor = typeof given === 'object' && given !== null && 'premulSum' in given ? checkNumber(given.premulSum, 'premulSum', op) : null;
  const code = factor === null ? REDUCTIONS.indexOf(given as (typeof REDUCTIONS)[number]) : PREMUL_SUM;
  if (code < 0) throw new ValueError(`${op}: op must be one of ${REDUCTIONS.join(', ')} or { premulSum: factor }, got ${describe(given)}`);
  // found out by the stream it would be a fault of the group
  if ((factor !== null || given === 'avg') && x instanceof Tensor && !isFloating(x.dtype)) {
    throw new DTypeError(`${op}: an average or a factor needs a floating-point tensor, got ${x.dtype}`);
  }
  return [code, factor ?? 1];
}
