// Random numbers: bit for bit what Philox gives at each element, whatever the threads, strides and layout; distributions;
// generators that repeat, resume and do not disturb each other.
import { describe, expect, test } from 'vitest';
import type { RandomKey, Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { philox, wordAt } from './helpers/philox.js';
import { nd } from './helpers/reference.js';
import { make, read } from './helpers/tensors.js';

const values = (t: Tensor): Float64Array => read(t).data;
const mean = (v: Float64Array): number => v.reduce((a, b) => a + b, 0) / v.length;

/** The key of a generator's next draw. */
const peek = (seed: number): RandomKey => new sg.Generator(seed).nextKey();
const words = (key: RandomKey, n: number): number[] => Array.from({ length: n }, (_, i) => wordAt(key, i));

describe.each(devices)('Philox on %s', (device) => {
  // the authors' known answers
  test.each([
    [
      [0, 0, 0, 0],
      [0, 0],
      [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
    ],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    ],
  ])('counter %j', (counter, key, expected) => {
    expect(philox(counter, key)).toEqual(expected);
  });

  test('uniform numbers are the upper 24 bits of each word', () => {
    const t = sg.rand([67], { generator: new sg.Generator(5), device });
    expect(Array.from(values(t))).toEqual(words(peek(5), 67).map((w) => (w >>> 8) * 2 ** -24));
  });

  test('normal numbers are pairs of Box and Muller', () => {
    const t = sg.randn([66], { generator: new sg.Generator(2n ** 40n + 3n), device });
    const w = words(new sg.Generator(2n ** 40n + 3n).nextKey(), 66);
    const expected = w.map((_, i) => {
      const [u, v] = [(w[i - (i % 2)]! + 1) * 2 ** -32, (w[i - (i % 2) + 1]! >>> 8) * 2 ** -24];
      return Math.sqrt(-2 * Math.log(u)) * (i % 2 ? Math.sin(2 * Math.PI * v) : Math.cos(2 * Math.PI * v));
    });
    expectClose(values(t), expected, 1e-6, 'randn');
  });

  test('dropout keeps the elements whose word reaches p', () => {
    const key: RandomKey = [7, 8, 9, 10];
    const p = 0.3;
    const kept = words(key, 60).map((w) => (w >= p * 2 ** 32 ? 1 / (1 - p) : 0));
    for (const layout of ['contiguous', 'transposed', 'sliced'] as const) {
      const x = make(
        nd([5, 12], (i) => i + 1),
        'float32',
        device,
        layout,
      );
      x.requiresGrad = true;
      const y = sg.dropout(x, p, { key: () => key });
      expectClose(
        values(y),
        kept.map((k, i) => k * (i + 1)),
        1e-7,
        layout,
      );
      y.sum().backward();
      expectClose(values(x.grad!), kept, 1e-7, `${layout}, gradient`);
    }
  });
});

describe.each(devices)('what does not matter on %s', (device) => {
  test('the number of threads', () => {
    const threads = sg.getNumThreads();
    const draw = (n: number): Float64Array[] => {
      sg.setNumThreads(n);
      const generator = new sg.Generator(1);
      return [
        sg.randn([300_001], { generator, device }),
        sg.rand([300_001], { generator, device, dtype: 'float64' }),
        sg.randint(0, 10, [300_001], { generator, device }),
      ].map(values);
    };
    const [one, two] = [draw(1), draw(2)];
    sg.setNumThreads(threads);
    one.forEach((v, i) => expectClose(v, two[i]!, 0, `draw ${i}`));
  });

  test('how a tensor is split: dropout by a layout is part of the whole', () => {
    const x = sg.ones([8, 10], { device });
    const key: RandomKey = [1, 2, 3, 4];
    const whole = values(
      sg
        .dropout(x, 0.5, { key: () => key })
        .narrow(0, 2, 3)
        .narrow(1, 4, 5)
        .contiguous(),
    );
    const part = values(sg.dropout(sg.ones([3, 5], { device }), 0.5, { key: () => key, layout: { globalShape: [8, 10], offset: [2, 4] } }));
    expect(part).toEqual(whole);
    expect(new Set(part)).toEqual(new Set([0, 2]));
  });
});

describe.each(devices)('distributions on %s', (device) => {
  const n = 200_000;
  const generator = (): sg.Generator => new sg.Generator(11);

  test('normal: the first four moments, and the tails', () => {
    for (const dtype of ['float32', 'float64'] as const) {
      const v = values(sg.randn([n], { generator: generator(), dtype, device }));
      const moment = (k: number): number => mean(v.map((x) => x ** k));
      expect(Math.abs(moment(1))).toBeLessThan(0.01);
      expect(Math.abs(moment(2) - 1)).toBeLessThan(0.02);
      expect(Math.abs(moment(3))).toBeLessThan(0.04);
      expect(Math.abs(moment(4) - 3)).toBeLessThan(0.12);
      expect(v.filter((x) => Math.abs(x) > 3).length / n).toBeCloseTo(0.0027, 3);
    }
  });

  test('uniform: moments, bounds and no two neighbours alike', () => {
    for (const dtype of ['float32', 'float64', 'bfloat16'] as const) {
      const v = values(sg.uniform_(sg.empty([n], { dtype, device }), -1, 3, { generator: generator() }));
      expect(Math.abs(mean(v) - 1)).toBeLessThan(0.02);
      expect(Math.abs(mean(v.map((x) => (x - 1) ** 2)) - 16 / 12)).toBeLessThan(0.02);
      expect(v.every((x) => x >= -1 && x < 3)).toBe(true);
      const product = mean(v.slice(1).map((x, i) => (x - 1) * (v[i]! - 1)));
      expect(Math.abs(product)).toBeLessThan(0.02);
    }
  });

  test('whole numbers, permutations, coins', () => {
    const v = values(sg.randint(-3, 4, [n], { generator: generator(), device }));
    const counts = Array.from({ length: 7 }, (_, k) => v.filter((x) => x === k - 3).length);
    expect(counts.reduce((a, b) => a + b, 0)).toBe(n);
    for (const count of counts) expect(Math.abs(count / n - 1 / 7)).toBeLessThan(0.004);
    const order = values(sg.randperm(1000, { generator: generator(), device }));
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    expect(order.filter((x, i) => x === i).length).toBeLessThan(10);
    expect(Math.abs(mean(values(sg.bernoulli(sg.full([n], 0.2, { device }), { generator: generator() }))) - 0.2)).toBeLessThan(0.005);
  });

  test('multinomial follows the weights, without repeating where it must not', () => {
    const weights = sg.tensor(
      [
        [1, 0, 3, 6],
        [2, 2, 0, 0],
      ],
      { device },
    );
    const drawn = read(sg.multinomial(weights, 20_000, { replacement: true, generator: generator() })).data;
    const share = (row: number, k: number): number => drawn.subarray(row * 20_000, (row + 1) * 20_000).filter((x) => x === k).length / 20_000;
    [
      [0.1, 0, 0.3, 0.6],
      [0.5, 0.5, 0, 0],
    ].forEach((row, r) => row.forEach((p, k) => expect(Math.abs(share(r, k) - p)).toBeLessThan(0.015)));
    expect(share(0, 1)).toBe(0);

    const sets = values(sg.multinomial(sg.tensor([1, 2, 3, 4], { device }).expand([5000, 4]), 2, { generator: generator() }));
    let first = 0;
    for (let i = 0; i < 5000; i++) {
      expect(sets[2 * i]).not.toBe(sets[2 * i + 1]);
      if (sets[2 * i] === 3) first++;
    }
    expect(Math.abs(first / 5000 - 0.4)).toBeLessThan(0.03);
    expect(() => sg.multinomial(sg.tensor([1, 0, 0], { device }), 2).toArraySync()).toThrow(sg.ValueError);
  });
});

describe('generators', () => {
  test('repeat from a seed, go on from a state, and differ from draw to draw', () => {
    const g = new sg.Generator(9);
    const [a, b] = [values(sg.randn([8], { generator: g })), values(sg.randn([8], { generator: g }))];
    expect(a).not.toEqual(b);
    const state = JSON.parse(JSON.stringify(g.getState()));
    const c = values(sg.randn([8], { generator: g }));
    const resumed = new sg.Generator();
    resumed.setState(state);
    expect(values(sg.randn([8], { generator: resumed }))).toEqual(c);
    expect(values(sg.randn([8], { generator: g.manualSeed(9) }))).toEqual(a);
    expect(values(sg.randn([8], { generator: new sg.Generator(10) }))).not.toEqual(a);
  });

  test('the default one follows manualSeed, and withGenerator leaves it alone', async () => {
    sg.manualSeed(4);
    const first = values(sg.rand([4]));
    sg.manualSeed(4);
    await sg.withGenerator(new sg.Generator(1), async () => {
      sg.rand([4]);
      await Promise.resolve();
      sg.rand([4]);
    });
    expect(values(sg.rand([4]))).toEqual(first);
  });
});
