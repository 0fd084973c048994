// Norms whose rows, groups and planes do and do not fit the kernels' vectors, registers and parts, on every device: against float64
// on the CPU, whose own rows are in the op table and in the goldens.
import { describe, expect, test } from 'vitest';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import type { Tensor } from '../lib/tensor.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { seedOf, stream, uniform } from './helpers/random.js';
import type { Nd } from './helpers/reference.js';
import { type Layout, make, read, rounded } from './helpers/tensors.js';

type Op = (x: Tensor, weight?: Tensor, bias?: Tensor) => Tensor;

interface Problem {
  readonly shape: readonly number[];
  /** Elements of weight and bias; 0: there are none. */
  readonly channels: number;
  readonly op: Op;
  readonly layout?: Layout;
  /** The dtype of the weights where it is not that of the input. */
  readonly weights?: DType;
}

const floats: readonly DType[] = ['float32', 'float64', 'float16', 'bfloat16'];
const tolerance: Partial<Record<DType, number>> = { float32: 2e-6, float64: 1e-13, float16: 2e-3, bfloat16: 1.5e-2 };

/** The output and the gradients of x, weight and bias. */
function run(p: Problem, values: readonly Nd[], dtype: DType, device: string, layout: Layout): Nd[] {
  return sg.scope(() => {
    const [x, dy, ...parameters] = values as [Nd, Nd, ...Nd[]];
    const inputs = [make(x, dtype, device, layout), ...parameters.map((w) => make(w, p.weights ?? dtype, device))];
    for (const t of inputs) t.requiresGrad = true;
    const y = p.op(...(inputs as [Tensor]));
    y.backward({ gradient: make(dy, dtype, device, layout) });
    const results = [read(y), ...inputs.map((t) => read(t.grad!))];
    for (const t of inputs) {
      t.grad!.dispose();
      t.grad = null;
    }
    return results;
  });
}

function check(name: string, p: Problem, device: string, dtypes: readonly DType[] = floats): void {
  for (const dtype of dtypes) {
    const next = stream(seedOf(name));
    const draw = (shape: readonly number[], low: number, high: number, as: DType = dtype): Nd => rounded(uniform(shape, low, high, next), as, 'cpu');
    const weights = p.weights ?? dtype;
    const values = [draw(p.shape, 1, 3), draw(p.shape, -1, 1)];
    // a norm without a mean has no bias
    if (p.channels > 0) values.push(draw([p.channels], 0.5, 2, weights));
    if (p.channels > 0 && p.op.length > 2) values.push(draw([p.channels], -1, 1, weights));
    const expected = run({ ...p, weights: 'float64' }, values, 'float64', 'cpu', 'contiguous');
    const got = run(p, values, dtype, device, p.layout ?? 'contiguous');
    ['y', 'dx', 'dweight', 'dbias'].slice(0, got.length).forEach((label, i) => {
      const coarse = i > 1 && tolerance[weights]! > tolerance[dtype]! ? weights : dtype;
      expectClose(got[i]!.data, expected[i]!.data, tolerance[coarse]!, `${name} ${dtype}: ${label}`);
    });
    const again = run(p, values, dtype, device, p.layout ?? 'contiguous');
    expect(
      again.every((x, i) => Buffer.from(x.data.buffer).equals(Buffer.from(got[i]!.data.buffer))),
      `${name} ${dtype}: the same bits once more`,
    ).toBe(true);
  }
}

// Vectors a row, in 16 bytes: up to 64 and 128 for a warp, 512 and 1024 for a block, beyond; and rows that are not made of them.
const lengths = [7, 8, 264, 520, 603, 768, 1032, 2056, 4104, 8200];

for (const device of devices) {
  describe(`norms of rows on ${device}`, () => {
    test.each(lengths)('of %s elements', (n) => {
      check(`layerNorm ${n}`, { shape: [3, n], channels: n, op: (x, w, b) => sg.layerNorm(x, n, w, b) }, device);
      check(`rmsNorm ${n}`, { shape: [3, n], channels: n, op: (x, w) => sg.rmsNorm(x, n, w, 1e-5) }, device);
    });
    test.each([7, 24, 264])('many of %s elements: sums of weights in parts', (n) => {
      check(`layerNorm ${n}`, { shape: [197, n], channels: n, op: (x, w, b) => sg.layerNorm(x, n, w, b) }, device, ['float32', 'bfloat16']);
      check(`rmsNorm ${n}`, { shape: [197, n], channels: n, op: (x, w) => sg.rmsNorm(x, n, w, 1e-5) }, device, ['float32', 'bfloat16']);
    });
    test.each(['transposed', 'sliced', 'flipped'] as const)('that lie %s', (layout) => {
      check('rows', { shape: [5, 3, 16], channels: 16, op: (x, w, b) => sg.layerNorm(x, 16, w, b), layout }, device);
    });
    test.each(floats)('with weights of %s', (weights) => {
      for (const n of [24, 25]) check('weights', { shape: [5, n], channels: n, op: (x, w, b) => sg.layerNorm(x, n, w, b), weights }, device);
    });
    test('without weights', () => {
      check('plain', { shape: [5, 24], channels: 0, op: (x) => sg.layerNorm(x, 24) }, device);
      check('plain', { shape: [5, 25], channels: 0, op: (x) => sg.rmsNorm(x, 25) }, device);
    });
    test('a mean far from 0 costs no digits', () => {
      const values = Float64Array.from({ length: 2 * 24 }, (_, i) => 1e4 + Math.sin(i));
      const norm = (d: string, dtype: DType): Nd => read(sg.layerNorm(sg.fromTypedArray(values, [2, 24], { device: d }).to(dtype), 24));
      const exact = rounded({ shape: [2, 24], data: values }, 'float32', 'cpu');
      const expected = read(sg.layerNorm(make(exact, 'float64', 'cpu'), 24));
      expectClose(norm(device, 'float32').data, expected.data, 1e-6, 'around 10,000');
    });
    test('no rows, rows of nothing', () => {
      const w = sg.ones([4], { device, requiresGrad: true });
      const y = sg.layerNorm(sg.zeros([0, 4], { device, requiresGrad: true }), 4, w);
      y.backward({ gradient: sg.zeros([0, 4], { device }) });
      expect(read(w.grad!).data).toEqual(new Float64Array(4));
      expect(sg.layerNorm(sg.zeros([3, 0], { device }), 0).shape).toEqual([3, 0]);
    });
  });

  describe(`norms of images on ${device}`, () => {
    test.each([
      [[3, 4, 2, 3], 2],
      [[3, 6, 16], 3],
      [[2, 8, 5, 40], 2], // a group for a block, in vectors
      [[2, 9, 11, 23], 3], // and not in vectors
      [[3, 6], 2],
      [[1, 700, 1], 1],
    ] as const)('%j in %s groups', (shape, groups) => {
      check(`groups ${shape}`, { shape, channels: shape[1]!, op: (x, w, b) => sg.groupNorm(x, groups, w, b) }, device);
    });
    test.each(
      [
        [5, 3],
        [133, 24],
        [70, 19],
        [3, 5, 2, 3],
        [3, 5, 16],
        [2, 3, 24, 40],
        [2, 3, 29, 31],
        [1, 2, 40],
      ].map((shape) => [shape] as const),
    )('batch of %j', (shape) => {
      const channels = shape[1]!;
      check(`batch ${shape}`, { shape, channels, op: (x, w, b) => sg.batchNorm(x, null, null, w, b, true) }, device);
      const statistics = (x: Tensor): Tensor[] => [0.3, 1.7].map((v) => sg.full([channels], v, { dtype: x.dtype, device: x.device }));
      const fixed: Op = (x, w, b) => sg.batchNorm(x, ...(statistics(x) as [Tensor, Tensor]), w, b, false);
      check(`batch ${shape} outside training`, { shape, channels, op: fixed }, device);
    });
    test.each(['transposed', 'sliced', 'flipped'] as const)('that lie %s', (layout) => {
      check('groups', { shape: [2, 4, 3, 8], channels: 4, op: (x, w, b) => sg.groupNorm(x, 2, w, b), layout }, device);
      check('batch', { shape: [2, 4, 3, 8], channels: 4, op: (x, w, b) => sg.batchNorm(x, null, null, w, b, true), layout }, device);
    });
    test.each(floats)('running statistics of %s move as on the CPU', (dtype) => {
      const next = stream(7);
      const x = uniform([4, 3, 10], -2, 5, next);
      const moved = (d: string): Nd[] => {
        const [mean, variance] = [sg.zeros([3], { dtype, device: d }), sg.ones([3], { dtype, device: d })];
        for (let i = 0; i < 3; i++) sg.batchNorm(make(x, dtype, d), mean, variance, null, null, true, 0.3);
        return [read(mean), read(variance)];
      };
      const expected = moved('cpu');
      moved(device).forEach((v, i) => {
        expectClose(v.data, expected[i]!.data, dtype === 'float64' ? 1e-14 : tolerance[dtype]!, 'running');
      });
    });
    test('no images', () => {
      const w = sg.ones([2], { device, requiresGrad: true });
      for (const norm of [
        (x: Tensor) => sg.groupNorm(x, 1, w),
        (x: Tensor) => sg.batchNorm(x, sg.zeros([2], { device }), sg.ones([2], { device }), w, null, false),
      ]) {
        const y = norm(sg.zeros([0, 2, 3], { device, requiresGrad: true }));
        y.backward({ gradient: sg.zeros([0, 2, 3], { device }) });
        expect(read(w.grad!).data).toEqual(new Float64Array(2));
        w.grad = null;
      }
    });
  });
}
