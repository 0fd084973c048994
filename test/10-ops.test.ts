// The op table: one row an op in test/ops, four checks a row in test/helpers/op_table.ts. The last test asserts that every op
// of the addon has run, so an op without a row fails here.
import { describe, expect, test } from 'vitest';
import { native } from '../lib/native.js';
import { executed } from './helpers/coverage.js';
import { devices } from './helpers/devices.js';
import { checkRow } from './helpers/op_table.js';
import { checkSecondOrder, hasSecondOrder } from './helpers/second_order.js';
import { everyFamily, families } from './ops/families.js';

for (const device of devices) {
  for (const [family, rows] of Object.entries(everyFamily)) {
    describe(`${family} on ${device}`, () => {
      test.each(rows.map((row) => [row.name, row] as const))('%s', (_, row) => checkRow(row, device));
    });
  }
}

// createGraph covers these families
describe('gradients of gradients', () => {
  const found: number[] = [];
  const { pointwise, reduce, matmul, extremes, images, activation, margins, products } = families;
  const rows = [pointwise, reduce, matmul, extremes, images, activation, margins, products].flat().filter(hasSecondOrder);
  test.each(rows.map((row) => [row.name, row] as const))('%s', (_, row) => {
    found.push(checkSecondOrder(row, 'cpu'));
  });
  test('there were some', () => {
    expect(found.filter((n) => n > 0).length).toBeGreaterThan(100);
  });
});

// The steps of optimizers and what belongs to them run in 50-golden-optim, random numbers in 10-random, collectives in
// 73-process-group; each compares.
const elsewhere =
  /Step$|^(unscaleMany|updateScale|globalNorm|scaleMany|clampMany|uniform|normal|randint|dropout|multinomial)$|^(allReduce|reduceTo|broadcastFrom|allGather|gatherTo|scatterFrom|reduceScatter|allToAll|exchange|barrier)$/;

test('every other op of the addon has run', () => {
  const here = native.ops.map((op) => op.name).filter((name) => !elsewhere.test(name));
  expect(here.length).toBeGreaterThan(150);
  expect(here.filter((name) => !executed.has(name))).toEqual([]);
});
