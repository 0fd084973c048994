// The loader with worker threads. These tests use the built library: a worker thread loads files as they are, not through vitest.
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import type { DataLoader, DataLoaderOptions } from '../lib/data/index.js';
import type { Tensor } from '../lib/tensor.js';
import { failure, scratchFolder } from './helpers/files.js';

const entry = new URL('../dist/lib/index.js', import.meta.url).href;
const { data, DataError, memory } = (await import(entry)) as typeof import('../lib/index.js');

type Batch = { x: Tensor; thread: Tensor; inputs: Tensor };
const module = new URL('./helpers/datasets.js', import.meta.url);
const numbers = (length: number, options: object = {}) => ({ module, export: 'Numbers', args: [length, options] });
const dir = scratchFolder();

async function collect(loader: DataLoader<unknown, Batch>, stopAfter = Number.POSITIVE_INFINITY): Promise<number[][][]> {
  const out: number[][][] = [];
  for await (const { x } of loader) {
    out.push((await x.toArray()) as number[][]);
    if (out.length === stopAfter) break;
  }
  return out;
}
const load = (source: unknown, options: DataLoaderOptions): DataLoader<unknown, Batch> => new data.DataLoader(source as never, options);

describe('batches from workers', () => {
  test('are those of the main thread, in the same order, with any number of workers and any prefetch', async () => {
    const options = { batchSize: 7, shuffle: true, seed: 3 };
    const expected = await collect(load(numbers(100), options));
    expect(expected.length).toBe(15);
    for (const [workers, prefetchFactor, slow] of [
      [1, 1, 0],
      [2, 2, 0],
      [3, 1, 20],
      [4, 5, 5],
    ] as const) {
      expect(await collect(load(numbers(100, { slow }), { ...options, workers, prefetchFactor }))).toEqual(expected);
    }
  });

  test('come from several threads and through shared memory larger than the first slot', async () => {
    const threads = new Set<number>();
    let first = 0;
    for await (const { x, thread } of load(numbers(40, { size: 50_000 }), { batchSize: 2, workers: 2 })) {
      expect(x.shape).toEqual([2, 50_002]);
      expect((await x.toTypedArray())[50_001]).toBe(first);
      first += 2;
      for (const id of (await thread.toArray()) as number[]) threads.add(id);
    }
    expect([first, threads.size]).toEqual([40, 2]);
  });

  test('of an async function, of an object, of the library’s own datasets', async () => {
    expect((await collect(load({ module, export: 'numbersLater', args: [3] }, { workers: 1, batchSize: 3 })))[0]!.map((r) => r[0])).toEqual([0, 1, 2]);
    expect((await collect(load({ module: module.href, export: 'fixed' }, { workers: 1 }))).length).toBe(4);
    const shard = join(dir, 'tokens.bin');
    await data.writeTokenShard(
      shard,
      Array.from({ length: 1000 }, (_, i) => i),
    );
    const tokens = new data.TokenDataset([shard, Uint16Array.from({ length: 50 }, (_, i) => i)], { context: 9, windows: 'random', length: 64 });
    const text = new data.TextDataset('the whale, the whale! '.repeat(20), new data.ByteTokenizer(), { context: 9, windows: 'random', length: 64 });
    const arrays = new data.TensorDataset({ inputs: { data: Float32Array.from({ length: 64 }, (_, i) => i), shape: [16, 2, 2] } });
    const joined = new data.ConcatDataset<unknown>([arrays, arrays]);
    for (const dataset of [
      tokens,
      text,
      arrays,
      joined,
      new data.Subset<unknown>(arrays, [3, 1, 4, 1, 5]),
      data.randomSplit<unknown>(tokens, [0.5, 0.5])[1]!,
    ]) {
      const all: unknown[][] = [[], []];
      for (const workers of [0, 2])
        for await (const { inputs } of load(dataset, { batchSize: 4, shuffle: true, workers })) all[workers / 2]!.push(await inputs.toArray());
      expect(all[1]).toEqual(all[0]);
    }
    const mapped = new data.MappedDataset(new data.TensorDataset({ x: Float32Array.of(1, 2) }) as never, { module, export: 'addTo', args: [10] });
    for (const workers of [0, 1]) expect(await collect(load(mapped, { workers }))).toEqual([[[11]], [[12]]]);
    expect(() => load(new data.MappedDataset(arrays as never, (s) => s), { workers: 1 })).toThrow(
      /MappedDataset: a function cannot be sent to a worker thread/,
    );
  });

  test('a collate function by name', async () => {
    expect(await collect(load(numbers(5), { batchSize: 2, workers: 2, collate: { module, export: 'collateSums' } }))).toEqual([[[1, 0]], [[5, 0]], [[4, 0]]]);
    expect(await collect(load(numbers(5), { batchSize: 2, collate: { module, export: 'collateSums' } }))).toEqual([[[1, 0]], [[5, 0]], [[4, 0]]]);
  });

  test('the length of a reference is known once it is made', async () => {
    const loader = load(numbers(10), { batchSize: 3, workers: 2 });
    expect(() => loader.length).toThrow(DataError);
    await loader.ready();
    expect(loader.length).toBe(4);
  });

  test('of the same threads in every epoch, if they are to stay', async () => {
    const epochs = async (options: DataLoaderOptions, source = numbers(40)): Promise<{ x: number[]; threads: Set<number> }[]> => {
      const loader = load(source, { batchSize: 3, shuffle: true, workers: 2, ...options });
      const all: { x: number[]; threads: Set<number> }[] = [];
      for (let epoch = 0; epoch < 3; epoch++) {
        const [x, threads]: [number[], Set<number>] = [[], new Set()];
        for await (const batch of loader as AsyncIterable<{ x: Tensor; thread: Tensor }>) {
          x.push(...((await batch.x.toTypedArray()) as Float32Array));
          for (const thread of (await batch.thread.toTypedArray()) as Float32Array) threads.add(thread);
        }
        all.push({ x, threads });
      }
      return all;
    };
    const [fresh, kept] = [await epochs({}), await epochs({ persistentWorkers: true })];
    // the same order and the same random numbers
    expect(kept.map(({ x }) => x)).toEqual(fresh.map(({ x }) => x));
    expect(new Set(kept.flatMap(({ threads }) => [...threads])).size).toBe(2);
    expect(new Set(fresh.flatMap(({ threads }) => [...threads])).size).toBe(6);
  });

  test('of threads that stay: a loop that is left, an error and a loop within a loop begin with new ones', async () => {
    const loader = load(numbers(12), { batchSize: 2, workers: 2, persistentWorkers: true });
    const firsts = async (): Promise<number[]> => (await collect(loader)).map((batch) => batch[0]![0]!);
    expect(await firsts()).toEqual([0, 2, 4, 6, 8, 10]);
    for await (const _ of loader) break;
    expect(await firsts()).toEqual([0, 2, 4, 6, 8, 10]);
    const outer = loader[Symbol.asyncIterator]();
    for (let i = 0; i < 6; i++) await outer.next(); // all is delivered, and the loop has not ended
    expect(await firsts()).toEqual([0, 2, 4, 6, 8, 10]);
    expect((await failure(outer.next())).message).toMatch(/this loop ended when another one over the same loader began/);
    expect(await firsts()).toEqual([0, 2, 4, 6, 8, 10]);
    const failing = load(numbers(12, { failAt: 7 }), { batchSize: 2, workers: 2, persistentWorkers: true });
    for (let epoch = 0; epoch < 2; epoch++) expect((await failure(collect(failing))).message).toMatch(/dataset\.get\(7\) failed/);
    const stream = load({ module, export: 'Counter', args: [9] }, { batchSize: 2, workers: 2, prefetchFactor: 1, persistentWorkers: true });
    const once = await collect(stream);
    expect(await collect(stream)).toEqual(once);
  });

  test('leave nothing behind', async () => {
    const live = memory().live;
    await collect(load(numbers(50), { batchSize: 5, workers: 2 }));
    await collect(load(numbers(50), { batchSize: 5, workers: 2 }), 3);
    expect(memory().live).toBe(live);
  });
});

describe('resuming', () => {
  test('mid-epoch, with other numbers of workers', async () => {
    const options = { batchSize: 4, shuffle: true, seed: 8 };
    const expected = await collect(load(numbers(50), options));
    for (const stop of [1, 5, 12]) {
      const first = load(numbers(50), { ...options, workers: 2, prefetchFactor: 3 });
      const before = await collect(first, stop);
      const second = load(numbers(50), { ...options, workers: stop % 3 });
      second.loadStateDict(JSON.parse(JSON.stringify(first.stateDict())));
      expect([...before, ...(await collect(second))]).toEqual(expected);
    }
  });

  test('streams, to the exact sample, also after some readers have ended', async () => {
    const counter = (n: number) => ({ module, export: 'Counter', args: [n] });
    const options = { batchSize: 3, workers: 3 };
    const expected = await collect(load(counter(40), options));
    expect(
      expected
        .flat()
        .map((r) => r[0])
        .sort((a, b) => a! - b!),
    ).toEqual(Array.from({ length: 40 }, (_, i) => i));
    for (const stop of [1, 5, expected.length - 1, expected.length]) {
      const first = load(counter(40), options);
      const before = await collect(first, stop);
      const second = load(counter(40), options);
      second.loadStateDict(JSON.parse(JSON.stringify(first.stateDict())));
      expect([...before, ...(await collect(second))]).toEqual(expected);
    }
    const other = load(counter(40), { batchSize: 3, workers: 2 });
    const state = load(counter(40), options);
    await collect(state, 1);
    expect(() => other.loadStateDict(state.stateDict())).toThrow('the state of the stream was taken with 3 reader(s), there are 2');
  });
});

describe('faults', () => {
  const run = (options: object, more: DataLoaderOptions = {}): Promise<Error> =>
    failure(collect(load(numbers(20, options), { batchSize: 4, workers: 2, ...more })));

  test('an error in a sample names its index and keeps its stack', async () => {
    const error = await run({ failAt: 9 });
    expect([error.name, error.message]).toEqual(['DataError', 'DataLoader: dataset.get(9) failed: sample 9 is broken (in worker 0)']);
    expect([(error.cause as Error).name, (error.cause as Error).stack]).toEqual(['RangeError', expect.stringContaining('datasets.js')]);
  });

  test('a worker that ends, dies or hangs is an error at once', async () => {
    expect((await run({ exitAt: 5 })).message).toBe('DataLoader: worker 1 ended by itself with exit code 3 while loading samples [4,5,6,7]');
    expect((await run({ throwAt: 5 })).message).toBe('DataLoader: worker 1 died: stray while loading samples [4,5,6,7]');
    expect((await run({ hangAt: 5 }, { timeoutMs: 8000 })).message).toBe('DataLoader: worker 1 delivered nothing for 8 s while loading samples [4,5,6,7]');
  });

  test('a dataset that cannot be made', async () => {
    const text = async (source: unknown): Promise<string> => (await failure(collect(load(source, { workers: 1 })))).message;
    expect(await text({ module, export: 'Broken' })).toBe(`DataLoader: Broken of ${module.href} failed: no such disk`);
    expect(await text({ module, export: 'Absent' })).toMatch(/has no export "Absent"; it has .*Numbers/);
    expect(await text({ module: '/no/such/file.js' })).toMatch(/^DataLoader: cannot import file:\/\/\/no\/such\/file\.js: /);
    expect(await text({ module, export: 'collateSums', args: [[]] })).toMatch(/a dataset has length and get\(index\), or iterate\(\)/);
    expect(() => load({ module: './relative.js' }, { workers: 1 })).toThrow(/must be a URL or an absolute path/);
    expect(await text({ module, export: 'Numbers', args: [3, { f: () => 1 }] })).toMatch(/worker 0 cannot be started: .*could not be cloned/);
  });

  test('a batch that cannot be sent', async () => {
    expect((await failure(collect(load(numbers(3), { workers: 1, collate: { module, export: 'unclonable' } })))).message).toMatch(
      /could not be cloned.* \(in worker 0\)/,
    );
  });
});

describe('the process', () => {
  const script = (body: string): Promise<{ stdout: string }> =>
    promisify(execFile)(
      process.execPath,
      [
        '--input-type=module',
        '-e',
        `import { data } from '${entry}'; const loader = new data.DataLoader({ module: '${module.href}', export: 'Numbers', args: [1000, { slow: 3 }] }, { workers: 2, batchSize: 2 }); ${body}`,
      ],
      { timeout: 60_000 },
    );

  test('ends though workers stay', async () => {
    const source = `{ module: '${module.href}', export: 'Numbers', args: [8] }`;
    const kept = `const kept = new data.DataLoader(${source}, { workers: 2, persistentWorkers: true });`;
    expect((await script(`${kept} let n = 0; for await (const b of kept) n++; console.log(n);`)).stdout).toBe('8\n');
  });

  test('lives while a batch is awaited, and ends though a loop was abandoned', async () => {
    expect((await script(`let n = 0; for await (const b of loader) if (++n === 20) break; console.log(n);`)).stdout).toBe('20\n');
    expect((await script(`const it = loader[Symbol.asyncIterator](); await it.next(); await it.next(); console.log('left');`)).stdout).toBe('left\n');
    expect((await script(`const it = loader[Symbol.asyncIterator](); await it.next(); it.next(); console.log('exit'); process.exit(0);`)).stdout).toBe(
      'exit\n',
    );
  });
});
