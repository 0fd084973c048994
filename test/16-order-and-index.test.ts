// Sorting, selection, running sums, drawing and indexing on every device, at sizes on both sides of where kernels change:
// short rows, rows of a block, rows of many tiles; indices that meet seldom, often, and all in one place. Small shapes,
// layouts and gradients are in the op table.
import { describe, expect, test } from 'vitest';
import type { DType, Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { integers, seedOf, stream, uniform } from './helpers/random.js';
import { along, build, type Nd, nd } from './helpers/reference.js';
import { make, read, rounded } from './helpers/tensors.js';

const words = (t: Tensor): Float64Array => read(t).data;
const sums: Partial<Record<DType, number>> = { float32: 3e-6, float64: 1e-13, float16: 1e-3, bfloat16: 8e-3 };

/** Positions in stable order, NaN above all numbers. */
function ordered(values: readonly number[], descending: boolean): number[] {
  const compare = (a: number, b: number): number => (Number.isNaN(a) || Number.isNaN(b) ? Number(Number.isNaN(a)) - Number(Number.isNaN(b)) : a - b);
  return values.map((_, i) => i).sort((a, b) => (descending ? -1 : 1) * compare(values[a]!, values[b]!) || a - b);
}

/** Numbers with ties, zeros of both signs, infinities and NaN. */
function awkward(shape: readonly number[], seed: string): Nd {
  const next = stream(seedOf(seed));
  const special = [0, -0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
  return nd(shape, () => (next() < 0.1 ? special[Math.floor(next() * special.length)]! : next() < 0.5 ? Math.floor(next() * 9) - 4 : 8 * next() - 4));
}

describe.each(devices)('on %s', (device) => {
  describe('order of rows', () => {
    const lengths: [number[], number, DType][] = [
      [[37, 8], 2, 'float32'],
      [[3, 256], 40, 'bfloat16'],
      [[2, 257], 7, 'float32'],
      [[2, 2100], 300, 'float64'],
      [[2, 4096], 50, 'float32'],
      [[1, 4097], 256, 'int32'],
      [[2, 9001], 5, 'bfloat16'],
      [[1, 9001], 4000, 'int64'],
    ];
    test.each(lengths)('%j, the first %i, %s', (shape, k, dtype) => {
      const floating = dtype.includes('float');
      const x = floating ? rounded(awkward(shape, `${shape}`), dtype, device) : integers(shape, -50, 50, stream(seedOf(`${shape}`)));
      for (const descending of [false, true]) {
        sg.scope(() => {
          const given = make(x, dtype, device, descending ? 'sliced' : 'contiguous');
          const indices = along(x, -1, (v) => ordered(v, descending));
          const values = along(x, -1, (v) => ordered(v, descending).map((i) => v[i]!));
          const sorted = sg.sort(given, -1, { descending });
          expectClose(words(sorted[1]), indices.data, 0, 'positions');
          expectClose(words(sorted[0]), values.data, 0, 'values');
          const best = sg.topk(given, k, -1, { largest: descending });
          expectClose(words(best[1]), along(indices, -1, (v) => v.slice(0, k)).data, 0, 'positions of the first');
          expectClose(words(best[0]), along(values, -1, (v) => v.slice(0, k)).data, 0, 'the first');
        });
      }
    });
  });

  describe('running sums and products', () => {
    test.each([[[5, 1024]], [[2, 1025]], [[1, 2049]], [[3, 4111]], [[1, 70_001]]])('%j', (shape) => {
      const x = rounded(uniform(shape, 0.5, 1.5, stream(seedOf(`${shape}`))), 'float32', device);
      const run = (v: readonly number[], f: (a: number, b: number) => number): number[] => {
        let total = Number.NaN;
        return v.map((e, i) => (total = i === 0 ? e : f(total, e)));
      };
      sg.scope(() => {
        const sum = sg.cumsum(make(x, 'float32', device), -1);
        expectClose(words(sum), along(x, -1, (v) => run(v, (a, b) => a + b)).data, 1e-7, 'cumsum');
        const whole = sg.cumsum(
          make(
            nd(shape, (i) => (i % 5) - 2),
            'int32',
            device,
          ),
          -1,
        );
        expectClose(
          words(whole),
          along(
            nd(shape, (i) => (i % 5) - 2),
            -1,
            (v) => run(v, (a, b) => a + b),
          ).data,
          0,
          'cumsum of integers',
        );
      });
    });

    test('a product that ends at 0 stays there, however large its other parts are', () => {
      const x = nd([2, 5000], (i) => (i % 5000 === 3 ? 0 : 1e30));
      const expected = [Math.fround(1e30), Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 0, 0];
      const y = words(sg.cumprod(make(x, 'float32', device), -1));
      for (const row of [0, 5000]) expect(Array.from(y.subarray(row, row + 5))).toEqual(expected);
      expect(y.filter((v) => v === 0).length).toBe(2 * 4997);
    });
  });

  test('drawing gives what it gives on the CPU', () => {
    const weights = nd([5, 4500], (i) => (i % 3 === 0 ? 0 : 1 + (i % 7)));
    for (const [replacement, samples] of [
      [true, 400],
      [false, 30],
      [false, 700],
    ] as const) {
      const draw = (on: string): Float64Array => words(sg.multinomial(make(weights, 'float32', on), samples, { replacement, generator: new sg.Generator(3) }));
      const drawn = draw(device);
      expect(drawn).toEqual(draw('cpu'));
      expect(drawn.every((i, at) => weights.data[Math.floor(at / samples) * 4500 + i] !== 0)).toBe(true);
    }
  });

  describe('indices that meet', () => {
    // [rows of the table, places to index, columns]
    const problems: [number, number, number][] = [
      [50, 20, 3],
      [4, 300, 1],
      [1, 5000, 2],
      [700, 5000, 8],
      [3, 1000, 16],
    ];
    const dtypes: DType[] = ['float32', 'bfloat16', 'float64', 'int32'];
    const cases = problems.flatMap((p) => dtypes.map((dtype) => [...p, dtype] as const));

    test.each(cases)('%i rows, %i places, %i columns of %s', (rows, places, columns, dtype) => {
      const next = stream(seedOf(`${rows} ${places} ${columns}`));
      const index = integers([places], -rows, rows, next);
      const [table, values] = [
        [rows, columns],
        [places, columns],
      ].map((s) => (dtype === 'int32' ? integers(s, -100, 100, next) : rounded(uniform(s, -1, 1, next), dtype, device))) as [Nd, Nd];
      const added = nd(table.shape, table.data);
      const last = nd(table.shape, table.data);
      index.data.forEach((r, p) => {
        for (let c = 0; c < columns; c++) {
          const at = (r < 0 ? r + rows : r) * columns + c;
          added.data[at]! += values.data[p * columns + c]!;
          last.data[at] = values.data[p * columns + c]!;
        }
      });
      sg.scope(() => {
        const [x, i, v] = [make(table, dtype, device), make(index, 'int64', device), make(values, dtype, device)];
        const wide = sg.expand(sg.reshape(i, [places, 1]), [places, columns]);
        const tolerance = sums[dtype] ?? 0;
        expectClose(words(sg.indexAdd(x, 0, i, v)), added.data, tolerance, 'indexAdd');
        expectClose(words(sg.scatterAdd(x, 0, wide, v)), added.data, tolerance, 'scatterAdd of rows');
        expectClose(words(sg.scatterAdd(x, 0, sg.clone(wide), v)), added.data, tolerance, 'scatterAdd of elements');
        expectClose(words(sg.indexPut(x, [i], v, { accumulate: true })), added.data, tolerance, 'indexPut, accumulating');
        expectClose(words(sg.indexPut(x, [i], v)), last.data, 0, 'indexPut');
        expectClose(words(sg.scatter(x, 0, sg.clone(wide), v)), last.data, 0, 'scatter');
        expectClose(
          words(sg.indexSelect(x, 0, i)),
          build([places, columns], ([p, c]) => table.data[((index.data[p!]! + rows) % rows) * columns + c!]!).data,
          0,
          'indexSelect',
        );
        const again = [sg.indexAdd(x, 0, i, v), sg.scatterAdd(x, 0, wide, v)].map(words);
        expect(again[0]).toEqual(again[1]); // and every time
      });
    });

    test('the gradient of an embedding leaves out its padding', () => {
      const [rows, columns] = [11, 24];
      const index = integers([3, 500], 0, rows, stream(5));
      for (const dtype of ['float32', 'bfloat16'] as const) {
        const dy = rounded(uniform([3, 500, columns], -1, 1, stream(6)), dtype, device);
        const expected = nd([rows, columns], () => 0);
        index.data.forEach((r, p) => {
          for (let c = 0; c < columns && r !== 4; c++) expected.data[r * columns + c]! += dy.data[p * columns + c]!;
        });
        sg.scope(() => {
          const weight = make(uniform([rows, columns], -1, 1, stream(7)), dtype, device);
          weight.requiresGrad = true;
          sg.embedding(make(index, 'int32', device), weight, { paddingIdx: 4 }).backward({ gradient: make(dy, dtype, device) });
          expectClose(words(weight.grad!), expected.data, sums[dtype]!, dtype);
          weight.grad = null;
        });
      }
    });
  });

  describe('indices out of range', () => {
    const long = (values: number[], shape = [values.length]): Tensor => make(nd(shape, values), 'int64', device);

    test.each([
      ['gather', () => sg.gather(sg.ones([2, 3], { device }), 1, long([0, 1, 3, 0], [2, 2])), 'gather: index 3 is out of range [-3, 3) at position [1, 0]'],
      ['indexSelect', () => sg.indexSelect(sg.ones([2, 3], { device }), 0, long([1, -3])), 'indexSelect: index -3 is out of range [-2, 2) at position 1'],
      ['index', () => sg.index(sg.ones([4, 4], { device }), long([1, 2]), long([0, 9])), 'index: index 9 is out of range [-4, 4) at position 1'],
      ['embedding', () => sg.embedding(long([0, -1]), sg.ones([4, 2], { device })), 'embedding: index -1 at position 1 is out of range: there are 4 rows'],
      ['oneHot', () => sg.oneHot(long([0, 7]), 7), 'oneHot: index 7 at position 1 is out of range: there are 7 classes'],
    ] as const)('%s', async (_, run, text) => {
      await expect(run().toArray()).rejects.toThrow(new sg.ValueError(text));
    });

    test('writing changes nothing then', async () => {
      const x = make(
        nd([300, 2], (i) => i),
        'float32',
        device,
      );
      const index = long(Array.from({ length: 300 }, (_, i) => (i === 77 ? 300 : i % 9)));
      const before = words(x);
      const zeros = sg.zeros([300, 2], { device });
      for (const write of [() => sg.indexPut_(x, [index], zeros), () => sg.indexAdd_(x, 0, index, sg.ones([300, 2], { device }))]) {
        write();
        await expect(x.toArray()).rejects.toThrow('index 300 is out of range [-300, 300) at position 77');
        expect(words(x)).toEqual(before);
      }
    });

    test('weights that are none', async () => {
      const draw = (weights: number[], samples: number, replacement: boolean) =>
        sg.multinomial(make(nd([weights.length], weights), 'float32', device), samples, { replacement }).toArray();
      for (const replacement of [false, true]) {
        await expect(draw([1, -1, 1], 1, replacement)).rejects.toThrow('multinomial: probability -1 at [0, 1] is negative or not finite');
        await expect(draw([1, Number.NaN], 1, replacement)).rejects.toThrow('multinomial: probability nan at [0, 1] is negative or not finite');
        await expect(draw([0, 0, 0], 1, replacement)).rejects.toThrow('multinomial: the probabilities of row 0 are all 0');
      }
      await expect(draw([0, 2, 0], 2, false)).rejects.toThrow('cannot draw 2 samples without replacement from row 0, which has 1 non-zero probabilities');
    });
  });
});
