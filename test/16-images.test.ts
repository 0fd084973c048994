// Convolutions and pools whose tiles, parts and planes do not come out even, on every device: against float64 on the CPU, whose own
// rows are in the op table and in the goldens.
import { describe, expect, test } from 'vitest';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import type { Tensor } from '../lib/tensor.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { integers, seedOf, stream, uniform } from './helpers/random.js';
import type { Nd } from './helpers/reference.js';
import { type Layout, make, read, rounded } from './helpers/tensors.js';

type Op = (...x: Tensor[]) => Tensor;

/** The output and the gradients of the inputs, for a cotangent that is drawn from `next`. */
function run(op: Op, values: readonly Nd[], cotangent: (shape: readonly number[]) => Nd, dtype: DType, device: string, layout: Layout): Nd[] {
  return sg.scope(() => {
    const inputs = values.map((x) => {
      const t = make(x, dtype, device, layout);
      t.requiresGrad = true;
      return t;
    });
    const y = op(...inputs);
    y.backward({ gradient: make(cotangent(y.shape), dtype, device, layout) });
    const results = [read(y), ...inputs.map((x) => read(x.grad!))];
    for (const x of inputs) {
      x.grad!.dispose();
      x.grad = null;
    }
    return results;
  });
}

const tolerance: Partial<Record<DType, number>> = { float32: 2e-6, float64: 1e-13, float16: 1.5e-3, bfloat16: 1e-2 };

interface Case {
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly options?: sg.ConvOptions;
  readonly layout?: Layout;
}

const cases: Record<string, Case> = {
  'more filters and outputs than a tile': { x: [2, 3, 17, 19], w: [67, 3, 2, 2], options: { padding: 1, stride: 2 } },
  'more channels than a tile': { x: [1, 66, 9, 7], w: [5, 66, 3, 2], options: { padding: [1, 0] } },
  'weights in several parts': { x: [2, 2, 21, 26], w: [3, 2, 3, 3], options: { padding: 1 } },
  'groups, dilated and strided': { x: [2, 6, 17, 19], w: [9, 2, 3, 2], options: { groups: 3, stride: [3, 2], dilation: [2, 3], padding: [4, 2] } },
  'taps that read only padding': { x: [1, 2, 3, 2], w: [2, 2, 2, 3], options: { padding: 3, dilation: 2 } },
  '1×1': { x: [2, 20, 9, 9], w: [17, 20, 1, 1] },
  '1×1, strided': { x: [2, 3, 9, 9], w: [4, 3, 1, 1], options: { stride: 2 } },
  depthwise: { x: [2, 5, 21, 18], w: [5, 1, 5, 3], options: { groups: 5, stride: 2, padding: [2, 1] } },
  'depthwise, three filters a channel': { x: [2, 3, 12, 11], w: [9, 1, 3, 3], options: { groups: 3, dilation: 2 } },
  'a channel a group, many filters': { x: [1, 2, 9, 8], w: [12, 1, 3, 3], options: { groups: 2 } },
  'inputs that lie transposed': { x: [2, 3, 10, 9], w: [4, 3, 3, 3], layout: 'transposed' },
  'inputs with gaps, depthwise': { x: [2, 3, 10, 9], w: [3, 1, 3, 3], options: { groups: 3 }, layout: 'sliced' },
};

const normal: readonly DType[] = ['float32', 'float64', 'float16', 'bfloat16'];

for (const device of devices) {
  describe(`convolutions on ${device}`, () => {
    test.each(Object.entries(cases))('%s', (name, { x, w, options, layout = 'contiguous' }) => {
      for (const dtype of normal) {
        const next = stream(seedOf(name));
        const draw = (shape: readonly number[]): Nd => rounded(uniform(shape, -1, 1, next), dtype, 'cpu');
        const values = [draw(x), draw(w), draw([w[0]!])];
        let dy: Nd | undefined;
        const cotangent = (shape: readonly number[]): Nd => (dy ??= draw(shape));
        const op: Op = (a, b, c) => sg.conv2d(a!, b!, c!, options);
        const expected = run(op, values, cotangent, 'float64', 'cpu', 'contiguous');
        const got = run(op, values, cotangent, dtype, device, layout);
        ['y', 'dx', 'dw', 'db'].forEach((label, i) => {
          expectClose(got[i]!.data, expected[i]!.data, tolerance[dtype]!, `${name} ${dtype}: ${label}`);
        });
        expect(run(op, values, cotangent, dtype, device, layout), `${name} ${dtype}: the same bits once more`).toEqual(got);
      }
    });

    test('no images, and images without outputs for a gradient', () => {
      const x = sg.zeros([0, 3, 5, 5], { device, requiresGrad: true });
      const w = sg.ones([4, 3, 3, 3], { device, requiresGrad: true });
      const b = sg.ones([4], { device, requiresGrad: true });
      const y = sg.conv2d(x, w, b);
      expect(y.shape).toEqual([0, 4, 3, 3]);
      y.backward({ gradient: sg.zeros(y.shape, { device }) });
      expect(read(w.grad!).data).toEqual(new Float64Array(w.numel));
      expect(read(b.grad!).data).toEqual(new Float64Array(4));
    });
  });

  describe(`pools on ${device}`, () => {
    // Numbers that every dtype holds and whose sums are exact, with many ties.
    const draw = (shape: readonly number[], name: string): Nd => integers(shape, -4, 5, stream(seedOf(name)));
    const shapes: [string, readonly number[], Layout][] = [
      ['planes beyond a piece', [1, 2, 97, 101], 'contiguous'],
      ['small planes', [3, 4, 7, 5], 'contiguous'],
      ['planes that lie transposed', [2, 3, 12, 9], 'transposed'],
    ];
    for (const [name, shape, layout] of shapes) {
      for (const [kernel, options] of [
        [3, { stride: 1, padding: 1 }],
        [[3, 2], { stride: [2, 3], padding: [1, 0], ceilMode: true }],
        [5, { stride: 2, padding: 2 }],
      ] as const) {
        test(`maxima of ${name}, ${JSON.stringify(kernel)} ${JSON.stringify(options)}`, () => {
          for (const dtype of normal) {
            const op: Op = (x) => sg.maxPool2d(x!, kernel, options);
            const values = [draw(shape, name)];
            const cotangent = (s: readonly number[]): Nd => draw(s, 'dy');
            expect(run(op, values, cotangent, dtype, device, layout)).toEqual(run(op, values, cotangent, dtype, 'cpu', 'contiguous'));
          }
        });
        test(`means of ${name}, ${JSON.stringify(kernel)} ${JSON.stringify(options)}`, () => {
          for (const countIncludePad of [true, false]) {
            const op: Op = (x) => sg.avgPool2d(x!, kernel, { ...options, countIncludePad });
            const values = [draw(shape, name)];
            const cotangent = (s: readonly number[]): Nd => draw(s, 'dy');
            const expected = run(op, values, cotangent, 'float64', 'cpu', 'contiguous');
            for (const dtype of normal) {
              const got = run(op, values, cotangent, dtype, device, layout);
              got.forEach((x, i) => {
                expectClose(x.data, expected[i]!.data, tolerance[dtype]!, `${name} ${dtype}: ${['y', 'dx'][i]}`);
              });
            }
          }
        });
      }
    }

    test('NaN wins, and keeps its place', () => {
      const values = Float32Array.from({ length: 36 }, (_, i) => (i === 14 || i === 15 ? Number.NaN : i % 7));
      const once = (d: string): Nd[] => {
        const x = sg.fromTypedArray(values, [1, 1, 6, 6], { device: d, requiresGrad: true });
        const y = sg.maxPool2d(x, 3, { stride: 1 });
        y.backward({ gradient: sg.ones(y.shape, { device: d }) });
        return [read(y), read(x.grad!)];
      };
      expect(once(device)).toEqual(once('cpu'));
    });

    test('an index outside of its plane', async () => {
      const { door, fresh } = await import('../lib/ops/door.js');
      const dy = sg.ones([1, 2, 2, 2], { device });
      const indices = sg.tensor(
        [
          [
            [
              [0, 1],
              [2, 3],
            ],
            [
              [-9, 8],
              [9, 0],
            ],
          ],
        ],
        { dtype: 'int64', device },
      );
      const scatter = async (): Promise<number[]> => {
        const dx = door('maxPool2dBackward', [dy, indices], [fresh([1, 2, 3, 3], 'float32')], [], undefined)[0]!;
        return Array.from(read(dx).data);
      };
      await expect(scatter()).rejects.toThrow('maxPool2dBackward: index 9 is out of range [-9, 9) at position [0, 1, 1, 0]');
    });
  });
}
