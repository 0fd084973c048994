// Stochastic rounding of bfloat16 parameters: against the rule written out, unbiased, and the same bits however a parameter is laid out,
// cut up and computed. The seeds are fixed, so the statistical tests always give the same.
import { afterEach, describe, expect, test } from 'vitest';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { Tensor } from '../lib/tensor.js';
import { devices } from './helpers/devices.js';
import { philox } from './helpers/philox.js';
import { stream, uniform } from './helpers/random.js';
import { type Layout, make, read } from './helpers/tensors.js';

const { optim } = sg;
type Options = Record<string, unknown>;
type Make = new (params: unknown, options: Options) => sg.optim.Optimizer<any>;

const scratch = new Float32Array(1);
const word = new Uint32Array(scratch.buffer);
const bitsOf = (x: number): number => {
  scratch[0] = x;
  return word[0]!;
};
const floatOf = (bits: number): number => {
  word[0] = bits;
  return scratch[0]!;
};

/** What a float32 number becomes, for element `i` of parameter `index` in its step `count`. */
function rounded(x: number, seed: bigint, index: number, count: number, i: number): number {
  const block = Math.floor(i / 8);
  const words = philox([block, 0, index, count], [Number(seed & 0xffffffffn), Number(seed >> 32n)]);
  const random = (words[Math.floor((i % 8) / 2)]! >>> (16 * (i % 2))) & 0xffff;
  return Number.isFinite(x) ? floatOf(((bitsOf(x) + random) & 0xffff0000) >>> 0) : x;
}

function leaf(t: Tensor): Tensor {
  t.requiresGrad = true;
  return t;
}
const values = (t: Tensor): number[] => Array.from(read(t).data);

describe.each(devices)('stochastic rounding on %s', (device) => {
  afterEach(() => void sg.manualSeed(0));

  test('the rule, element by element, step by step', () => {
    const seed = 0x123456789abcdef0n;
    sg.manualSeed(seed);
    const sizes = [3, 17, 40];
    const next = stream(3);
    const params = sizes.map((n) => leaf(make(uniform([n], -2, 2, next), 'bfloat16', device)));
    const optimizer = new optim.SGD(params, { lr: 1, stochasticRounding: true });
    const expected = params.map(values);
    for (let step = 1; step <= 3; step++) {
      params.forEach((p, i) => {
        p.grad = make(uniform(p.shape, -0.02, 0.02, next), 'float32', device);
        const g = values(p.grad);
        expected[i] = expected[i]!.map((x, k) => rounded(Math.fround(x - g[k]!), seed, i, step, k));
      });
      optimizer.step();
      expect(params.map(values)).toEqual(expected);
    }
    expect(optimizer.stateDict()).toMatchObject({ seed: seed.toString(), state: { 0: { step: 3 } } });
    expect(optimizer.stateDict().state[0]).not.toHaveProperty('master');
  });

  test('inf and NaN stay; the largest number may become inf; exact numbers stay', () => {
    const large = floatOf(0x7f7f0000);
    const p = leaf(make({ shape: [24], data: Float64Array.from({ length: 24 }, (_, i) => [large, 1.5, -0, 1e-40][i % 4]!) }, 'bfloat16', device));
    p.grad = make(
      {
        shape: [24],
        data: Float64Array.from({ length: 24 }, (_, i) => (i < 16 ? [-floatOf(0x7b000000), 0, 0, 0][i % 4]! : [-Infinity, NaN, Infinity, 0][i % 4]!)),
      },
      'float32',
      device,
    );
    new optim.SGD([p], { lr: 1, stochasticRounding: true }).step();
    const got = values(p);
    for (let i = 0; i < 24; i += 4) {
      expect(i < 16 ? [large, Infinity] : [Infinity]).toContain(got[i]);
      if (i < 16) expect([got[i + 1], got[i + 2] === 0]).toEqual([1.5, true]);
      else expect([got[i + 1], got[i + 2]]).toEqual([Number.NaN, -Infinity]);
      expect(got[i + 3]).toBe(got[3]);
    }
  });

  test('unbiased: a million roundings', () => {
    const each = 1 << 16;
    const shares = [0, 1, 3277, 8192, 16384, 21845, 30000, 32768, 40000, 45000, 49152, 55555, 60000, 65000, 65535, 65536].map((s) => s / 65536);
    sg.manualSeed(20);
    const p = leaf(sg.ones([shares.length, each], { dtype: 'bfloat16', device }));
    // between 1 and its neighbour 1 + 2^-7
    p.grad = sg
      .tensor(
        shares.map((s) => [-s / 128]),
        { device },
      )
      .expand([shares.length, each])
      .contiguous();
    new optim.SGD([p], { lr: 1, stochasticRounding: true }).step();
    const got = p.toTypedArraySync() as Float32Array;
    let [deviations, variance] = [0, 0];
    shares.forEach((share, k) => {
      let up = 0;
      for (let i = k * each; i < (k + 1) * each; i++) {
        if (got[i] === 1 + 1 / 128) up++;
        else if (got[i] !== 1) expect.fail(`element ${i} is ${got[i]}, no neighbour of ${1 + share / 128}`);
      }
      const sigma = Math.sqrt(each * share * (1 - share));
      if (sigma === 0) expect(up).toBe(share * each);
      else expect(Math.abs(up - share * each) / sigma, `${share}: ${up} of ${each}`).toBeLessThan(4);
      deviations += up - share * each;
      variance += sigma ** 2;
    });
    expect(Math.abs(deviations) / Math.sqrt(variance)).toBeLessThan(3);
  });

  test('every result is a neighbour, of numbers of any size', () => {
    const next = stream(8);
    const n = 1 << 14;
    const start = { shape: [n], data: Float64Array.from({ length: n }, () => (next() - 0.5) * 2 ** Math.floor(next() * 60 - 30)) };
    const p = leaf(make(start, 'bfloat16', device));
    const before = values(p);
    p.grad = make({ shape: [n], data: Float64Array.from(before, (x) => (x * (next() - 0.5)) / 8) }, 'float32', device);
    const g = values(p.grad);
    new optim.SGD([p], { lr: 1, stochasticRounding: true }).step();
    values(p).forEach((y, i) => {
      const bits = bitsOf(Math.fround(before[i]! - g[i]!));
      expect([floatOf((bits & 0xffff0000) >>> 0), floatOf((((bits & 0xffff0000) >>> 0) + (bits & 0xffff ? 0x10000 : 0)) >>> 0)]).toContain(y);
    });
  });

  // parameters of all sizes and layouts, as one optimizer sees them
  const shapes: readonly (readonly number[])[] = [[16384 * 2 + 9], [131, 251], [7], [5, 9], [1], [0, 3], [33]];
  const kinds: readonly (readonly [string, Options])[] = [
    ['SGD', { momentum: 0.9, nesterov: true, weightDecay: 0.01 }],
    ['Adam', { amsgrad: true }],
    ['AdamW', {}],
    ['Adagrad', {}],
    ['RMSprop', { centered: true, momentum: 0.5 }],
    ['LAMB', {}],
    ['Lion', {}],
  ];
  interface Way {
    readonly on?: string;
    readonly layout?: Layout;
    readonly gradient?: DType;
    readonly offset?: number;
    readonly groups?: readonly number[];
    readonly threads?: number;
  }
  function train(name: string, options: Options, way: Way = {}): number[][] {
    const on = way.on ?? device;
    sg.manualSeed(77);
    const next = stream(5);
    const place = (shape: readonly number[], dtype: DType): Tensor => {
      const x = uniform(shape, -1, 1, next);
      if (!way.offset) return make(x, dtype, on, way.layout);
      const all = make({ shape: [way.offset + x.data.length], data: Float64Array.from([...new Float64Array(way.offset), ...x.data]) }, dtype, on);
      let stride = 1;
      const strides = [...shape].reverse().map((s) => {
        const here = stride;
        stride *= s;
        return here;
      });
      return new Tensor(all.storage, shape, strides.reverse(), way.offset, dtype);
    };
    const params = shapes.map((s) => leaf(place(s, 'bfloat16')));
    const cuts = [0, ...(way.groups ?? []), params.length];
    const groups = cuts.slice(1).map((end, i) => ({ params: params.slice(cuts[i], end) }));
    const threads = sg.getNumThreads();
    if (way.threads) sg.setNumThreads(way.threads);
    try {
      const optimizer = new (optim as unknown as Record<string, Make>)[name]!(groups, { lr: 0.01, ...options, stochasticRounding: true });
      for (let step = 0; step < 3; step++) {
        for (const p of params) p.grad = place(p.shape, way.gradient ?? 'float32');
        optimizer.step(step === 1 ? { maxNorm: 50 } : {});
      }
      return params.map(values);
    } finally {
      sg.setNumThreads(threads);
    }
  }

  test.each(kinds)('%s %j: the same bits on every layout and device', (name, options) => {
    // LAMB's steps hang on norms, which each backend adds up in an order of its own
    const expected = train(name, options, { on: name === 'LAMB' ? device : 'cpu' });
    expect(train(name, options)).toEqual(expected);
    const ways: Way[] = [
      { layout: 'transposed' },
      { layout: 'sliced' },
      { layout: 'flipped' },
      { offset: 1 },
      { groups: [2, 5] },
      { threads: 1 },
      { threads: 3 },
    ];
    for (const way of ways) expect(train(name, options, way), JSON.stringify(way)).toEqual(expected);
  });

  test('steps far below the spacing are not lost', () => {
    sg.manualSeed(1);
    const [p, q] = [0, 1].map(() => leaf(sg.ones([4096], { dtype: 'bfloat16', device })));
    const optimizer = new optim.SGD([{ params: [p!], stochasticRounding: true }, { params: [q!] }], { lr: 1e-4 });
    for (let i = 0; i < 100; i++) {
      for (const x of [p!, q!]) x.grad = sg.ones([4096], { dtype: 'bfloat16', device });
      optimizer.step();
    }
    const mean = values(p!).reduce((a, b) => a + b) / 4096;
    expect(Math.abs(mean - 0.99)).toBeLessThan(3e-4); // sigma 1e-4
    expect(new Set(values(q!)).size).toBe(1);
    const { state } = optimizer.stateDict();
    expect([Object.keys(state[0]!), Object.keys(state[1]!)]).toEqual([['step'], ['step', 'master']]);
  });

  test('resumed, nothing changes, whatever the seed is by then', () => {
    const through = (stop: number | null): unknown => {
      sg.manualSeed(42);
      const next = stream(2);
      let p = leaf(make(uniform([1000], -1, 1, next), 'bfloat16', device));
      const begin = (): sg.optim.Optimizer<any> => new optim.AdamW([p], { lr: 0.01, stochasticRounding: true });
      let optimizer = begin();
      for (let step = 0; step < 8; step++) {
        if (step === stop) {
          sg.manualSeed(4711);
          const saved = optimizer.stateDict();
          p = leaf(p.detach().clone());
          optimizer = new optim.AdamW([p]);
          optimizer.loadStateDict(saved);
        }
        p.grad = make(uniform([1000], -1, 1, next), 'float32', device);
        optimizer.step();
      }
      return values(p);
    };
    expect(through(5)).toEqual(through(null));
  });

  test('what it is not for', () => {
    const half = leaf(sg.ones([2], { dtype: 'float16', device }));
    expect(() => new optim.SGD([half], { stochasticRounding: true })).toThrow(sg.DTypeError);
    expect(() => new optim.SGD([half], { stochasticRounding: 1 as never })).toThrow('SGD: stochasticRounding must be true or false, got 1');
    for (const dtype of ['float32', 'float64'] as const) {
      const [p, q] = [0, 1].map(() => leaf(sg.ones([9], { dtype, device })));
      for (const [x, stochasticRounding] of [
        [p!, true],
        [q!, false],
      ] as const) {
        x.grad = sg.full([9], 0.123, { dtype, device });
        new optim.Adam([x], { stochasticRounding }).step();
      }
      expect(values(p!)).toEqual(values(q!));
    }
  });

  test('switched on and off in the middle', () => {
    const p = leaf(sg.ones([8], { dtype: 'bfloat16', device }));
    const optimizer = new optim.SGD([p], { lr: 1e-4 });
    const step = (): void => {
      p.grad = sg.ones([8], { device });
      optimizer.step();
    };
    step();
    expect(optimizer.stateDict().state[0]).toHaveProperty('master');
    optimizer.groups[0]!.stochasticRounding = true;
    step();
    expect(optimizer.stateDict().state[0]).not.toHaveProperty('master');
    optimizer.groups[0]!.stochasticRounding = false;
    step();
    expect(values(optimizer.stateDict().state[0]!['master'] as Tensor)[0]).toBeCloseTo(values(p)[0]!, 2);
  });
});
