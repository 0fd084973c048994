// The loader's order, epochs and resumption in the main thread; 41-data-workers.test.ts repeats what matters with threads.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DataError, data, type Tensor, ValueError } from '../lib/index.js';
import { failure, range } from './helpers/files.js';

const dataset = (length: number): data.Dataset<{ x: Float32Array }> => ({ length, get: (i) => ({ x: Float32Array.of(i) }) });

async function collect(loader: AsyncIterable<unknown>, stopAfter = Number.POSITIVE_INFINITY): Promise<number[][]> {
  const out: number[][] = [];
  if (stopAfter === 0) return out;
  for await (const batch of loader) {
    out.push(((await (batch as { x: Tensor }).x.toArray()) as number[][]).map((row) => row[0]!));
    if (out.length === stopAfter) break;
  }
  return out;
}

describe('epochs', () => {
  test('in order, with a short last batch or without', async () => {
    expect(await collect(new data.DataLoader(dataset(5), { batchSize: 2 }))).toEqual([[0, 1], [2, 3], [4]]);
    expect(await collect(new data.DataLoader(dataset(5), { batchSize: 2, dropLast: true }))).toEqual([
      [0, 1],
      [2, 3],
    ]);
    expect(await collect(new data.DataLoader(dataset(0)))).toEqual([]);
    expect(new data.DataLoader(dataset(5), { batchSize: 2 }).length).toBe(3);
  });

  test('shuffled anew every epoch, the same for the same seed', async () => {
    const loader = new data.DataLoader(dataset(20), { batchSize: 20, shuffle: true, seed: 9 });
    const epochs = [await collect(loader), await collect(loader), await collect(loader)];
    expect(loader.epoch).toBe(3);
    expect(new Set(epochs.map(String)).size).toBe(3);
    for (const [order] of epochs) expect(order!.slice().sort((a, b) => a - b)).toEqual(range(20));
    const again = new data.DataLoader(dataset(20), { batchSize: 20, shuffle: true, seed: 9 });
    again.setEpoch(2);
    expect(await collect(again)).toEqual(epochs[2]);
  });

  test('a loop that was left begins its epoch anew', async () => {
    const loader = new data.DataLoader(dataset(20), { batchSize: 3, shuffle: true });
    const start = await collect(loader, 2);
    expect(await collect(loader, 2)).toEqual(start);
    expect(loader.epoch).toBe(0);
  });

  test('an order of batches, and ranks', async () => {
    const order = { length: 2, at: (batch: number, epoch: number) => (batch === 0 ? [epoch, 3] : [1]) };
    const loader = new data.DataLoader(dataset(4), { batchSampler: order });
    expect([await collect(loader), await collect(loader)]).toEqual([
      [[0, 3], [1]],
      [[1, 3], [1]],
    ]);
    const ranks = await Promise.all([0, 1].map((rank) => collect(new data.DataLoader(dataset(7), { batchSize: 2, rank, world: 2 }))));
    expect(ranks).toEqual([
      [
        [0, 1],
        [4, 5],
      ],
      [[2, 3], [6]],
    ]);
    const bad = new data.DataLoader(dataset(4), { batchSampler: { length: 1, at: () => [4] } });
    expect((await failure(collect(bad))).message).toBe('DataLoader: the sampler gave index 4 in batch 0, the dataset has 4 samples');
  });

  test('one loop at a time: a second one ends the first', async () => {
    const loader = new data.DataLoader(dataset(6), { batchSize: 2 });
    const first = loader[Symbol.asyncIterator]();
    await first.next();
    expect(await collect(loader)).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
    ]);
    expect((await failure(first.next())).message).toMatch(/this loop ended when another one over the same loader began/);
  });

  test('setEpoch inside a loop is for the next one', async () => {
    const loader = new data.DataLoader(dataset(6), { batchSize: 2 });
    let batches = 0;
    for await (const _ of loader) if (++batches === 2) loader.setEpoch(7);
    expect([batches, loader.stateDict()]).toEqual([3, { epoch: 7, position: 0, seed: 0, samples: 6, stream: null }]);
  });

  test('wrong options', () => {
    const make =
      (options: object, d: unknown = dataset(4)) =>
      () =>
        new data.DataLoader(d as never, options);
    expect(make({ batchSize: 0 })).toThrow('DataLoader: batchSize must be a whole number from 1, got 0');
    expect(make({ seed: Number.NaN })).toThrow(ValueError);
    expect(make({ shuffle: true, sampler: new data.SequentialSampler(4) })).toThrow('DataLoader: sampler and shuffle exclude each other');
    expect(make({ batchSampler: { length: 0, at: () => [] }, batchSize: 3 })).toThrow(ValueError);
    expect(make({ collate: 3 })).toThrow(ValueError);
    expect(make({ rank: 2, world: 2 })).toThrow(ValueError);
    expect(make({}, {})).toThrow('DataLoader: a dataset has length and get(index), or iterate(); got an object of class Object');
    expect(make({}, null)).toThrow(ValueError);
    expect(make({ workers: 1 })).toThrow(/cannot be sent to a worker thread; pass { module, export, args }/);
    expect(make({ workers: 1, collate: () => 0 }, new data.TensorDataset([new Float32Array(3)]))).toThrow(/a collate function cannot be sent to workers/);
  });
});

describe('resuming', () => {
  test('at any batch of any epoch, the rest is the same', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 7 }),
        fc.nat(60),
        fc.boolean(),
        fc.nat(100),
        async (n, batchSize, stop, dropLast, seed) => {
          const options = { batchSize, shuffle: true, seed, dropLast };
          const three = async (loader: data.DataLoader<{ x: Float32Array }>): Promise<number[][]> => {
            const out: number[][] = [];
            for (let epoch = loader.epoch; epoch < 3; epoch++) {
              loader.setEpoch(epoch);
              out.push(...(await collect(loader)));
            }
            return out;
          };
          const whole = await three(new data.DataLoader(dataset(n), options));
          const first = new data.DataLoader(dataset(n), options);
          const before: number[][] = [];
          while (before.length < Math.min(stop, whole.length)) before.push(...(await collect(first, Math.min(stop, whole.length) - before.length)));
          const state = JSON.parse(JSON.stringify(first.stateDict()));
          const second = new data.DataLoader(dataset(n), { ...options, seed: seed + 1 });
          second.loadStateDict(state);
          expect([...before, ...(await three(second))]).toEqual(whole);
        },
      ),
      { numRuns: 150 },
    );
  });

  test('the state inside the loop is the position after the batch', async () => {
    const loader = new data.DataLoader(dataset(10), { batchSize: 2, shuffle: true });
    const states: data.DataLoaderState[] = [];
    const all: number[][] = [];
    for await (const { x } of loader) {
      all.push(((await x.toArray()) as number[][]).flat());
      states.push(loader.stateDict());
    }
    for (const [i, state] of states.entries()) {
      const other = new data.DataLoader(dataset(10), { batchSize: 2, shuffle: true });
      other.loadStateDict(state);
      expect(await collect(other)).toEqual(all.slice(i + 1));
      expect(other.epoch).toBe(1);
    }
  });

  test('with another batch size', async () => {
    const loader = new data.DataLoader(dataset(12), { batchSize: 5 });
    await collect(loader, 1);
    const other = new data.DataLoader(dataset(12), { batchSize: 3 });
    other.loadStateDict(loader.stateDict());
    expect(other.length).toBe(4);
    expect(await collect(other, 1)).toEqual([[5, 6, 7]]);
    expect(other.stateDict().position).toBe(8);
  });

  test('states that do not belong here', () => {
    const loader = new data.DataLoader(dataset(12));
    expect(() => loader.loadStateDict({ ...loader.stateDict(), samples: 13 })).toThrow(
      'DataLoader.loadStateDict: the state was taken over 13 samples, the dataset has 12',
    );
    expect(() => loader.loadStateDict({ ...loader.stateDict(), epoch: -1 })).toThrow(ValueError);
    expect(() => loader.loadStateDict(null as never)).toThrow(ValueError);
  });
});

describe('streams', () => {
  const stream = (n: number): data.IterableDataset<{ x: Float32Array }> => ({
    *iterate({ shard, shards }) {
      for (let i = shard; i < n; i += shards) yield { x: Float32Array.of(i) };
    },
  });

  test('batched, resumed, shared between ranks', async () => {
    const loader = new data.DataLoader(stream(7), { batchSize: 3 });
    expect(await collect(loader)).toEqual([[0, 1, 2], [3, 4, 5], [6]]);
    expect(await collect(new data.DataLoader(stream(7), { batchSize: 3, dropLast: true }))).toEqual([
      [0, 1, 2],
      [3, 4, 5],
    ]);
    await collect(loader, 2);
    const again = new data.DataLoader(stream(7), { batchSize: 3 });
    again.loadStateDict(JSON.parse(JSON.stringify(loader.stateDict())));
    expect(await collect(again)).toEqual([[6]]);
    expect(await collect(new data.DataLoader(stream(7), { batchSize: 3, rank: 1, world: 2 }))).toEqual([[1, 3, 5]]);
    expect(() => loader.length).toThrow('DataLoader: an iterable dataset has no length');
    expect(() => new data.DataLoader(stream(7), { shuffle: true })).toThrow(ValueError);
  });

  test('asynchronous streams are closed when the loop is left', async () => {
    let closed = 0;
    const source: data.IterableDataset<{ x: Float32Array }> = {
      async *iterate() {
        try {
          for (let i = 0; ; i++) yield { x: Float32Array.of(i) };
        } finally {
          closed++;
        }
      },
    };
    expect(await collect(new data.DataLoader(source, { batchSize: 2 }), 2)).toEqual([
      [0, 1],
      [2, 3],
    ]);
    expect(closed).toBe(1);
    const broken: data.IterableDataset = {
      *iterate() {
        yield { x: Float32Array.of(0) };
        throw new Error('socket closed');
      },
    };
    const error = await failure(collect(new data.DataLoader(broken)));
    expect(error).toBeInstanceOf(DataError);
    expect(error.message).toBe('DataLoader: sample 1 of the stream (shard 0 of 1) failed: socket closed');
    expect((await failure(collect(new data.DataLoader({ iterate: () => 3 } as never)))).message).toBe(
      'DataLoader: dataset.iterate() must return an iterable, got 3',
    );
  });
});
