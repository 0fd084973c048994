// Datasets, orders, tokenizers and batches in the main thread.
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DataError, data, ValueError } from '../lib/index.js';
import { failure, range, scratchFolder } from './helpers/files.js';

const dir = scratchFolder();
const path = (name: string): string => join(dir, name);

describe('order', () => {
  test('a permutation has every element once, whatever its size and seed', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 3000 }), fc.maxSafeNat(), fc.nat(), (n, seed, epoch) => {
        const p = new data.Permutation(n, seed, epoch);
        expect(new Set(range(n).map((i) => p.at(i)))).toEqual(new Set(range(n)));
      }),
      { numRuns: 200 },
    );
  });

  test('huge permutations cost nothing to make and stay in range', () => {
    const p = new data.Permutation(2 ** 53 - 1, 7);
    const seen = new Set(range(1000).map((i) => p.at(i)));
    expect(seen.size).toBe(1000);
    for (const x of seen) expect(Number.isSafeInteger(x) && x >= 0 && x < 2 ** 53 - 1).toBe(true);
  });

  test('all orders of few elements occur about equally often, and neighbours are independent', () => {
    const counts = new Map<string, number>();
    const runs = 24_000;
    for (let seed = 0; seed < runs; seed++) {
      const p = new data.Permutation(4, seed);
      const key = range(4)
        .map((i) => p.at(i))
        .join('');
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    // chi-square with 23 degrees of freedom: above 50 once in a thousand
    const chi = [...counts.values()].reduce((sum, n) => sum + (n - runs / 24) ** 2 / (runs / 24), 0);
    expect([counts.size, chi < 50]).toEqual([24, true]);
    const p = new data.Permutation(100_000, 3);
    const values = range(100_000).map((i) => p.at(i) / 100_000 - 0.5);
    const correlation = values.slice(1).reduce((sum, v, i) => sum + v * values[i]!, 0) / values.length / (1 / 12);
    expect(Math.abs(correlation)).toBeLessThan(0.02);
  });

  test('a random sampler depends on (seed, epoch) alone', () => {
    const order = (seed: number, epoch: number): number[] => {
      const sampler = new data.RandomSampler(50, { seed });
      return range(50).map((i) => sampler.at(i, epoch));
    };
    expect(order(1, 2)).toEqual(order(1, 2));
    expect(order(1, 2)).not.toEqual(order(1, 3));
    expect(order(1, 2)).not.toEqual(order(2, 2));
    // fixed for all time: a state saved by an older version must mean the same order
    expect(order(0, 0).slice(0, 8)).toEqual([48, 37, 14, 40, 5, 49, 8, 7]);
  });

  test('a random order of chosen samples', () => {
    const sampler = new data.SubsetRandomSampler([3, 5, 8, 13], { seed: 1 });
    const order = (epoch: number): number[] => range(sampler.length).map((i) => sampler.at(i, epoch));
    expect(order(0).toSorted((a, b) => a - b)).toEqual([3, 5, 8, 13]);
    expect(order(0)).toEqual(order(0));
    expect(new Set(range(10).map((epoch) => order(epoch).join())).size).toBeGreaterThan(3);
    expect(() => new data.SubsetRandomSampler([1, -1])).toThrow('SubsetRandomSampler: index 1 must be a whole number from 0, got -1');
  });

  test.each([true, false])('samples by weight, replacement %s', (replacement) => {
    const weights = [1, 0, 3, 4];
    const sampler = new data.WeightedRandomSampler(weights, replacement ? 8000 : 3, { replacement, seed: 2 });
    const draws = (epoch: number): number[] => range(sampler.length).map((i) => sampler.at(i, epoch));
    expect(draws(1)).toEqual(draws(1));
    expect(draws(1)).not.toEqual(draws(2));
    // what comes first: of 8000 draws by chance, or in 8000 epochs
    const first = replacement ? draws(0) : range(8000).map((epoch) => sampler.at(0, epoch));
    for (const [i, weight] of weights.entries()) expect(Math.abs(first.filter((d) => d === i).length / 8000 - weight / 8)).toBeLessThan(0.02);
    if (!replacement) expect(draws(5).toSorted((a, b) => a - b)).toEqual([0, 2, 3]);
  });

  test('wrong weights', () => {
    expect(() => new data.WeightedRandomSampler([1, Number.NaN], 2)).toThrow('WeightedRandomSampler: weight 1 must be a finite number from 0, got NaN');
    expect(() => new data.WeightedRandomSampler([0, 0], 2)).toThrow('WeightedRandomSampler: the weights sum to 0');
    expect(() => new data.WeightedRandomSampler([1, 0], 2, { replacement: false })).toThrow(
      'WeightedRandomSampler: cannot draw 2 of 1 samples with a weight above 0 without replacement',
    );
    expect(() => new data.WeightedRandomSampler('12' as never, 2)).toThrow(ValueError);
  });

  test('ranks share an epoch: together they are one process with a larger batch', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 4 }), (n, world, batchSize) => {
        const base = new data.RandomSampler(n, { seed: 1 });
        const ranks = range(world).map((rank) => new data.BatchSampler(new data.DistributedSampler(base, { rank, world, dropLast: true }), batchSize));
        const single = range(Math.floor(n / world) * world).map((i) => base.at(i, 3));
        const together = range(ranks[0]!.length).flatMap((k) => {
          const parts = ranks.map((order) => order.at(k, 3));
          return range(parts[0]!.length).flatMap((i) => parts.map((part) => part[i]!));
        });
        expect(together).toEqual(single);
        const padded = range(world).map((rank) => new data.DistributedSampler(base, { rank, world, pad: true }).length);
        expect(new Set(padded)).toEqual(new Set([Math.ceil(n / world)]));
        const shares = range(world).map((rank) => new data.DistributedSampler(base, { rank, world }));
        const all = shares.flatMap((share) => range(share.length).map((i) => share.at(i, 3)));
        expect(all.sort((a, b) => a - b)).toEqual(range(n));
      }),
    );
  });

  test('wrong arguments', () => {
    expect(() => new data.RandomSampler(-1)).toThrow(ValueError);
    expect(() => new data.BatchSampler(new data.SequentialSampler(3), 0)).toThrow('BatchSampler: batchSize must be a whole number from 1, got 0');
    expect(() => new data.DistributedSampler(new data.SequentialSampler(3), { rank: 2, world: 2 })).toThrow(ValueError);
    expect(() => new data.DistributedSampler(new data.SequentialSampler(3), { rank: 0, world: 2, pad: true, dropLast: true })).toThrow(
      'DistributedSampler: dropLast and pad exclude each other',
    );
  });
});

describe('tokenizers', () => {
  test('characters come back, in the order of their code points', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        const tokenizer = data.CharTokenizer.fit(text);
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
        expect(tokenizer.vocabSize).toBe(new Set(text).size);
      }),
    );
    expect(Array.from(data.CharTokenizer.fit('cab😀').encode('abc😀'))).toEqual([0, 1, 2, 3]);
  });

  test('unknown characters', () => {
    const strict = data.CharTokenizer.fit('ab');
    expect(() => strict.encode('abx')).toThrow(
      'CharTokenizer.encode: character "x" at position 2 is not in the vocabulary of 2; fit with { unknown } to map such characters',
    );
    const lenient = data.CharTokenizer.fit('ab', { unknown: '?' });
    expect(lenient.decode(lenient.encode('axb'))).toBe('a?b');
    expect(() => strict.decode([0, 2])).toThrow('CharTokenizer.decode: id 2 at position 1 is outside [0, 2)');
    expect(() => strict.decode([0.5])).toThrow(ValueError);
    expect(() => strict.encode(3 as never)).toThrow(ValueError);
  });

  test('saved and restored as JSON', () => {
    const tokenizer = data.CharTokenizer.fit('hello 世界', { unknown: '_' });
    const again = data.CharTokenizer.fromJSON(JSON.parse(JSON.stringify(tokenizer)));
    expect(again.encode('hello !')).toEqual(tokenizer.encode('hello !'));
    expect(() => data.CharTokenizer.fromJSON({} as never)).toThrow(DataError);
    expect(() => new data.CharTokenizer(['a', 'a'])).toThrow('CharTokenizer: "a" is in the vocabulary twice (0 and 1)');
    expect(() => new data.CharTokenizer(['ab'])).toThrow(ValueError);
  });

  test('bytes', () => {
    const tokenizer = new data.ByteTokenizer();
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
    );
    expect(Array.from(tokenizer.encode('é'))).toEqual([195, 169]);
    expect(tokenizer.decode([195])).toBe('\ufffd');
    expect(() => tokenizer.decode([256])).toThrow('ByteTokenizer.decode: id 256 at position 0 is outside [0, 256)');
  });

  test('any object of three members', async () => {
    const { encode, decode } = await import('gpt-tokenizer/encoding/r50k_base');
    const gpt2: data.Tokenizer = { vocabSize: 50257, encode: (text) => encode(text), decode: (ids) => decode(Array.from(ids)) };
    const dataset = new data.TextDataset('Call me Ishmael. Some years ago', gpt2, { context: 4 });
    expect(Array.from(dataset.get(0).inputs)).toEqual([14134, 502, 1148, 21720]);
    expect(() => data.encodeTokens('a', { vocabSize: 5, encode: () => [5], decode: () => '' })).toThrow(
      'encodeTokens: the tokenizer gave id 5 at position 0, its vocabSize is 5',
    );
  });
});

describe('token shards', () => {
  test('consecutive windows: targets follow inputs, no window crosses shards', async () => {
    expect(await data.writeTokenShard(path('a.bin'), range(11))).toBe(11);
    expect(await data.writeTokenShard(path('b.bin'), [range(3), Uint16Array.from([3, 4, 5])])).toBe(6);
    expect(statSync(path('a.bin')).size).toBe(22);
    const dataset = new data.TokenDataset([path('a.bin'), path('b.bin'), Uint16Array.from([7, 8, 9, 10, 11])], { context: 4 });
    expect([dataset.length, dataset.tokens]).toEqual([4, 22]);
    expect(range(4).map((i) => Array.from(dataset.get(i).inputs))).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [0, 1, 2, 3],
      [7, 8, 9, 10],
    ]);
    for (const i of range(4)) expect(dataset.get(i).targets).toEqual(dataset.get(i).inputs.map((t) => t + 1));
    expect(new data.TokenDataset(path('a.bin'), { context: 4, stride: 1 }).length).toBe(7);
    expect(() => dataset.get(4)).toThrow('TokenDataset.get: index 4 is out of range of 4 samples');
  });

  test('random windows reach everywhere and depend on seed, epoch and index', async () => {
    await data.writeTokenShard(path('c.bin'), range(20), { dtype: 'uint32' });
    const dataset = new data.TokenDataset([path('c.bin'), path('c.bin')], { context: 4, dtype: 'uint32', windows: 'random' });
    expect(dataset.length).toBe(10);
    const starts = range(2000).map((epoch) => dataset.get(3, new data.SampleRandom(0, epoch, 3)).inputs[0]!);
    expect(new Set(starts)).toEqual(new Set(range(16)));
    expect(dataset.get(3, new data.SampleRandom(0, 5, 3))).toEqual(dataset.get(3, new data.SampleRandom(0, 5, 3)));
    expect(new data.TokenDataset(path('c.bin'), { context: 4, windows: 'random', length: 77 }).length).toBe(77);
  });

  test('the last possible window is one', () => {
    expect(new data.TokenDataset(Uint16Array.from(range(5)), { context: 4 }).length).toBe(1);
    expect(() => new data.TokenDataset(Uint16Array.from(range(4)), { context: 4 })).toThrow(
      'TokenDataset: 1 shard(s) with 4 tokens hold no window of 4 + 1 tokens',
    );
  });

  test('wrong files and ids', async () => {
    expect(() => new data.TokenDataset(path('absent.bin'), { context: 4 })).toThrow(
      `TokenDataset: there is no token shard "${path('absent.bin')}"; write one with writeTokenShard()`,
    );
    writeFileSync(path('odd.bin'), Buffer.alloc(3));
    expect(() => new data.TokenDataset(path('odd.bin'), { context: 4 })).toThrow('has 3 bytes, which is not a whole number of uint16 tokens');
    writeFileSync(path('empty.bin'), '');
    expect(() => new data.TokenDataset(path('empty.bin'), { context: 4 })).toThrow(DataError);
    expect(() => new data.TokenDataset(dir, { context: 4 })).toThrow();
    expect(() => new data.TokenDataset(path('a.bin'), {} as never)).toThrow(ValueError);
    expect((await failure(data.writeTokenShard(path('x.bin'), [1, 2, 65536]))).message).toBe('writeTokenShard: id 65536 at position 2 does not fit uint16');
    expect(await failure(data.writeTokenShard(path('x.bin'), new Set([5]) as never))).toBeInstanceOf(ValueError);
    expect(statSync(path('x.bin'), { throwIfNoEntry: false })).toBeUndefined();
  });
});
