// Wrong arguments of data and io, in one table: a typed error of one sentence, never a TypeError of our insides, and nothing written.
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CheckpointError, type DataError, data, io, ones, ShapeError, ShardgradError, type Tensor, ValueError } from '../lib/index.js';
import { failure, scratchFolder } from './helpers/files.js';

const dir = scratchFolder();
const wrong = (value: unknown): any => value;
const bytes = new data.ByteTokenizer();
const three = { length: 3, get: (i: number) => ({ x: i }) };
const stream = { iterate: () => [{ x: 1 }] };
const chars = data.CharTokenizer.fit('ab');

async function drain(loader: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of loader);
}

type Kind = typeof ValueError | typeof DataError;
const mistakes: [string, () => unknown, RegExp][] = [
  ['saveSafetensors to no path', () => io.saveSafetensors(wrong(null), {}), /^saveSafetensors: the path must be a string that is not empty/],
  ['saveSafetensors of null', () => io.saveSafetensors(join(dir, 'x'), wrong(null)), /^saveSafetensors: expected tensors by name, got null/],
  ['saveSafetensors of a tensor', () => io.saveSafetensors(join(dir, 'x'), wrong(ones([2]))), /expected tensors by name, got an object of class Tensor/],
  ['loadSafetensors of a path with a zero byte', () => io.loadSafetensors('a\0b'), /^openSafetensors: the path must be a string/],
  ['saveShardedSafetensors to no folder', () => io.saveShardedSafetensors('', {}), /^saveShardedSafetensors: the path must be/],
  ['loadNpy of a number', () => io.loadNpy(wrong(3)), /^loadNpy: the path must be .*, got 3/],
  ['saveCheckpoint to no folder', () => io.saveCheckpoint(wrong(undefined), { step: 1 }), /^saveCheckpoint: the path must be .*, got undefined/],
  ['loadCheckpoint into null', () => io.loadCheckpoint(dir, wrong(null)), /^loadCheckpoint: expected what to restore, by name, got null/],
  ['latestCheckpoint of null', () => io.latestCheckpoint(wrong(null)), /^latestCheckpoint: the path must be/],
  [
    'writeTokenShard of null',
    () => data.writeTokenShard(join(dir, 'x'), wrong(null)),
    /^writeTokenShard: expected ids, or an iterable of arrays of ids, got null/,
  ],
  ['writeTokenShard of a hole', () => data.writeTokenShard(join(dir, 'x'), wrong([[1], null])), /an iterable must give arrays of ids, got null/],
  ['writeTokenShard as int8', () => data.writeTokenShard(join(dir, 'x'), [1], { dtype: wrong('int8') }), /dtype must be uint16 or uint32, got a string "int8"/],
  ['a folder as a shard', () => new data.TokenDataset(dir, { context: 2 }), /^TokenDataset: ".*" is not a regular file/],
  ['an empty path of a shard', () => new data.TokenDataset('', { context: 2 }), /^TokenDataset: the path must be/],
  ['a text without a tokenizer', () => new data.TextDataset('abc', wrong(null), { context: 2 }), /vocabSize of the tokenizer must be a whole number/],
  [
    'a tokenizer that gives nothing',
    () => data.encodeTokens('abc', { ...bytes, encode: () => wrong(null), decode: () => '' }),
    /must give an array of ids, got null/,
  ],
  ['a vocabulary of null', () => new data.CharTokenizer(wrong(null)), /the vocabulary must be an array of characters, got null/],
  ['ids of null', () => chars.decode(wrong(null)), /^CharTokenizer.decode: expected an array of ids, got null/],
  ['a property as an id', () => chars.decode(wrong(['length'])), /id a string "length" at position 0 is outside \[0, 2\)/],
  ['bytes of null', () => bytes.decode(wrong(null)), /^ByteTokenizer.decode: expected an array of ids, got null/],
  ['a subset by null', () => new data.Subset(three, wrong(null)), /^Subset: indices must be an array/],
  ['a subset of a stream', () => new data.Subset(wrong(stream), [0]), /^Subset: expected a dataset with length and get\(index\), got a stream/],
  ['a map over nothing', () => new data.MappedDataset(wrong(null), (x) => x), /^MappedDataset: a dataset has length and get\(index\)/],
  ['a split by null', () => data.randomSplit(three, wrong(null)), /^randomSplit: lengths must be an array of numbers, got null/],
  ['a sampler without at', () => new data.DataLoader(three, { sampler: wrong(3) }), /^DataLoader: sampler must have length and at\(\), got 3/],
  ['an empty order of batches', () => new data.DataLoader(three, { batchSampler: wrong({}) }), /^DataLoader: batchSampler must have length and at\(\)/],
  [
    'samples of other keys',
    () => drain(new data.DataLoader({ length: 2, get: (i) => (i ? { x: 1, z: 1 } : { x: 1, y: 1 }) }, { batchSize: 2 })),
    /^collate: sample has the keys x, y in sample 0 of the batch and x, z in sample 1/,
  ],
  [
    'a stream that cannot begin',
    () =>
      drain(
        new data.DataLoader({
          iterate: () => {
            throw new Error('no socket');
          },
        }),
      ),
    /^DataLoader: dataset.iterate\(\) \(shard 0 of 1\) failed: no socket/,
  ],
];

test.each(mistakes)('%s', async (_, call, text) => {
  const error = await failure((async () => call())());
  expect(error).toBeInstanceOf(ShardgradError);
  expect(error.message).toMatch(text);
  expect(error.message).not.toContain('\n');
  expect(readdirSync(dir)).toEqual([]);
});

test('a sample whose shape does not fit its elements', async () => {
  const odd = { length: 2, get: () => ({ data: new Float32Array(3), shape: [2] }) };
  const error = await failure(drain(new data.DataLoader(odd, { batchSize: 2 })));
  expect(error).toBeInstanceOf(ShapeError);
  expect(error.message).toBe('collate: sample of sample 0 of the batch has 3 elements, its shape [2] has 2');
});

test('null in place of options means the defaults', async () => {
  const path = join(dir, 'w.safetensors');
  await io.saveSafetensors(path, { w: ones([2]) }, wrong(null), wrong(null));
  expect(await (await io.loadSafetensors(path, wrong(null)))['w']!.toArray()).toEqual([1, 1]);
  await io.saveNpy(join(dir, 'w.npy'), ones([2]), wrong(null));
  expect(await (await io.loadNpy(join(dir, 'w.npy'), wrong(null))).toArray()).toEqual([1, 1]);
  await io.saveCheckpoint(join(dir, 'run'), { step: 1 }, wrong(null));
  expect((await io.loadCheckpoint(join(dir, 'run'), {}, wrong(null))).step).toBe(1);
  expect(data.mobyDick(wrong(null))).toEqual(data.mobyDick());
});

describe('states of a loader that belong to nothing here', () => {
  const good = { epoch: 0, position: 1, seed: 0, samples: 3, stream: null };
  test.each<[string, object, Kind, RegExp]>([
    ['a stream without counts', { ...good, samples: null, stream: {} }, ValueError, /stream must be null or \{ world, delivered, rotation \}/],
    [
      'a stream of another kind',
      { ...good, samples: null, stream: { world: 1, delivered: ['x'], rotation: [0] } },
      ValueError,
      /stream\.delivered\[0\] must be a whole number/,
    ],
    [
      'a turn of nobody',
      { ...good, samples: null, stream: { world: 1, delivered: [1], rotation: [7] } },
      ValueError,
      /stream\.rotation\[0\] must be .* from 0 to 0, got 7/,
    ],
    [
      'a stream’s',
      { ...good, samples: null, stream: { world: 1, delivered: [1], rotation: [0] } },
      ShardgradError,
      /was taken over a stream, here is a dataset/,
    ],
    ['past the end', { ...good, position: 100 }, ShardgradError, /the state stands after 100 samples, an epoch has 3/],
  ])('%s', (_, state, kind, text) => {
    const loader = new data.DataLoader(three);
    expect(() => loader.loadStateDict(wrong(state))).toThrow(kind);
    expect(() => loader.loadStateDict(wrong(state))).toThrow(text);
    expect(loader.stateDict().position).toBe(0);
  });

  test('a dataset’s, for a stream', () => {
    expect(() => new data.DataLoader(stream).loadStateDict(good)).toThrow(/was taken over a dataset, here is a stream/);
  });
});

describe('places that cannot be written', () => {
  test('a device is not replaced by a file', async () => {
    const error = await failure(io.saveSafetensors('/dev/null', { w: ones([2]) }));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toBe('saveSafetensors: cannot write "/dev/null": it is not a regular file');
    expect((await failure(io.saveCheckpoint('/dev/null/run', { step: 1 }))).message).toMatch(/part of the path is not a directory \(ENOTDIR\)$/);
    expect((await failure(io.saveCheckpoint('/dev/null', { step: 1 }))).message).toMatch(/a file with that name exists \(EEXIST\)$/);
  });

  test.runIf(existsSync('/proc'))('a file system that has no room for folders is an error, not an endless search', async () => {
    expect((await failure(io.saveCheckpoint('/proc/none/run', { step: 1 }))).message).toMatch(/no such file or directory \(ENOENT\)$/);
    expect((await failure(io.saveShardedSafetensors('/proc/none/model', { w: ones([1]) }))).message).toMatch(/\(ENOENT\)$/);
  });

  test('folders above are made, relative ones and existing ones too', async () => {
    mkdirSync(join(dir, 'a'));
    for (const root of [join(dir, 'a/b/c'), join(dir, 'a')]) expect(await io.saveCheckpoint(root, { step: 1 })).toBe(join(root, 'step-00000001'));
  });
});

test('names and arrays of a state that JSON would lose', async () => {
  const list: unknown[] = [1];
  list[2] = 3;
  const state = Object.defineProperty({ step: 1, list }, '__proto__', { value: { w: ones([2]) }, enumerable: true });
  const loaded = await io.loadCheckpoint(await io.saveCheckpoint(join(dir, 'odd'), state));
  expect(loaded['list']).toEqual([1, undefined, 3]);
  const own = Object.getOwnPropertyDescriptor(loaded, '__proto__')!.value as { w: Tensor };
  expect(await own.w.toArray()).toEqual([1, 1]);
});
