// DataLoader: batches of a dataset as tensors, in an order that (seed, epoch) fixes. The surprising decision: the order is a function
// of the position in the epoch, so a loader's state is a few integers, and resuming is exact with any number of ranks and workers, any
// batch size and any prefetch.
import { withContext } from '../context.js';
import { DataError, ValueError } from '../errors.js';
import { checkInteger } from '../shape.js';
import { Scope } from '../storage.js';
import { type Collated, type CollateFunction, toTensors } from './collate.js';
import { checkDataset, type Dataset, type IterableDataset, isIterableDataset, type StreamShare, workerRef } from './dataset.js';
import { checkState, type DataLoaderOptions, type DataLoaderState, type ResolvedOptions, resolveOptions } from './loader_options.js';
import { construct, isModuleRef, type ModuleRef, portable, resolveFunction } from './module_ref.js';
import { END, Producer, type ProducerSettings } from './producer.js';
import { type BatchOrder, checkIndices, RandomSampler, RankBatches, SequentialSampler } from './sampler.js';
import type { WorkerRequest, WorkerStart } from './worker.js';
import { WorkerPool } from './worker_pool.js';

/**
 * Iterates over a dataset in batches.
 *
 * ```ts
 * const loader = new DataLoader(dataset, { batchSize: 32, shuffle: true, seed: 1, workers: 2 });
 * for await (const { inputs, targets } of loader) …
 * ```
 *
 * A batch's tensors belong to the loader, which frees them when the next batch is asked for; call `keep()` on what must live longer.
 * Every full pass ends an epoch, and the next one has another order. `stateDict()` tells the position after the batch last delivered, also in the middle of the loop and
 * after a `break`; a loop that begins after `loadStateDict()` goes on there, any other begins its epoch anew.
 */
export class DataLoader<S = unknown, B = Collated<S>> implements AsyncIterable<B> {
  private readonly options: ResolvedOptions<S>;
  private dataset: Dataset | IterableDataset | null = null;
  private seed: number;
  private epochNumber = 0;
  /** Where the present or next loop begins, in samples of all ranks; for streams and orders of batches, in batches. */
  private start = 0;
  /** Batches delivered since. */
  private batch = 0;
  private stream: DataLoaderState['stream'] = null;
  /** The position was loaded, and the next loop begins there. */
  private resuming = false;
  private running: { end: () => Promise<void> } | null = null;
  /** Workers between two epochs. */
  private resting: WorkerPool | null = null;

  /**
   * @param source a dataset, an iterable dataset, or `{ module, export, args }` that names how to make one (see ModuleRef): workers
   *   make their own from it, and the main thread makes one for its length
   */
  constructor(
    private readonly source: Dataset<S> | IterableDataset<S> | ModuleRef,
    options: DataLoaderOptions<S> = {},
  ) {
    this.options = resolveOptions(options);
    this.seed = this.options.seed;
    if (!isModuleRef(source)) this.useDataset(source);
    if (this.options.workers > 0) workerRef(source, 'DataLoader');
  }

  private useDataset(dataset: unknown): void {
    this.dataset = checkDataset(dataset, 'DataLoader');
    const { sampler, batchSampler, shuffle, pad } = this.options;
    if (isIterableDataset(this.dataset) && (sampler || batchSampler || shuffle || pad)) {
      throw new ValueError('DataLoader: an iterable dataset has its own order; leave out shuffle, sampler, batchSampler and pad');
    }
  }

  /** Makes the dataset that a reference names, if it was not made before; `length` works afterwards. */
  async ready(): Promise<void> {
    if (this.dataset === null) this.useDataset(await construct(portable(this.source as ModuleRef, 'DataLoader'), 'DataLoader'));
  }

  /**
   * Batches in an epoch, the same on every rank (see `pad` for the last one). Throws DataError for a stream, and for a reference before
   * `ready()`.
   */
  get length(): number {
    if (this.dataset === null) throw new DataError('DataLoader: the length of a dataset given by reference is known after await loader.ready()');
    if (isIterableDataset(this.dataset)) throw new DataError('DataLoader: an iterable dataset has no length');
    const order = this.order(this.dataset, 0);
    return order instanceof RankBatches ? order.steps : order.length;
  }

  /** The epoch that the next loop runs, or the present one inside a loop. */
  get epoch(): number {
    return this.epochNumber;
  }

  /** Chooses the epoch of the next loop. A position loaded for the same epoch stays. */
  setEpoch(epoch: number): void {
    checkInteger(epoch, 'epoch', 'setEpoch', 0);
    if (epoch === this.epochNumber) return;
    this.epochNumber = epoch;
    this.restart();
  }

  private restart(): void {
    this.start = 0;
    this.batch = 0;
    this.stream = null;
    this.resuming = false;
  }

  private order(dataset: Dataset, start: number): BatchOrder | RankBatches {
    const { batchSampler, shuffle, batchSize } = this.options;
    if (batchSampler) return batchSampler;
    const sampler = this.options.sampler ?? (shuffle ? new RandomSampler(dataset, { seed: this.seed }) : new SequentialSampler(dataset));
    return new RankBatches(sampler, batchSize, start, this.options);
  }

  private get position(): number {
    if (this.dataset === null || isIterableDataset(this.dataset)) return this.start + this.batch;
    const order = this.order(this.dataset, this.start);
    return order instanceof RankBatches ? order.positionAfter(this.batch) : this.start + this.batch;
  }

  private samples(): number | null {
    return this.dataset === null || isIterableDataset(this.dataset) ? null : this.dataset.length;
  }

  /** The position after the batch last delivered. */
  stateDict(): DataLoaderState {
    return { epoch: this.epochNumber, position: this.position, seed: this.seed, samples: this.samples(), stream: this.stream };
  }

  /**
   * The next loop goes on after the batch the state was taken at, in the same order: the state's seed replaces this loader's. Every
   * rank loads the same state, that of any of them; their number and the batch size may have changed, but not for streams.
   * @throws ValueError for what is no state, DataError when it belongs to a dataset of another length, to a position past the end of
   *   an epoch, or to ranks or readers of a stream that were not as many
   */
  loadStateDict(state: DataLoaderState): void {
    const where = 'DataLoader.loadStateDict';
    const { epoch, position, seed } = checkState(state, where);
    const samples = this.samples();
    if (this.dataset !== null && (samples === null) !== (state.samples === null)) {
      throw new DataError(
        `${where}: the state was taken over ${state.samples === null ? 'a stream' : 'a dataset'}, here is ${samples === null ? 'a stream' : 'a dataset'}`,
      );
    }
    if (samples !== null && state.samples !== null && samples !== state.samples) {
      throw new DataError(`${where}: the state was taken over ${state.samples} samples, the dataset has ${samples}`);
    }
    const { world, batchSampler, sampler } = this.options;
    if (state.stream && state.stream.world !== world) {
      throw new DataError(`${where}: the state of the stream was taken with ${state.stream.world} rank(s), there are ${world}; a stream cannot be dealt anew`);
    }
    if (state.stream && state.stream.delivered.length !== this.readers) {
      throw new DataError(
        `${where}: the state of the stream was taken with ${state.stream.delivered.length} reader(s), there are ${this.readers}; use as many workers as before`,
      );
    }
    const end = batchSampler ? batchSampler.length : sampler ? sampler.length : samples;
    if (end !== null && position > end) {
      throw new DataError(`${where}: the state stands after ${position} ${batchSampler ? 'batches' : 'samples'}, an epoch has ${end}`);
    }
    this.epochNumber = epoch;
    this.start = position;
    this.batch = 0;
    this.seed = seed;
    this.stream = state.stream;
    this.resuming = true;
    this.running = null;
  }

  /** Threads that read a stream: the workers, or the main thread alone. */
  private get readers(): number {
    return Math.max(1, this.options.workers);
  }

  private *requests(order: BatchOrder | null, dataset: Dataset | IterableDataset, epoch: number, start: number): Generator<WorkerRequest, void, void> {
    if (order === null) for (;;) yield null;
    // an order of ranks begins at its start by itself
    for (let i = order instanceof RankBatches ? 0 : start; i < order.length; i++) yield checkIndices(order.at(i, epoch), (dataset as Dataset).length, i);
  }

  /**
   * One epoch of batches: `for await (const batch of loader)`. A loop that ends moves on to the next epoch; one that is left begins its epoch anew. A batch's tensors live until the next one is asked for; `keep()` those that shall live on.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<B, void, void> {
    await this.running?.end();
    await this.ready();
    const dataset = this.dataset!;
    if (!this.resuming) this.restart();
    this.resuming = false;
    const epoch = this.epochNumber;
    const streaming = isIterableDataset(dataset);
    const delivered = this.stream?.delivered.slice() ?? new Array<number>(this.readers).fill(0);
    const rotation = this.stream?.rotation.slice() ?? delivered.map((_, i) => i);
    const requests = this.requests(streaming ? null : this.order(dataset, this.start), dataset, epoch, this.start);
    const { batchSize, dropLast, rank, world, workers, device } = this.options;
    const settings = delivered.map((skip, reader): ProducerSettings => {
      const share: StreamShare = { epoch, seed: this.seed, shard: rank * this.readers + reader, shards: world * this.readers };
      return { batchSize, dropLast, share, skip };
    });
    const supply = workers > 0 ? this.fromWorkers(settings, rotation, requests) : await this.inline(settings[0]!, requests);
    const run = { end: supply.end };
    this.running = run;
    let scope = new Scope();
    let number = 0;
    try {
      for (;;) {
        const host = await withContext({ scope }, supply.next);
        if (this.running !== run) throw new DataError('DataLoader: this loop ended when another one over the same loader began, or a state was loaded');
        if (host === END) break;
        const batch = withContext({ scope }, () => toTensors(host.batch, device)) as B;
        supply.copied();
        number++;
        delivered[host.worker]!++;
        // unless setEpoch() moved on meanwhile
        if (this.epochNumber === epoch) {
          this.batch = number;
          if (streaming) this.stream = { world, delivered: delivered.slice(), rotation: rotation.slice() };
        }
        yield batch;
        scope.end(null);
        scope = new Scope();
      }
      if (this.epochNumber === epoch) this.epochNumber++;
      this.restart();
    } finally {
      scope.end(null);
      await supply.end();
      if (this.running === run) this.running = null;
    }
  }

  private fromWorkers(settings: readonly ProducerSettings[], rotation: number[], requests: Iterator<WorkerRequest>): Supply {
    const dataset = workerRef(this.source, 'DataLoader');
    const collate = this.options.collate ? portable(this.options.collate as ModuleRef, 'DataLoader') : null;
    const starts = settings.map((s): WorkerStart => ({ dataset, collate, settings: s, slots: this.options.prefetchFactor }));
    let pool = this.takeResting();
    if (pool) pool.nextEpoch(starts);
    else pool = new WorkerPool(starts, this.options.timeoutMs);
    pool.begin(rotation, requests);
    const own = pool;
    let ended: Promise<void> | null = null;
    const end = async (): Promise<void> => {
      if (this.options.persistentWorkers && own.rests) this.rest(own);
      else await own.end();
    };
    // once: by then another loop may have the workers
    return { next: () => own.next(), copied: () => own.copied(), end: () => (ended ??= end()) };
  }

  /** Keeps workers for the next epoch. */
  private rest(pool: WorkerPool): void {
    pool.begin([], [].values()); // its requests know this loader, which would then never be abandoned
    this.resting = pool;
    abandoned.register(this, pool, this);
  }

  private takeResting(): WorkerPool | null {
    const pool = this.resting;
    this.resting = null;
    if (!pool) return null;
    abandoned.unregister(this);
    if (pool.rests) return pool;
    void pool.end(); // one has died meanwhile
    return null;
  }

  private async inline(settings: ProducerSettings, requests: Iterator<WorkerRequest>): Promise<Supply> {
    const { collate } = this.options;
    const combine = isModuleRef(collate) ? await resolveFunction(collate, 'DataLoader') : (collate ?? null);
    const producer = new Producer(this.dataset!, combine as CollateFunction | null, settings);
    return {
      next: async () => {
        const { value, done } = requests.next();
        const batch = done ? END : await producer.produce(value, null);
        return batch === END ? END : { batch, worker: 0 };
      },
      copied: () => {},
      end: () => producer.close(),
    };
  }
}

/** Ends the workers of loaders that nobody has any more. */
const abandoned = new FinalizationRegistry<WorkerPool>((pool) => void pool.end());

/** Where the loop gets its host batches from. */
interface Supply {
  next: () => Promise<{ batch: unknown; worker: number } | typeof END>;
  /** The arrays of the last batch were copied. */
  copied: () => void;
  end: () => Promise<void>;
}
