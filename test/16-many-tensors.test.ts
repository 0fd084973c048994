// What takes many tensors in one call (optimizer steps, the global norm, scaling and clamping), with tensors of every type, layout and
// size in it, on every device: against the CPU.
import { describe, expect, test } from 'vitest';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { invoke } from '../lib/ops/door.js';
import { Tensor } from '../lib/tensor.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { stream, uniform } from './helpers/random.js';
import type { Nd } from './helpers/reference.js';
import { type Layout, make, read } from './helpers/tensors.js';

interface Kind {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly layout?: Layout;
  /** Elements that it lies behind an aligned address. */
  readonly offset?: number;
}

// 16,384 elements are a block's work, and 8 a thread's
const kinds: readonly Kind[] = [
  { shape: [16384 + 8], dtype: 'float32' },
  { shape: [131, 251], dtype: 'bfloat16' },
  { shape: [7], dtype: 'float32' },
  { shape: [], dtype: 'float32' },
  { shape: [0, 3], dtype: 'float32' },
  { shape: [40], dtype: 'float32', offset: 1 },
  { shape: [40], dtype: 'bfloat16', offset: 3 },
  { shape: [5, 9], dtype: 'float32', layout: 'transposed' },
  { shape: [5, 9], dtype: 'bfloat16', layout: 'transposed' },
  { shape: [2, 3, 4], dtype: 'float32', layout: 'sliced' },
  { shape: [33], dtype: 'float64' },
  { shape: [4, 6], dtype: 'float64', layout: 'flipped' },
  { shape: [80], dtype: 'float16' },
  // more rows than one launch brings to the device
  ...Array.from({ length: 50 }, (_, i): Kind => ({ shape: [1 + i], dtype: i % 2 ? 'float32' : 'bfloat16' })),
];

function place(x: Nd, k: Kind, device: string, dtype: DType = k.dtype): Tensor {
  if (k.offset === undefined) return make(x, dtype, device, k.layout);
  const all = make({ shape: [k.offset + x.data.length], data: Float64Array.from([...new Float64Array(k.offset), ...x.data]) }, dtype, device);
  return new Tensor(all.storage, x.shape, [1], k.offset, dtype);
}

/** Numbers of which the squares of a million fit any type. */
const draw = (next: () => number): Nd[] => kinds.map((k) => uniform(k.shape, -1, 1, next));
const tolerance: Partial<Record<DType, number>> = { float32: 1e-6, float64: 1e-14, float16: 5e-4, bfloat16: 4e-3 };

type Options = Record<string, unknown>;
type Make = new (params: unknown, options: Options) => sg.optim.Optimizer;

/** Parameters and states after three steps; in the second one nobody has used the first parameter. */
function train(name: string, options: Options, device: string): Tensor[] {
  const next = stream(11);
  const parameters = draw(next).map((x, i) => {
    const p = place(x, kinds[i]!, device);
    p.requiresGrad = true;
    return p;
  });
  const half = parameters.length >> 1;
  const groups = [
    { params: parameters.slice(0, half), weightDecay: 0.1 },
    { params: parameters.slice(half), lr: 0.02, maximize: true },
  ];
  const optimizer = new (sg.optim as unknown as Record<string, Make>)[name]!(groups, { lr: 0.01, ...options });
  for (let step = 0; step < 3; step++) {
    const gradients = draw(next);
    parameters.forEach((p, i) => {
      // some lie side by side where their parameter does not
      p.grad = i % 3 === 1 ? make(gradients[i]!, p.dtype, device) : place(gradients[i]!, kinds[i]!, device);
    });
    if (step === 1) parameters[0]!.grad!.absent = sg.ones([1], { dtype: 'float64', device });
    optimizer.step();
  }
  const states = optimizer.stateDict().state;
  return [...parameters, ...Object.values(states).flatMap((s) => Object.values(s).filter((v) => v instanceof Tensor))];
}

const steps: readonly (readonly [string, Options])[] = [
  ['SGD', {}],
  ['SGD', { momentum: 0.9, dampening: 0.1 }],
  ['SGD', { momentum: 0.9, nesterov: true }],
  ['Adam', { amsgrad: true }],
  ['AdamW', {}],
  ['Adagrad', { lrDecay: 0.1 }],
  ['RMSprop', { momentum: 0.5, centered: true }],
  ['LAMB', {}],
  ['Lion', {}],
];

for (const device of devices) {
  describe(`many tensors on ${device}`, () => {
    test.each(steps)('%s %j', (name, options) => {
      const expected = train(name, options, 'cpu');
      const got = train(name, options, device);
      expect(got.length).toBe(expected.length);
      got.forEach((t, i) => {
        expect(t.dtype).toBe(expected[i]!.dtype);
        expectClose(read(t).data, read(expected[i]!).data, tolerance[t.dtype]! * 3, `${name}: tensor ${i} [${t.shape}] ${t.dtype}`);
      });
      const again = train(name, options, device);
      expect(again.every((t, i) => Buffer.from(read(t).data.buffer).equals(Buffer.from(read(got[i]!).data.buffer)))).toBe(true);
    });

    const tensors = (seed: number): Tensor[] => draw(stream(seed)).map((x, i) => place(x, kinds[i]!, device));
    const values = (list: readonly Tensor[]): number[] => list.flatMap((t) => Array.from(read(t).data));
    const norm = (list: readonly Tensor[], order: number, dtype: DType = 'float64'): number => {
      const made = sg.zeros([], { dtype, device });
      invoke('globalNorm', made.device, [made, ...list], [order]);
      return made.itemSync() as number;
    };

    test('norms', () => {
      const list = tensors(5);
      const all = values(list).map(Math.abs);
      expect(norm(list, 1)).toBeCloseTo(
        all.reduce((a, b) => a + b),
        7,
      );
      expect(norm(list, 2)).toBeCloseTo(Math.sqrt(all.reduce((a, b) => a + b * b, 0)), 10);
      expect(norm(list, Number.POSITIVE_INFINITY)).toBe(Math.max(...all));
      expect(norm(list, 2, 'bfloat16')).toBeCloseTo(norm(list, 2), 0);
      expect(norm([sg.full([20], 1e30, { device })], 2)).toBeCloseTo(1e30 * Math.sqrt(20), -24);
      expect(norm([sg.zeros([0], { device })], 2)).toBe(0);
    });
    test.each([1, 2, Number.POSITIVE_INFINITY])('NaN and infinity in the norm of order %s', (order) => {
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
        for (const at of [0, 16391]) {
          const list = tensors(5);
          sg.narrow(list[0]!, 0, at, 1).fill_(bad);
          expect(norm(list, order)).toBe(bad);
        }
      }
    });
    test('a norm of another order', () => {
      expect(() => norm([sg.ones([2], { device })], 3)).toThrow('globalNorm: the order must be 1, 2 or infinity, got 3');
    });

    test.each([0.37, 1, Number.NaN])('scaling by %s', (factor) => {
      const [list, before] = [tensors(6), tensors(6)];
      invoke('scaleMany', list[0]!.device, [sg.full([1], factor, { dtype: 'float64', device }), ...list]);
      list.forEach((t, i) => {
        expectClose(
          read(t).data,
          read(before[i]!).data.map((v) => v * factor),
          tolerance[t.dtype]!,
          `tensor ${i}`,
        );
      });
    });
    /** Clip factor, loss scale and found-inf of a step, and the norm. */
    const prepare = (list: readonly Tensor[], scale: number | null, maxNorm: number): number[] => {
      const step = sg.full([8], 7, { dtype: 'float64', device });
      const norm = sg.zeros([], { device });
      invoke('prepareStep', step.device, [step, scale === null ? null : sg.full([], scale, { device }), norm, ...list], [maxNorm]);
      expect(read(step).data.slice(3)).toEqual(new Float64Array(5).fill(7));
      return [...read(step).data.slice(0, 3), norm.itemSync()];
    };
    test('preparing a step', () => {
      const list = tensors(5);
      const length = norm(list, 2);
      const close = (x: number): unknown => expect.closeTo(x, 4);
      expect(prepare(list, null, Number.POSITIVE_INFINITY)).toEqual([1, 1, 0, close(length)]);
      expect(prepare(list, null, 1)).toEqual([close(1 / length), 1, 0, close(length)]);
      expect(prepare(list, 4, length / 5)).toEqual([close(0.8), 4, 0, close(length / 4)]);
      expect(prepare(list, 4, length / 3)).toEqual([1, 4, 0, close(length / 4)]);
      expect(prepare([], 4, 1)).toEqual([1, 4, 0, 0]);
      expect(prepare([sg.full([20], 3e38, { device })], 1, Number.POSITIVE_INFINITY)).toEqual([1, 1, 0, Number.POSITIVE_INFINITY]);
      expect(prepare([sg.full([20], 1e200, { dtype: 'float64', device })], 1, 1)).toEqual([0, 1, 0, Number.POSITIVE_INFINITY]);
      expect(prepare(list, 2, 1)).toEqual(prepare(list, 2, 1));
    });
    const bad = kinds.flatMap(({ shape, dtype }, i) => (shape.includes(0) || i > 14 ? [] : [[i, `${dtype} [${shape}]`] as const]));
    test.each(bad)('inf and NaN anywhere are found: tensor %i, %s', (i) => {
      for (const value of [Number.NaN, Number.NEGATIVE_INFINITY]) {
        for (const last of [false, true]) {
          const list = tensors(5);
          const one = list[i]!;
          const at = one.shape.map((n) => (last ? n - 1 : 0));
          const element = at.reduce((t, k) => sg.select(t, 0, k), one.detach());
          element.fill_(value);
          expect(prepare(list, 2, 1)).toEqual([1, 2, 1, Number.isNaN(value) ? Number.NaN : Number.POSITIVE_INFINITY]);
          const found = sg.zeros([1], { dtype: 'float64', device });
          invoke('unscaleMany', found.device, [null, found, ...list]);
          expect(found.itemSync()).toBe(1);
        }
      }
    });
    test('unscaling', () => {
      const [list, before] = [tensors(6), tensors(6)];
      for (const was of [0, 1]) {
        const found = sg.full([1], was, { device });
        invoke('unscaleMany', found.device, [sg.full([], was ? 0.5 : 8, { device }), found, ...list]);
        expect(found.itemSync()).toBe(was);
      }
      list.forEach((t, i) => {
        expectClose(
          read(t).data,
          read(before[i]!).data.map((v) => v / 4),
          tolerance[t.dtype]!,
          `tensor ${i}`,
        );
      });
    });
    test('clamping keeps NaN', () => {
      const list = tensors(6);
      sg.narrow(list[0]!, 0, 9, 1).fill_(Number.NaN);
      const before = list.map((t) => read(t).data);
      invoke('clampMany', list[0]!.device, list, [-0.25, 0.5]);
      list.forEach((t, i) => {
        expectClose(
          read(t).data,
          before[i]!.map((v) => Math.min(Math.max(v, -0.25), 0.5)),
          0,
          `tensor ${i}`,
        );
      });
    });
  });
}
