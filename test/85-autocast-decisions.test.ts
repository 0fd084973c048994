// What autocast decides: the policy table against PyTorch's lists, and every row of the op table inside a region.
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type Policy, policy, policyOf } from '../lib/amp/policy.js';
import { amp } from '../lib/index.js';
import * as functions from '../lib/ops/functions.js';
import { devices } from './helpers/devices.js';
import { goldenPath } from './helpers/golden.js';
import { expectClose } from './helpers/metric.js';
import { draw, floats, type Row, run, wantsGradient } from './helpers/op_table.js';
import { families } from './ops/families.js';

const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);

describe("the table and PyTorch's lists", () => {
  const lists = JSON.parse(readFileSync(goldenPath('autocast_lists.json'), 'utf8'))[0] as Record<Exclude<Policy, 'input'>, string[]>;
  const theirs = new Map(Object.entries(lists).flatMap(([kind, names]) => names.map((name) => [name, kind] as const)));
  /** Ops that PyTorch has under other names, or in parts. */
  const others: Record<string, Policy> = {
    mlp: 'low', // linear, gelu, linear
    linearCrossEntropy: 'low', // linear, cross_entropy of its result
    attentionPacked: 'low', // scaled_dot_product_attention of a packed projection
    recurrent: 'low', // lstm_cell and gru_cell
    sumSquares: 'float32', // linalg_vector_norm without its root
    interpolate: 'float32', // upsample_bilinear2d and its like
    softmin: 'float32', // softmax of −x
    pairwiseDistance: 'float32', // its norm
    multilabelSoftMarginLoss: 'float32', // its logarithms
    gaussianNllLoss: 'float32', // the same
    trace: 'input', // one kernel there, a sum here
    adaptiveAvgPool2d: 'input', // one kernel there, products here
  };

  test('agree on every public function', () => {
    const differing = Object.keys(functions).filter((name) => (others[name] ?? theirs.get(snake(name)) ?? null) !== policyOf(name));
    expect(differing).toEqual([]);
  });
  test('have no row without a function', () => {
    expect(Object.keys(policy).filter((name) => name !== 'recurrent' && !(name in functions))).toEqual([]);
  });
});

// Rows that are named otherwise than the function they call.
const FUNCTION: Record<string, string> = { attention: 'scaledDotProductAttention' };
const functionOf = (row: Row): string => {
  const word = row.name.match(/^\w+/)?.[0] ?? '';
  return FUNCTION[word] ?? word;
};
const rows = Object.values(families)
  .flat()
  .filter((row) => floats.every((dtype) => (row.dtypes ?? floats).includes(dtype)));

describe.each(devices)('every op inside a region on %s', (device) => {
  const results = (row: Row, dtype: 'float32' | 'bfloat16', region: 'bfloat16' | null): ReturnType<typeof run> =>
    amp.autocast(region, () => run(row, draw(row, 'bfloat16', device), dtype, device, 'contiguous', true));

  test.each(rows.map((row) => [row.name, row] as const))('%s', (_, row) => {
    const kind = policyOf(functionOf(row));
    if (kind === 'refused') {
      expect(() => results(row, 'float32', 'bfloat16')).toThrow(/under autocast its gradient can overflow/);
      return;
    }
    const plain = { float32: results(row, 'float32', null), bfloat16: results(row, 'bfloat16', null) };
    const cast = { float32: results(row, 'float32', 'bfloat16'), bfloat16: results(row, 'bfloat16', 'bfloat16') };
    const residual = row.name.includes('residual'); // added in its own type, as in x + linear(y)
    const lowered = kind === 'low' && !residual;
    // `normalize` is x / norm(x), there as here
    const raised = kind === 'float32' || functionOf(row) === 'normalize';
    plain.float32.dtypes.forEach((dtype, i) => {
      expect(cast.float32.dtypes[i]).toBe(lowered && dtype === 'float32' ? 'bfloat16' : dtype);
    });
    plain.bfloat16.dtypes.forEach((dtype, i) => {
      expect(cast.bfloat16.dtypes[i]).toBe(raised && dtype === 'bfloat16' ? 'float32' : dtype);
    });
    // The inputs are bfloat16 numbers: casting changes the arithmetic's type and nothing else.
    const tolerance = 1e-2 * (row.tolerance ?? 1);
    for (const dtype of ['float32', 'bfloat16'] as const) {
      cast[dtype].outputs.forEach((y, i) => expectClose(y.data, plain.float32.outputs[i]!.data, tolerance, `output ${i} of ${dtype}`));
      cast[dtype].gradients.forEach((g, i) => {
        expect(g === null, `gradient ${i}`).toBe(plain.float32.gradients[i] === null);
        if (g && wantsGradient(row.inputs[i]!)) expectClose(g.data, plain.float32.gradients[i]!.data, 5 * tolerance, `gradient ${i} of ${dtype}`);
      });
    }
  });
});
