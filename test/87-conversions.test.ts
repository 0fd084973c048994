// No op converts a whole tensor to another dtype by itself: kernels read what they are given, 16-bit floats too, and compute wider on
// the way. What crosses into native code is looked at; the rows that need a conversion are named with the reason.
import { describe, expect, test } from 'vitest';
import { block, HEADER, native, RECORD, Rec } from '../lib/native.js';
import { draw, floats, type Row, run } from './helpers/op_table.js';
import { families } from './ops/families.js';

let conversions: string[] | null = null;
const crossing = native.run;
native.run = () => {
  if (conversions && native.ops[block[0]!]!.name === 'copy') {
    const [from, to] = [0, 1].map((record) => native.dtypes[block[HEADER + record * RECORD + Rec.DType]!]!);
    const sizes = Array.from({ length: block[HEADER + Rec.Dims]! }, (_, d) => block[HEADER + Rec.Shape + d]!);
    // float64 comes from the harness alone, a mask becomes factors once, and a number is no tensor
    if (from !== to && from !== 'float64' && from !== 'bool' && sizes.some((s) => s > 1)) conversions.push(`${from} to ${to} [${sizes}]`);
  }
  crossing();
};

/** Rows that convert, and why. */
const REASONS: readonly [rows: RegExp, reason: string][] = [
  [/^to float/, 'that is what it is for'],
  [/^(variance|std)/, 'it is computed in float32, and its result and its gradient are rounded once'],
  [/^cdist by a product/, 'squares of distances are differences of larger numbers'],
  [/^ctcLoss/, 'its recursion adds up over time'],
  [/^histc/, 'where the parts begin is no number of 16 bits'],
  [/^interpolate (linear|bilinear|bicubic|trilinear)/, 'a result is a sum of up to 64 neighbours, rounded once'],
  [/^cumprod with zeros/, 'its constant is made from JavaScript numbers'],
];

const rows = Object.values(families)
  .flat()
  .filter((row: Row) => (row.dtypes ?? floats).includes('bfloat16'));

describe('no whole tensor is converted by', () => {
  test.each(rows.map((row) => [row.name, row] as const))('%s', (_, row) => {
    const values = draw(row, 'bfloat16', 'cpu');
    const watched = {
      ...row,
      fn: (...x: Parameters<Row['fn']>) => {
        conversions = [];
        return row.fn(...x);
      },
    };
    run(watched, values, 'bfloat16', 'cpu', 'contiguous', true);
    const found = conversions;
    conversions = null;
    const reason = REASONS.find(([names]) => names.test(row.name))?.[1];
    if (reason === undefined) expect(found).toEqual([]);
    else expect(found, reason).not.toEqual([]);
  });
});
