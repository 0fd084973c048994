// Copies, joins, reductions and rows in every form that kernels tell apart, on every device: whole packs of 16 bytes and not,
// tiles, results split into parts, views that start anywhere. Against float64 on the CPU in the plainest layout, whose own rows
// are in the op table.
import { describe, expect, test } from 'vitest';
import type { DType, Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { integers, seedOf, stream, uniform } from './helpers/random.js';
import type { Nd } from './helpers/reference.js';
import { make, read, rounded } from './helpers/tensors.js';

const floats: readonly DType[] = ['float32', 'float64', 'float16', 'bfloat16'];
const tolerance: Partial<Record<DType, number>> = { float32: 5e-7, float64: 1e-14, float16: 1e-3, bfloat16: 8e-3 };

/** Views of the same values: as they are, the last dimension first in memory, and parts of something larger. */
const views: Record<string, (x: Nd, dtype: DType, device: string) => Tensor> = {
  contiguous: (x, dtype, device) => make(x, dtype, device),
  transposed: (x, dtype, device) => make(x, dtype, device, 'transposed'),
  'part of aligned rows': (x, dtype, device) => part(x, dtype, device, 8),
  'part of rows that start anywhere': (x, dtype, device) => part(x, dtype, device, 1),
};

function part(x: Nd, dtype: DType, device: string, before: number): Tensor {
  const last = x.shape.length - 1;
  const columns = x.shape[last]!;
  const y = sg.empty([...x.shape.slice(0, last), before + columns], { dtype, device }).narrow(last, before, columns);
  return sg.copy_(y, make(x, dtype, device));
}

const drawn = (label: string, shape: readonly number[], dtype: DType): Nd => {
  const next = stream(seedOf(label));
  return floats.includes(dtype) ? rounded(uniform(shape, -1, 1.5, next), dtype, 'cpu') : integers(shape, 0, dtype === 'bool' ? 2 : 100, next);
};

describe.each(devices)('on %s', (device) => {
  const shapes = [[5], [4096], [3, 64], [70, 40], [2, 33, 48], [4, 3, 8, 16]];

  test.each(Object.keys(views))('copies and casts of what is %s', (layout) => {
    for (const shape of shapes) {
      for (const dtype of [...floats, 'int64', 'uint8', 'bool'] as const) {
        const x = drawn(`${shape}`, shape, dtype);
        for (const to of [dtype, 'float32', 'bfloat16'] as const) {
          const y = sg.clone(views[layout]!(x, dtype, device).to(to)).contiguous();
          expect(Array.from(read(y).data), `[${shape}] ${dtype} to ${to}`).toEqual(Array.from(rounded(x, to, 'cpu').data));
        }
        const target = views[layout]!(drawn('target', shape, dtype), dtype, device);
        sg.copy_(target, make(x, dtype, device));
        expect(Array.from(read(target.contiguous()).data), `[${shape}] ${dtype}, written into`).toEqual(Array.from(x.data));
      }
    }
  });

  test.each(Object.keys(views))('joins and triangles of what is %s', (layout) => {
    for (const dtype of ['bfloat16', 'float64', 'uint8'] as const) {
      const [a, b] = [drawn('a', [6, 16], dtype), drawn('b', [6, 40], dtype)];
      const joined = read(sg.cat([views[layout]!(a, dtype, device), views[layout]!(b, dtype, device)], 1));
      expect(joined).toEqual(read(sg.cat([make(a, dtype, 'cpu'), make(b, dtype, 'cpu')], 1)));
      for (const diagonal of [-9, -2, 0, 3, 50]) {
        expect(read(sg.triu(views[layout]!(b, dtype, device), diagonal))).toEqual(read(sg.triu(make(b, dtype, 'cpu'), diagonal)));
        expect(read(sg.tril(views[layout]!(b, dtype, device), diagonal))).toEqual(read(sg.tril(make(b, dtype, 'cpu'), diagonal)));
      }
    }
  });

  const reductions: Record<string, (x: Tensor, dims: number[]) => Tensor> = {
    sum: sg.sum,
    mean: sg.mean,
    max: sg.max,
    sumSquares: sg.sumSquares,
    norm: (x, dims) => sg.norm(x, 2, dims),
  };
  const reduced: [number[], number[]][] = [
    [[65_536], [0]], // in parts
    [[40, 2048], [1]],
    [[2050, 24], [0]],
    [[4, 3000, 16], [1]],
    [
      [3, 20, 48],
      [0, 2],
    ],
    [[300, 7], [0]],
    [[7, 300], [1]],
    [[600, 64], [1]], // many short ones
  ];

  test.each(Object.keys(views))('reductions of what is %s', (layout) => {
    for (const [shape, dims] of reduced) {
      for (const dtype of floats) {
        const x = drawn(`${shape}`, shape, dtype);
        for (const [name, reduce] of Object.entries(reductions)) {
          const expected = read(reduce(make(x, 'float64', 'cpu'), dims)).data;
          const label = `${name} of [${shape}] over ${dims} in ${dtype}`;
          expectClose(
            read(reduce(views[layout]!(x, dtype, device), dims)).data,
            expected,
            tolerance[dtype]!,
            label,
            dtype === 'float16' || dtype === 'bfloat16' ? 1 : 0,
          );
        }
        const where = read(sg.argmax(make(x, dtype, 'cpu'), dims[0]!)).data;
        expect(read(sg.argmax(views[layout]!(x, dtype, device), dims[0]!)).data, `argmax of [${shape}] in ${dtype}`).toEqual(where);
      }
    }
  });

  test('NaN is the largest and the smallest, and the first of equals is found', () => {
    const x = Float64Array.from({ length: 10_000 }, (_, i) => (i % 100) - 50);
    x[7003] = Number.NaN;
    x[9000] = Number.NaN;
    for (const dtype of ['float32', 'float64'] as const) {
      const t = make({ shape: [10_000], data: x }, dtype, device);
      expect([sg.max(t).itemSync(), sg.min(t).itemSync(), sg.argmax(t).itemSync(), sg.argmin(t).itemSync()]).toEqual([Number.NaN, Number.NaN, 7003, 7003]);
      const numbers = t.narrow(0, 0, 7000);
      expect([sg.argmax(numbers).itemSync(), sg.argmin(numbers).itemSync()]).toEqual([99, 0]);
    }
  });

  const rows = { softmax: sg.softmax, logSoftmax: sg.logSoftmax, logsumexp: sg.logsumexp };

  // lengths beside those at which rows change from one warp to several, and leave the registers
  test.each([1, 8, 31, 256, 512, 520, 1030, 2048, 4096, 4100, 8192, 8200])('rows of %i', (n) => {
    for (const dtype of floats) {
      const x = drawn(`${n}`, [3, n], dtype);
      for (const [name, fn] of Object.entries(rows)) {
        const of = (input: Tensor, on: string): Nd[] => {
          const t = input.detach();
          t.requiresGrad = true;
          const y = fn(t, -1);
          const weights = Float64Array.from({ length: read(y).data.length }, (_, i) => Math.cos(i) + 0.1);
          y.backward({ gradient: make({ shape: y.shape, data: weights }, y.dtype, on) });
          return [read(y), read(t.grad!)];
        };
        const expected = of(make(x, 'float64', 'cpu'), 'cpu');
        for (const layout of Object.keys(views)) {
          const got = of(views[layout]!(x, dtype, device), device);
          got.forEach((g, i) => expectClose(g.data, expected[i]!.data, 4 * tolerance[dtype]!, `${name} in ${dtype}, ${layout}, ${i ? 'gradient' : 'result'}`));
        }
      }
    }
  });

  test.each([40, 5000])('rows of %i with infinities', (n) => {
    const row = (at: number, value: number, rest = 0): number[] => Array.from({ length: n }, (_, i) => (i === at ? value : rest));
    const infinity = Number.POSITIVE_INFINITY;
    const x = [row(7, -infinity), row(7, infinity), row(0, -infinity, -infinity), row(n - 1, Number.NaN)].flat();
    for (const dtype of ['float32', 'float64'] as const) {
      const t = make({ shape: [4, n], data: Float64Array.from(x) }, dtype, device);
      const y = read(sg.softmax(t, -1)).data;
      expect(y[7]).toBe(0);
      expect(y.subarray(0, n).every(Number.isFinite)).toBe(true);
      expect(y.subarray(n).every(Number.isNaN)).toBe(true);
      expect(Array.from(read(sg.logsumexp(t, -1)).data.subarray(1))).toEqual([infinity, -infinity, Number.NaN]);
    }
  });

  test('random numbers are those of the CPU', () => {
    const key: sg.RandomKey = [1, 2, 3, 4];
    for (const [shape, dtype] of [
      [[4096], 'float32'],
      [[3, 67], 'float64'],
      [[5, 16], 'bfloat16'],
      [[2, 3, 40], 'float16'],
    ] as const) {
      for (const layout of Object.keys(views)) {
        const blank = (d: string): Tensor => views[layout]!(drawn('blank', shape, dtype), dtype, d);
        const generator = (): sg.Generator => new sg.Generator(7);
        const same = (fill: (t: Tensor) => Tensor, label: string, within = 0): void => {
          const [got, expected] = [device, 'cpu'].map((d) => read(fill(blank(d)).contiguous()).data);
          expectClose(got!, expected!, within, `${label} [${shape}] in ${dtype}, ${layout}`);
        };
        same((t) => sg.uniform_(t, -1, 3, { generator: generator() }), 'uniform');
        same((t) => sg.normal_(t, 1, 2, { generator: generator() }), 'normal', tolerance[dtype]!);
        same((t) => sg.dropout(t, 0.4, { key: () => key }), 'dropout');
        const layoutOfPart = { globalShape: shape.map((s) => s + 8), offset: shape.map(() => 4) };
        same((t) => sg.dropout(t, 0.4, { key: () => key, layout: layoutOfPart }), 'dropout of a part');
      }
    }
    const draw = (d: string): Nd => read(sg.randint(-7, 1000, [1001], { generator: new sg.Generator(3), device: d }));
    expect(draw(device)).toEqual(draw('cpu'));
  });
});
