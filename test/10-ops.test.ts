// The op table: one row an op in test/ops, four checks a row in test/helpers/op_table.ts. The last test asserts that every op
// of the addon has run, so an op without a row fails here.
import { describe, expect, test } from 'vitest';
import { native } from '../lib/native.js';
import { executed } from './helpers/coverage.js';
import { devices } from './helpers/devices.js';
import { checkRow } from './helpers/op_table.js';
import { rows as attention } from './ops/attention.js';
import { rows as conv } from './ops/conv.js';
import { rows as indexing } from './ops/indexing.js';
import { rows as loss } from './ops/loss.js';
import { rows as matmul } from './ops/matmul.js';
import { rows as normalize } from './ops/normalize.js';
import { rows as pointwise } from './ops/pointwise.js';
import { rows as reduce } from './ops/reduce.js';
import { rows as shape } from './ops/shape.js';
import { rows as sort } from './ops/sort.js';

const families = { pointwise, reduce, matmul, normalize, indexing, shape, sort, loss, attention, conv };

for (const device of devices) {
  for (const [family, rows] of Object.entries(families)) {
    describe(`${family} on ${device}`, () => {
      test.each(rows.map((row) => [row.name, row] as const))('%s', (_, row) => checkRow(row, device));
    });
  }
}

test('every op of the addon has run', () => {
  expect(native.ops.map((op) => op.name).filter((name) => !executed.has(name))).toEqual([]);
});
