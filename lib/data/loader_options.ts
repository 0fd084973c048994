// What a DataLoader takes, checked once, and what its state is.
import type { DeviceLike } from '../device.js';
import { describe, ValueError } from '../errors.js';
import { checkInteger, checkNumber } from '../shape.js';
import type { CollateFunction } from './collate.js';
import { isModuleRef, type ModuleRef } from './module_ref.js';
import { type BatchOrder, checkOrder, type Sampler } from './sampler.js';

/** Options of a DataLoader; each may be left out. */
export interface DataLoaderOptions<S = unknown> {
  /** Samples in a batch; 1 by default. */
  batchSize?: number;
  /** A new order every epoch, from `seed` and the epoch; false by default. */
  shuffle?: boolean;
  /** Seed of the order and of the random streams that samples get; 0 by default. */
  seed?: number;
  /** Leave out a last batch that is not full; false by default, where that batch is shorter. */
  dropLast?: boolean;
  /** An order of samples of your own, in place of `shuffle`. */
  sampler?: Sampler;
  /** An order of batches of your own, in place of `batchSize`, `shuffle`, `sampler` and `dropLast`. */
  batchSampler?: BatchOrder;
  /** Makes a batch of samples; stacks them by default. With workers: `{ module, export }` that names the function. */
  collate?: CollateFunction<S> | ModuleRef;
  /** Where the batch's tensors live; `cpu` by default. */
  device?: DeviceLike;
  /** Threads that load batches ahead; 0 (the default) loads in the main thread when a batch is asked for. */
  workers?: number;
  /** Batches that each worker loads ahead; 2 by default. */
  prefetchFactor?: number;
  /**
   * Keep workers and their datasets from one epoch to the next: to start them takes 0.1 s each. False by default. They end with the loader, or
   * with a loop that is left early; those of streams always start anew.
   */
  persistentWorkers?: boolean;
  /** Longest wait for a worker before the iteration fails; 10 minutes by default. */
  timeoutMs?: number;
  /** Which of `world` processes that train together this is; 0 by default. It gets its piece, `batchSize` samples, of every common batch. */
  rank?: number;
  /** Processes that share the samples; 1 by default. */
  world?: number;
  /**
   * Fill the last common batch of an epoch up from its start, so that every rank gets equally many samples. False by default: every
   * sample comes once an epoch, and where the last batch cannot be divided, ranks differ by one sample or go without: a rank may then
   * have a step less than others, which training needs `dropLast`, `pad` or the `join` of DistributedDataParallel for.
   */
  pad?: boolean;
}

/** Where the readers of a stream stand. */
export interface StreamState {
  /** The number of ranks. */
  readonly world: number;
  /** Batches delivered by each reader of this rank. */
  readonly delivered: readonly number[];
  /** The readers with data left, in the order of their turns. */
  readonly rotation: readonly number[];
}

/** Where a loader stands; plain JSON. */
export interface DataLoaderState {
  /** The epoch, from 0. */
  readonly epoch: number;
  /**
   * Samples of the epoch that all ranks together were given. It says nothing of their number or batch size: a run may go on with others.
   * For streams and with a batchSampler: batches of this loader.
   */
  readonly position: number;
  /** The seed of the order. */
  readonly seed: number;
  /** Samples of the dataset; null for streams. */
  readonly samples: number | null;
  /** Streams only. */
  readonly stream: StreamState | null;
}

export interface ResolvedOptions<S> extends DataLoaderOptions<S> {
  readonly batchSize: number;
  readonly seed: number;
  readonly dropLast: boolean;
  readonly pad: boolean;
  readonly workers: number;
  readonly prefetchFactor: number;
  readonly persistentWorkers: boolean;
  readonly timeoutMs: number;
  readonly rank: number;
  readonly world: number;
}

/** Checks a state given to loadStateDict. Throws ValueError for what stateDict() does not return. */
export function checkState(state: DataLoaderState, where: string): DataLoaderState {
  for (const name of ['epoch', 'position', 'seed'] as const) checkInteger(state?.[name], name, where, 0);
  if (state.samples !== null) checkInteger(state.samples, 'samples', where, 0);
  if (state.stream === null) return state;
  const { world, delivered, rotation } = state.stream ?? {};
  if (!Array.isArray(delivered) || !Array.isArray(rotation)) throw new ValueError(`${where}: stream must be null or { world, delivered, rotation }`);
  checkInteger(world, 'stream.world', where, 1);
  for (const [i, count] of delivered.entries()) checkInteger(count, `stream.delivered[${i}]`, where, 0);
  for (const [i, reader] of rotation.entries()) checkInteger(reader, `stream.rotation[${i}]`, where, 0, delivered.length - 1);
  return state;
}

/** Fills in the defaults. Throws ValueError for values out of range and for options that exclude each other. */
export function resolveOptions<S>(options: DataLoaderOptions<S>): ResolvedOptions<S> {
  const where = 'DataLoader';
  if (typeof options !== 'object' || options === null) throw new ValueError(`${where}: options must be an object, got ${describe(options)}`);
  const world = checkInteger(options.world ?? 1, 'world', where, 1);
  const resolved = {
    ...options,
    batchSize: checkInteger(options.batchSize ?? 1, 'batchSize', where, 1),
    seed: checkInteger(options.seed ?? 0, 'seed', where, 0),
    dropLast: options.dropLast ?? false,
    pad: options.pad ?? false,
    workers: checkInteger(options.workers ?? 0, 'workers', where, 0, 1024),
    prefetchFactor: checkInteger(options.prefetchFactor ?? 2, 'prefetchFactor', where, 1, 1024),
    persistentWorkers: options.persistentWorkers ?? false,
    timeoutMs: checkNumber(options.timeoutMs ?? 600_000, 'timeoutMs', where, 1, 2 ** 31 - 1),
    world,
    rank: checkInteger(options.rank ?? 0, 'rank', where, 0, world - 1),
  };
  const { collate, batchSampler, sampler, shuffle, dropLast, pad, workers } = resolved;
  if (collate !== undefined && typeof collate !== 'function' && !isModuleRef(collate)) {
    throw new ValueError(`${where}: collate must be a function or { module, export }, got ${describe(collate)}`);
  }
  if (workers > 0 && typeof collate === 'function') {
    throw new ValueError(`${where}: a collate function cannot be sent to workers; name it as { module, export }, or use workers: 0`);
  }
  if (sampler) checkOrder(sampler, 'sampler', where);
  if (batchSampler) checkOrder(batchSampler, 'batchSampler', where);
  if (dropLast && pad) throw new ValueError(`${where}: dropLast and pad exclude each other`);
  if (batchSampler && (sampler || shuffle || dropLast || pad || options.batchSize !== undefined || world > 1)) {
    throw new ValueError(`${where}: batchSampler decides the batches alone; leave out batchSize, shuffle, sampler, dropLast, pad and world`);
  }
  if (sampler && shuffle) throw new ValueError(`${where}: sampler and shuffle exclude each other`);
  return resolved;
}
