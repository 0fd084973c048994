// Gradients of 16-bit parameters: what is added to them is added in float32, from the second contribution on and without memory for it
// before; data parallelism reduces them in float32, in 16 bits, or in 16 bits with one rounding on the way in and one on the way out.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { flatten } from './helpers/ranks.js';

const { nn, optim } = sg;

/** Numbers that bfloat16 has. */
async function rounded(values: ArrayLike<number>, dtype: sg.DType = 'bfloat16'): Promise<Float64Array> {
  const x = sg.fromTypedArray(Float64Array.from(values), [values.length], {}).to(dtype).to('float64');
  return (await x.toTypedArray()) as Float64Array;
}

function wave(n: number, seed: number): Float64Array {
  return Float64Array.from({ length: n }, (_, i) => Math.sin((i + 1) * 1.7 + seed * 0.9) * 2 ** ((i * 7 + seed * 5) % 9));
}

describe.each(devices)('on %s', (device) => {
  const leaf = (values: ArrayLike<number>, dtype: sg.DType = 'bfloat16'): sg.Tensor => {
    const x = sg.fromTypedArray(Float64Array.from(values), [values.length], { device, dtype });
    x.requiresGrad = true;
    return x;
  };
  /** Backward with the gradient `slopes` for `w`. */
  const give = (w: sg.Tensor, slopes: ArrayLike<number>): void => {
    sg.scope(() =>
      w
        .mul(sg.fromTypedArray(Float64Array.from(slopes), [slopes.length], { device, dtype: w.dtype }))
        .sum()
        .backward(),
    );
  };

  test.each(['bfloat16', 'float16'] as const)('what bfloat16 would swallow adds up: %s', async (dtype) => {
    const w = leaf([3, 3], dtype);
    give(w, [1, 0]);
    expect(w.grad!.dtype).toBe(dtype);
    const small = dtype === 'bfloat16' ? 2 ** -9 : 2 ** -12;
    for (let i = 0; i < 100; i++) give(w, [small, -small]);
    expect(w.grad!.dtype).toBe('float32');
    expect(await flatten([w.grad!])).toEqual([1 + 100 * small, -100 * small]);
  });

  test('many micro-batches: the float64 sum, to the accuracy of float32', async () => {
    const n = 1000;
    const w = leaf(wave(n, 0));
    const total = new Float64Array(n);
    for (let i = 0; i < 64; i++) {
      const slopes = await rounded(wave(n, i));
      for (let k = 0; k < n; k++) total[k]! += slopes[k]!;
      give(w, slopes);
    }
    expectClose(await flatten([w.grad!]), total, 64 * 2 ** -24, 'sum of micro-batches');
  });

  test('one backward makes no float32 gradient; the second replaces the first', async () => {
    const n = 1 << 16;
    const w = leaf(new Float64Array(n));
    const x = sg.ones([n], { device, dtype: 'bfloat16' });
    const step = async (): Promise<{ live: number; peak: number }> => {
      await sg.synchronize(device);
      const before = sg.memory(device).live;
      sg.resetPeakMemory(device);
      sg.scope(() => w.mul(x).sum().backward());
      await sg.synchronize(device);
      const { live, peak } = sg.memory(device);
      return { live: live - before, peak: peak - before };
    };
    const room = 8192;
    const first = await step();
    expect(first.live).toBeLessThan(2 * n + room);
    expect(first.peak).toBeLessThan(4 * n + room); // the product, then the gradient
    expect((await step()).live).toBeLessThan(2 * n + room);
    expect((await step()).live).toBeLessThan(room);
    expect(w.grad!.dtype).toBe('float32');
  });

  test('a leaf that is used several times in one backward', async () => {
    const w = leaf([1]);
    const part = (slope: number): sg.Tensor => w.mul(sg.full([1], slope, { device, dtype: 'bfloat16' }));
    sg.scope(() =>
      part(1)
        .add(part(2 ** -9))
        .add(part(2 ** -9))
        .sum()
        .backward(),
    );
    expect(w.grad!.dtype).toBe('float32');
    expect(await flatten([w.grad!])).toEqual([1 + 2 ** -8]);
  });

  test('gradDType: always the one that is said', async () => {
    const sums: Record<string, number> = { bfloat16: 1, float32: 1 + 2 ** -7, float64: 1 + 2 ** -7 };
    for (const dtype of ['bfloat16', 'float32', 'float64'] as const) {
      const w = leaf([1]);
      sg.amp.setGradientDType([w], dtype);
      expect([w.gradDType, w.detach().gradDType, w.mul(2).gradDType, w.view([1]).gradDType]).toEqual([dtype, null, null, null]);
      give(w, [1]);
      expect(w.grad!.dtype).toBe(dtype);
      for (let i = 0; i < 4; i++) give(w, [2 ** -9]);
      expect(w.grad!.dtype).toBe(dtype);
      expect(await flatten([w.grad!])).toEqual([sums[dtype]]);
    }
    const wide = leaf([1], 'float32');
    wide.gradDType = 'bfloat16';
    give(wide, [1 + 2 ** -9]);
    expect([wide.grad!.dtype, ...(await flatten([wide.grad!]))]).toEqual(['bfloat16', 1]);
    // changed on the way: the next contribution makes it so
    sg.amp.setGradientDType([wide], null);
    give(wide, [2 ** -9]);
    expect([wide.grad!.dtype, ...(await flatten([wide.grad!]))]).toEqual(['float32', 1 + 2 ** -9]);
    wide.gradDType = 'float16';
    give(wide, [0]);
    expect([wide.grad!.dtype, ...(await flatten([wide.grad!]))]).toEqual(['float16', 1 + 2 ** -9]);
  });

  test('grad() gives the dtype of the input, rounded once; a gradient of another dtype is taken in that of its tensor', async () => {
    const w = leaf([1, 1]);
    const y = [1, 2 ** -9, 2 ** -9, 2 ** -9].map((s) => w.mul(sg.full([2], s, { device, dtype: 'bfloat16' }))).reduce((a, b) => a.add(b));
    const [g, again, none] = sg.grad(y.sum(), [w, w, leaf([1])]);
    expect([g!.dtype, await flatten([g!]), none]).toEqual(['bfloat16', [1 + 2 ** -7, 1 + 2 ** -7], null]);
    expect(again).toBe(g);
    w.gradDType = 'float32';
    const z = w.mul(sg.full([2], 1, { device, dtype: 'bfloat16' })).add(w.mul(sg.full([2], 2 ** -9, { device, dtype: 'bfloat16' })));
    const [wide] = sg.grad(z.sum(), [w]);
    expect([wide!.dtype, await flatten([wide!])]).toEqual(['float32', [1 + 2 ** -9, 1 + 2 ** -9]]);
    // by hand through two parts of a model, as pipelines do
    const x = leaf([2, 2]);
    const [first, second] = [x.mul(3), leaf([0, 0])];
    second.add(second).sum().backward();
    first.backward({ gradient: second.grad! });
    expect([second.grad!.dtype, x.grad!.dtype, await flatten([x.grad!])]).toEqual(['float32', 'bfloat16', [6, 6]]);
  });

  test('gradients of gradients, hooks, retained graphs and gradients', async () => {
    const w = leaf([2]);
    const y = w.mul(w).mul(w).sum();
    const seen: string[] = [];
    w.registerHook((g) => void seen.push(g.dtype));
    w.registerPostAccumulateGradHook((l) => void seen.push(`sum ${l.grad!.dtype}`));
    y.backward({ createGraph: true });
    expect([w.grad!.dtype, await flatten([w.grad!])]).toEqual(['float32', [12]]);
    expect(seen).toEqual(['bfloat16', 'bfloat16', 'bfloat16', 'sum float32']);
    const second = sg.grad(w.grad!.sum(), [w])[0]!;
    expect([second.dtype, await flatten([second])]).toEqual(['bfloat16', [12]]);

    const v = leaf([1]);
    const z = v.mul(3);
    z.retainGrad();
    const out = z.sum();
    for (let i = 0; i < 3; i++) out.backward({ retainGraph: true });
    expect([v.grad!.dtype, await flatten([v.grad!])]).toEqual(['float32', [9]]);
    expect([z.grad!.dtype, await flatten([z.grad!])]).toEqual(['float32', [3]]);
  });

  test('a gradient that the user holds or has put there stays', async () => {
    const w = leaf([1]);
    const own = sg.tensor([1], { device, dtype: 'bfloat16' });
    w.grad = own;
    give(w, [2 ** -9]);
    expect([w.grad.dtype, await flatten([w.grad, own])]).toEqual(['float32', [1 + 2 ** -9, 1]]);
    const both = sg.tensor([1, 2], { device, dtype: 'bfloat16' });
    w.grad = both.slice(0, 0, 1);
    give(w, [2 ** -9]);
    expect(await flatten([w.grad, both])).toEqual([1 + 2 ** -9, 1, 2]);
    w.grad = sg.zeros([3], { device, dtype: 'bfloat16' });
    expect(() => give(w, [1])).toThrow(sg.ShardgradError);
    w.grad = sg.zeros([1], { device, dtype: 'bfloat16' });
    w.grad.dispose();
    expect(() => give(w, [1])).toThrow(sg.DisposedError);
  });

  test('nothing is left behind', () => {
    const w = leaf([1, 2]);
    const leaks = sg.checkLeaks(() => {
      for (let i = 0; i < 4; i++) give(w, [1, i]);
      w.grad!.dispose();
      w.grad = null;
      sg.scope(() => void sg.grad(w.mul(w).sum(), [w]));
    });
    expect(leaks).toEqual([]);
  });

  test('a model that moves takes float32 gradients along as they are', () => {
    const layer = new nn.Linear(2, 2, { device, dtype: 'bfloat16' });
    const run = (): void =>
      layer
        .forward(sg.ones([1, 2], { device, dtype: layer.weight.dtype }))
        .sum()
        .backward();
    run();
    layer.to('float16');
    expect(layer.weight.grad!.dtype).toBe('float16');
    run();
    layer.to('bfloat16');
    expect(layer.weight.grad!.dtype).toBe('float32');
    layer.to('float64');
    expect(layer.weight.grad!.dtype).toBe('float64');
  });

  const makers: Record<string, (p: sg.Tensor[]) => sg.optim.Optimizer> = {
    SGD: (p) => new optim.SGD(p, { lr: 0.1, momentum: 0.9 }),
    Adam: (p) => new optim.Adam(p, { lr: 0.1, weightDecay: 0.1 }),
    AdamW: (p) => new optim.AdamW(p, { lr: 0.1 }),
    Adagrad: (p) => new optim.Adagrad(p, { lr: 0.1 }),
    RMSprop: (p) => new optim.RMSprop(p, { lr: 0.1, momentum: 0.5, centered: true }),
    LAMB: (p) => new optim.LAMB(p, { lr: 0.1 }),
    Lion: (p) => new optim.Lion(p, { lr: 0.1 }),
  };
  test.each(Object.entries(makers))('%s and clipping take float32 gradients of 16-bit parameters', async (_, make) => {
    for (const maxNorm of [null, 0.5]) {
      const run = async (dtype: sg.DType): Promise<number[]> => {
        const ws = [leaf(await rounded(wave(40, 1))), leaf(await rounded(wave(7, 2))), leaf(wave(5, 3), 'float32')];
        const opt = make(ws);
        for (let s = 0; s < 3; s++) {
          // numbers that both dtypes have; beside them one in 16 bits
          for (const [i, w] of ws.entries()) {
            const g = sg.fromTypedArray(await rounded(wave(w.numel, 9 * s + i)), [w.numel], { device });
            w.grad = g.to(i === 0 ? dtype : i === 1 ? 'bfloat16' : 'float32');
          }
          if (maxNorm !== null && dtype === 'float32') {
            const norm = sg.optim.clipGradNorm(ws, maxNorm);
            expect(await norm.item()).toBeGreaterThan(maxNorm);
            expect(ws[0]!.grad!.dtype).toBe('float32');
            expect(await sg.optim.gradNorm(ws).item()).toBeCloseTo(maxNorm, 2);
          }
          opt.step();
        }
        return flatten(ws);
      };
      const wide = await run('float32');
      if (maxNorm === null) expect(wide).toEqual(await run('bfloat16'));
      expect(wide.every(Number.isFinite)).toBe(true);
    }
  });

  test('a training with accumulation follows float32 sums', async () => {
    const train = async (dtype: sg.DType | null): Promise<number[]> => {
      sg.manualSeed(3);
      const layer = new nn.Linear(6, 4, { device, dtype: 'bfloat16' });
      sg.amp.setGradientDType(layer.parameters(), dtype);
      const opt = new optim.AdamW(layer.parameters(), { lr: 0.05 });
      for (let s = 0; s < 3; s++) {
        for (let m = 0; m < 8; m++) {
          const x = sg.fromTypedArray(
            wave(30, 8 * s + m).map((v) => v / 256),
            [5, 6],
            { device, dtype: 'bfloat16' },
          );
          sg.scope(() => layer.forward(x).square().mean().div(8).backward());
        }
        opt.step();
        opt.zeroGrad();
      }
      return flatten(layer.parameters());
    };
    expect(await train(null)).toEqual(await train('float32'));
    expect(await train('bfloat16')).not.toEqual(await train('float32'));
  });
});

test('wrong dtypes for gradients', () => {
  const w = sg.ones([1], { dtype: 'bfloat16', requiresGrad: true });
  const set = (dtype: unknown): void => sg.amp.setGradientDType([w], dtype as sg.DType);
  expect(() => set('int64')).toThrow('gradDType: gradients are float16, bfloat16, float32 or float64, got int64');
  expect(() => set('float8_e4m3')).toThrow(sg.DTypeError);
  expect(() => set('toString')).toThrow(sg.DTypeError);
  expect(() => set(undefined)).toThrow(sg.DTypeError);
  expect(() => sg.amp.setGradientDType(w as never, 'float32')).toThrow('setGradientDType: expected a list of parameters');
  expect(() => sg.amp.setGradientDType([w, 1 as never], 'float32')).toThrow('setGradientDType: parameters must be tensors, got 1');
  expect(() => sg.amp.setGradientDType(null as never, 'float32')).toThrow(sg.ValueError);
  expect(() => sg.amp.setGradientDType([w.mul(2)], 'float32')).toThrow('gradDType: only leaves accumulate gradients');
  expect(w.gradDType).toBe(null);
});
