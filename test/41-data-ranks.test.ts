// Loaders of several ranks: every sample once an epoch over all of them, in the batches of one process, and an epoch goes on in its
// middle with another number of ranks and another batch size.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { data, type Tensor } from '../lib/index.js';
import { range } from './helpers/files.js';

type Batches = number[][];
type Loader = data.DataLoader<{ x: Float32Array }>;
const dataset = (length: number): data.Dataset<{ x: Float32Array }> => ({ length, get: (i) => ({ x: Float32Array.of(i) }) });
const loaders = (n: number, world: number, options: data.DataLoaderOptions): Loader[] =>
  range(world).map((rank) => new data.DataLoader(dataset(n), { ...options, rank, world }));
const sorted = (values: readonly number[]): number[] => values.slice().sort((a, b) => a - b);

async function collect(loader: Loader, batches = Number.POSITIVE_INFINITY): Promise<Batches> {
  const out: Batches = [];
  if (batches === 0) return out;
  for await (const batch of loader) {
    out.push(((await (batch as { x: Tensor }).x.toArray()) as number[][]).map((row) => row[0]!));
    if (out.length === batches) break;
  }
  return out;
}

/** The ranks' batches, one after another in each step. */
function laidTogether(ranks: readonly Batches[]): Batches {
  return range(Math.max(0, ...ranks.map((r) => r.length))).map((step) => ranks.flatMap((r) => r[step] ?? []));
}

const length = fc.integer({ min: 0, max: 60 });
const world = fc.integer({ min: 1, max: 5 });
const batchSize = fc.integer({ min: 1, max: 6 });

describe('an epoch', () => {
  test('is that of one process, batch for batch', async () => {
    await fc.assert(
      fc.asyncProperty(length, world, batchSize, fc.boolean(), fc.boolean(), async (n, w, b, shuffle, dropLast) => {
        const options = { shuffle, seed: 7, dropLast };
        const one = new data.DataLoader(dataset(n), { ...options, batchSize: b * w });
        const ranks = loaders(n, w, { ...options, batchSize: b });
        for (let epoch = 0; epoch < 2; epoch++) {
          const parts = await Promise.all(ranks.map((r) => collect(r)));
          expect(laidTogether(parts)).toEqual(await collect(one));
          const counts = parts.map((p) => p.flat().length);
          expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
          for (const r of ranks) expect([r.length, r.epoch]).toEqual([one.length, epoch + 1]);
        }
      }),
      { numRuns: 150 },
    );
  });

  test('padded, gives every rank equally many samples', async () => {
    await fc.assert(
      fc.asyncProperty(length, world, batchSize, async (n, w, b) => {
        const parts = await Promise.all(loaders(n, w, { batchSize: b, shuffle: true, pad: true }).map((r) => collect(r)));
        for (const part of parts) expect(part.map((x) => x.length)).toEqual(parts[0]!.map((x) => x.length));
        expect(new Set(parts.flat(2))).toEqual(new Set(range(n)));
        expect(parts.flat(2).length).toBeLessThan(n + w);
      }),
      { numRuns: 100 },
    );
  });

  test('advances by itself, and setEpoch chooses', async () => {
    const [a, b] = loaders(20, 2, { batchSize: 3, shuffle: true }) as [Loader, Loader];
    const first = laidTogether([await collect(a), await collect(b)]);
    const second = laidTogether([await collect(a), await collect(b)]);
    expect(second).not.toEqual(first);
    for (const r of [a, b]) r.setEpoch(0);
    expect(laidTogether([await collect(a), await collect(b)])).toEqual(first);
  });
});

describe('an epoch goes on with other ranks and batches', () => {
  const part = fc.record({ w: world, b: batchSize, steps: fc.nat(6) });

  test('and every sample comes once', async () => {
    await fc.assert(
      fc.asyncProperty(length, fc.array(part, { minLength: 1, maxLength: 4 }), fc.boolean(), async (n, parts, shuffle) => {
        const seen: number[] = [];
        let state: string | null = null;
        for (const [i, { w, b, steps }] of parts.entries()) {
          const ranks = loaders(n, w, { batchSize: b, shuffle, seed: 3 });
          for (const r of ranks) if (state !== null) r.loadStateDict(JSON.parse(state));
          const last = i === parts.length - 1;
          const got = await Promise.all(ranks.map((r) => collect(r, last ? undefined : steps)));
          seen.push(...laidTogether(got).flat());
          // at the end of an epoch a rank without samples in the last batch is in the next one already
          if (!last && ranks[0]!.epoch === 1) break;
          if (!last && steps > 0) state = JSON.stringify(ranks[0]!.stateDict());
        }
        expect(sorted(seen)).toEqual(range(n));
        // in the order of one process
        expect(seen).toEqual((await collect(new data.DataLoader(dataset(n), { batchSize: 1, shuffle, seed: 3 }))).flat());
      }),
      { numRuns: 300 },
    );
  });

  test('all ranks have the same state; dropLast loses less than a batch', async () => {
    await fc.assert(
      fc.asyncProperty(length, part, part, async (n, before, after) => {
        const common = { shuffle: true, dropLast: true };
        const first = loaders(n, before.w, { ...common, batchSize: before.b });
        const steps = Math.min(before.steps, first[0]!.length);
        const seen = (await Promise.all(first.map((r) => collect(r, steps)))).flat(2);
        const states = first.map((r) => JSON.stringify(r.stateDict()));
        expect(new Set(states).size).toBe(1);
        const second = loaders(n, after.w, { ...common, batchSize: after.b });
        for (const r of second) r.loadStateDict(JSON.parse(states[0]!));
        seen.push(...(await Promise.all(second.map((r) => collect(r)))).flat(2));
        expect(new Set(seen).size).toBe(seen.length);
        expect(n - seen.length).toBeLessThan(after.w * after.b);
        // the next epoch is whole again
        const next = (await Promise.all(second.map((r) => collect(r)))).flat(2);
        expect(next.length).toBe(n - (n % (after.w * after.b)));
      }),
      { numRuns: 150 },
    );
  });

  test('but not that of a stream', async () => {
    const stream: data.IterableDataset<{ x: Float32Array }> = {
      *iterate({ shard, shards }) {
        for (let i = shard; i < 20; i += shards) yield { x: Float32Array.of(i) };
      },
    };
    const loader = new data.DataLoader(stream, { batchSize: 2, rank: 1, world: 2 });
    for await (const _ of loader) break;
    const state = loader.stateDict();
    expect(() => new data.DataLoader(stream, { batchSize: 2, rank: 1, world: 3 }).loadStateDict(state)).toThrow(
      'DataLoader.loadStateDict: the state of the stream was taken with 2 rank(s), there are 3; a stream cannot be dealt anew',
    );
    const again = new data.DataLoader(stream, { batchSize: 2, rank: 1, world: 2 });
    again.loadStateDict(JSON.parse(JSON.stringify(state)));
    expect((await collect(again))[0]).toEqual([5, 7]);
  });
});

test('wrong options', () => {
  const make = (options: data.DataLoaderOptions) => () => new data.DataLoader(dataset(4), options);
  expect(make({ pad: true, dropLast: true })).toThrow('DataLoader: dropLast and pad exclude each other');
  expect(make({ pad: true, batchSampler: { length: 0, at: () => [] } })).toThrow(/batchSampler decides the batches alone/);
  expect(() => new data.DataLoader({ *iterate() {} }, { pad: true })).toThrow(/has its own order; leave out shuffle, sampler, batchSampler and pad/);
});
