// What a dataset is, and the datasets made of others. A sample is any nesting of arrays and objects whose leaves are numbers,
// bigints, booleans, strings, typed arrays, HostArrays or tensors: see collate.ts for what a batch makes of them.
import { DataError, describe, ShapeError, ValueError } from '../errors.js';
import { checkInteger } from '../shape.js';
import { isTypedArray } from './host_array.js';
import { construct, isModuleRef, type ModuleRef, OWN_MODULE, portable, resolveFunction } from './module_ref.js';
import { Permutation } from './permutation.js';
import type { SampleRandom } from './sample_random.js';

/** A dataset with a length and samples by index. */
export interface Dataset<S = unknown> {
  /** Samples in the dataset. */
  readonly length: number;
  /**
   * The sample at `index`, from 0. A loader passes the random stream of (seed, epoch, index); draw augmentations from it, so that
   * they do not depend on the number of workers.
   */
  get(index: number, random: SampleRandom): S | Promise<S>;
  /** If there, makes whole batches in place of `get` and the collation of its samples. */
  getBatch?(indices: readonly number[]): unknown;
  /** If there, says how to make the same dataset in a worker thread. */
  toWorker?(): ModuleRef;
}

/** Which part of a stream one reader is to produce. */
export interface StreamShare {
  /** The epoch, from 0. */
  readonly epoch: number;
  /** The loader's seed. */
  readonly seed: number;
  /** Yield only every `shards`-th sample, starting with this one: the other workers (and ranks) yield the rest. */
  readonly shard: number;
  /** Readers of all workers and ranks together. */
  readonly shards: number;
}

/** A dataset that is read from front to back: logs, sockets, generated data. */
export interface IterableDataset<S = unknown> {
  /** The samples of one reader's share of an epoch, from the front. */
  iterate(share: StreamShare): Iterable<S> | AsyncIterable<S>;
  /** If there, says how to make the same dataset in a worker thread. */
  toWorker?(): ModuleRef;
}

export function isIterableDataset(dataset: unknown): dataset is IterableDataset {
  return typeof (dataset as IterableDataset | null)?.iterate === 'function';
}

/** Checks that a value is a dataset of either kind. */
export function checkDataset(value: unknown, where: string): Dataset | IterableDataset {
  if (isIterableDataset(value)) return value;
  const { length, get } = (value ?? {}) as Partial<Dataset>;
  if (typeof get !== 'function' || !Number.isSafeInteger(length) || length! < 0) {
    throw new ValueError(`${where}: a dataset has length and get(index), or iterate(); got ${describe(value)}`);
  }
  return value as Dataset;
}

/** Checks that a value is a dataset with samples by index. */
export function checkMapDataset(value: unknown, where: string): Dataset {
  if (isIterableDataset(value)) throw new ValueError(`${where}: expected a dataset with length and get(index), got a stream`);
  return checkDataset(value, where) as Dataset;
}

export function checkIndex(index: number, length: number, where: string): void {
  if (!Number.isSafeInteger(index) || index < 0 || index >= length) {
    throw new ValueError(`${where}: index ${describe(index)} is out of range of ${length} samples`);
  }
}

/** The reference by which a worker makes this dataset. Throws DataError when the dataset has none. */
export function workerRef(dataset: unknown, where: string): ModuleRef {
  if (isModuleRef(dataset)) return portable(dataset, where);
  const ref = (dataset as Dataset | null)?.toWorker?.();
  if (ref) return portable(ref, where);
  throw new DataError(
    `${where}: ${describe(dataset)} cannot be sent to a worker thread; pass { module, export, args } that names how to make it there, give it a toWorker() that returns such, or use workers: 0`,
  );
}

/** The samples of another dataset at chosen indices. */
export class Subset<S> implements Dataset<S> {
  /** @param indices into `dataset`; may repeat */
  constructor(
    private readonly dataset: Dataset<S>,
    private readonly indices: ArrayLike<number>,
  ) {
    checkMapDataset(dataset, 'Subset');
    if (!Array.isArray(indices) && !isTypedArray(indices)) throw new ValueError(`Subset: indices must be an array of whole numbers, got ${describe(indices)}`);
    for (let i = 0; i < indices.length; i++) checkIndex(indices[i]!, dataset.length, `Subset: entry ${i}`);
  }
  /** How many indices were chosen. */
  get length(): number {
    return this.indices.length;
  }
  get(index: number, random: SampleRandom): S | Promise<S> {
    checkIndex(index, this.length, 'Subset.get');
    return this.dataset.get(this.indices[index]!, random);
  }
  toWorker(): ModuleRef {
    return { module: OWN_MODULE, export: 'subsetInWorker', args: [workerRef(this.dataset, 'Subset'), this.indices] };
  }
}

/** Makes a Subset from references. */
export async function subsetInWorker(base: ModuleRef, indices: ArrayLike<number>): Promise<Subset<unknown>> {
  return new Subset((await construct(base, 'Subset')) as Dataset, indices);
}

/**
 * Splits a dataset into random parts that share no sample.
 * @param lengths sizes of the parts that sum to the dataset's length, or fractions that sum to 1
 * @param options.seed the same seed gives the same parts on every machine
 */
export function randomSplit<S>(dataset: Dataset<S>, lengths: readonly number[], options: { seed?: number } = {}): Subset<S>[] {
  const n = checkMapDataset(dataset, 'randomSplit').length;
  if (!Array.isArray(lengths) || lengths.length === 0) throw new ValueError(`randomSplit: lengths must be an array of numbers, got ${describe(lengths)}`);
  const sum = lengths.reduce((a, b) => a + b, 0);
  let sizes = lengths.slice();
  if (lengths.every((x) => x >= 0 && x <= 1) && Math.abs(sum - 1) < 1e-6) {
    // the remainders of rounding down go to the first parts, one each, as in PyTorch
    sizes = lengths.map((x) => Math.floor(x * n));
    const left = n - sizes.reduce((a, b) => a + b, 0);
    for (let i = 0; i < left; i++) sizes[i % sizes.length]!++;
  }
  for (const [i, size] of sizes.entries()) checkInteger(size, `length ${i}`, 'randomSplit', 0);
  if (sizes.reduce((a, b) => a + b, 0) !== n)
    throw new ShapeError(`randomSplit: lengths [${lengths.join(', ')}] do not sum to the ${n} samples of the dataset, nor to 1`);
  const order = new Permutation(n, checkInteger(options?.seed ?? 0, 'seed', 'randomSplit'));
  let start = 0;
  return sizes.map((size) => {
    const indices = Float64Array.from({ length: size }, (_, i) => order.at(start + i));
    start += size;
    return new Subset(dataset, indices);
  });
}

/** Makes another sample of a sample; random numbers are drawn from the stream that the loader gives. */
export type SampleTransform<S, T> = (sample: S, random: SampleRandom) => T | Promise<T>;

/** Another dataset with a function applied to every sample, for example an augmentation. */
export class MappedDataset<S, T> implements Dataset<T> {
  private resolved: SampleTransform<S, T> | null;

  /** @param transform a function, or for use in workers `{ module, export, args }` naming one (or a factory of one, with args) */
  constructor(
    private readonly dataset: Dataset<S>,
    private readonly transform: SampleTransform<S, T> | ModuleRef,
  ) {
    checkMapDataset(dataset, 'MappedDataset');
    if (typeof transform !== 'function' && !isModuleRef(transform))
      throw new ValueError(`MappedDataset: expected a function or { module, export }, got ${describe(transform)}`);
    this.resolved = typeof transform === 'function' ? transform : null;
  }
  /** Samples, as many as in the dataset below. */
  get length(): number {
    return this.dataset.length;
  }
  get(index: number, random: SampleRandom): T | Promise<T> {
    const sample = this.dataset.get(index, random);
    if (this.resolved === null || sample instanceof Promise) return this.applyLater(sample, random);
    return this.resolved(sample, random);
  }
  private async applyLater(sample: S | Promise<S>, random: SampleRandom): Promise<T> {
    this.resolved ??= (await resolveFunction(this.transform as ModuleRef, 'MappedDataset')) as SampleTransform<S, T>;
    return this.resolved(await sample, random);
  }
  toWorker(): ModuleRef {
    if (typeof this.transform === 'function') {
      throw new DataError('MappedDataset: a function cannot be sent to a worker thread; name it as { module, export }, or use workers: 0');
    }
    return { module: OWN_MODULE, export: 'mappedInWorker', args: [workerRef(this.dataset, 'MappedDataset'), portable(this.transform, 'MappedDataset')] };
  }
}

/** Makes a MappedDataset from references. */
export async function mappedInWorker(base: ModuleRef, transform: ModuleRef): Promise<MappedDataset<unknown, unknown>> {
  return new MappedDataset((await construct(base, 'MappedDataset')) as Dataset, transform);
}
