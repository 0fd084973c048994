// Cross-entropy over rows that do and do not lie at multiples of 16 bytes, on every device: against float64 on the CPU, whose own rows
// are in the op table and in the goldens.
import { describe, expect, test } from 'vitest';
import type { CrossEntropyOptions, DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { integers, seedOf, stream, uniform } from './helpers/random.js';
import { type Nd, nd } from './helpers/reference.js';
import { type Layout, make, read, rounded } from './helpers/tensors.js';

interface Problem {
  readonly rows: number;
  readonly classes: number;
  readonly options?: Omit<CrossEntropyOptions, 'weight'>;
  /** The dtype of class weights; without it there are none. */
  readonly weights?: DType;
  readonly layout?: Layout;
  /** The logits are the first classes of wider rows. */
  readonly padding?: number;
  readonly indices?: DType;
}

const floats: readonly DType[] = ['float32', 'float64', 'float16', 'bfloat16'];
const tolerance: Partial<Record<DType, number>> = { float32: 1e-6, float64: 1e-13, float16: 1e-3, bfloat16: 8e-3 };

/** The loss, which is not rounded to the logits' type, and the gradient of the logits. */
function run(p: Problem, logits: Nd, targets: Nd, weights: Nd | null, dtype: DType, device: string): [Nd, Nd] {
  return sg.scope(() => {
    const base = make(logits, dtype, device, p.layout);
    const x = (p.padding ? sg.narrow(base, 1, 0, p.classes) : base).detach();
    x.requiresGrad = true;
    const weight = weights && make(weights, p.weights!, device);
    const loss = sg.crossEntropy(x, make(targets, p.indices ?? 'int64', device), { ...p.options, weight, dim: 1 });
    sg.sum(sg.mul(loss, 0.5)).backward();
    const results: [Nd, Nd] = [read(loss), read(x.grad!)];
    x.grad!.dispose();
    x.grad = null;
    return results;
  });
}

function check(name: string, p: Problem, device: string): void {
  for (const dtype of floats) {
    const next = stream(seedOf(name));
    const logits = rounded(uniform([p.rows, p.classes + (p.padding ?? 0)], -6, 6, next), dtype, 'cpu');
    const targets = integers([p.rows], 0, p.classes, next);
    const weights = p.weights ? rounded(uniform([p.classes], 0.3, 2, next), p.weights, 'cpu') : null;
    const [loss, gradient] = run({ ...p, weights: 'float64', layout: 'contiguous' }, logits, targets, weights, 'float64', 'cpu');
    const got = run(p, logits, targets, weights, dtype, device);
    expectClose(got[0].data, loss.data, dtype === 'float64' ? 1e-13 : 2e-6, `${name} ${dtype}: loss`);
    expectClose(got[1].data, gradient.data, tolerance[dtype]!, `${name} ${dtype}: gradient`);
    const again = run(p, logits, targets, weights, dtype, device);
    expect(
      again.every((x, i) => Buffer.from(x.data.buffer).equals(Buffer.from(got[i]!.data.buffer))),
      `${name} ${dtype}: the same bits once more`,
    ).toBe(true);
  }
}

const variants: Omit<CrossEntropyOptions, 'weight'>[] = [{}, { labelSmoothing: 0.1 }, { ignoreIndex: 2, reduction: 'sum' }, { reduction: 'none' }];

for (const device of devices) {
  describe(`cross-entropy on ${device}`, () => {
    // below and above what a warp takes; rows of 257 begin at every place within 16 bytes
    for (const classes of [3, 64, 257, 1024, 1025, 4104]) {
      test.each(variants.map((v) => [JSON.stringify(v), v] as const))(`${classes} classes, %s`, (name, options) => {
        check(name, { rows: 5, classes, options }, device);
      });
    }
    test.each(floats)('class weights of %s', (weights) => {
      for (const labelSmoothing of [0, 0.2]) {
        for (const classes of [7, 1101]) {
          for (const reduction of ['mean', 'none'] as const) {
            check('weights', { rows: 6, classes, weights, options: { labelSmoothing, reduction, ignoreIndex: 3 } }, device);
          }
        }
      }
    });
    test('the first classes of padded rows', () => {
      check('padded', { rows: 5, classes: 257, padding: 7 }, device);
      check('padded to 16 bytes', { rows: 5, classes: 256, padding: 8, options: { reduction: 'none' } }, device);
    });
    test.each(['transposed', 'sliced', 'flipped'] as const)('logits that lie %s', (layout) => {
      check('layout', { rows: 6, classes: 33, layout, options: { labelSmoothing: 0.1 } }, device);
    });
    test('more rows than a part of the totals', () => {
      check('rows', { rows: 4500, classes: 5, options: { ignoreIndex: 1 }, indices: 'int32' }, device);
    });

    test('logits that are large or infinite', () => {
      const rows = [
        [1000, 999, -1000, 0],
        [3e4, 3e4, 3e4, 3e4],
        [Number.NEGATIVE_INFINITY, 0, 1, 2],
        [0, Number.NEGATIVE_INFINITY, 1, 2],
        [0, Number.NaN, 1, 2],
        [0, Number.POSITIVE_INFINITY, 1, 2],
        Array.from({ length: 4 }, () => Number.NEGATIVE_INFINITY),
      ];
      const logits = nd([rows.length, 4], rows.flat());
      const targets = nd(
        [rows.length],
        rows.map(() => 1),
      );
      for (const labelSmoothing of [0, 0.1]) {
        const p: Problem = { rows: rows.length, classes: 4, options: { reduction: 'none', labelSmoothing } };
        const [loss, gradient] = run(p, logits, targets, null, 'float64', 'cpu');
        const got = run(p, logits, targets, null, 'float32', device);
        expectClose(got[0].data, loss.data, 1e-6, 'loss');
        expectClose(got[1].data, gradient.data, 2e-4, 'gradient'); // the log-sum-exp is near 30,000, where float32 has steps of 0.002
      }
    });

    test('no rows, and rows that are all ignored', () => {
      expect(sg.crossEntropy(sg.zeros([0, 3], { device }), sg.zeros([0], { dtype: 'int64', device }), { reduction: 'sum' }).itemSync()).toBe(0);
      const x = sg.full([2, 3], Number.NaN, { device, requiresGrad: true });
      const loss = sg.crossEntropy(x, sg.full([2], -100, { dtype: 'int64', device }), { reduction: 'sum' });
      expect(loss.itemSync()).toBe(0);
      loss.backward();
      expect(Array.from(read(x.grad!).data)).toEqual([0, 0, 0, 0, 0, 0]);
    });

    test('the first target that is no class is named', async () => {
      const targets = Float64Array.from({ length: 9000 }, (_, i) => (i === 4711 ? -7 : i > 5000 ? 8 : 0));
      const t = sg.fromTypedArray(targets, [9000], { device }).to('int64');
      await expect(sg.crossEntropy(sg.zeros([9000, 2], { device }), t).item()).rejects.toThrow(
        'crossEntropy: target -7 at row 4711 is out of range: there are 2 classes',
      );
    });
  });
}
