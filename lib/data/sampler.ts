// Samplers say which sample comes at which position of an epoch. The surprising decision: a sampler is a function of (position,
// epoch), not an iterator, so a loader resumes at any position without replaying what came before.
import { DataError, describe, ValueError } from '../errors.js';
import { checkInteger } from '../shape.js';
import { Permutation } from './permutation.js';

/** An order over a dataset. Write your own by implementing the two members. */
export interface Sampler {
  /** Positions in an epoch. */
  readonly length: number;
  /** Index into the dataset of the sample at this position of this epoch. Must depend on its arguments alone. */
  at(position: number, epoch: number): number;
}

/** An order of whole batches, for example to group sequences of like length. */
export interface BatchOrder {
  /** Batches in an epoch. */
  readonly length: number;
  /** Indices into the dataset of the samples of this batch of this epoch. Must depend on its arguments alone. */
  at(batch: number, epoch: number): number[];
}

/** Checks a user's order of samples or batches. */
export function checkOrder(order: unknown, name: string, where: string): void {
  const { length, at } = (order ?? {}) as Partial<Sampler>;
  if (typeof at !== 'function' || !Number.isSafeInteger(length) || length! < 0) {
    throw new ValueError(`${where}: ${name} must have length and at(), got ${describe(order)}`);
  }
}

/** What a sampler can take the length from: a dataset, an array, or the number itself. */
export type Sized = number | { readonly length: number };

function lengthOf(source: Sized, where: string): number {
  return checkInteger(typeof source === 'number' ? source : source?.length, 'the length', where, 0);
}

/** Samples in the order of the dataset, the same in every epoch. */
export class SequentialSampler implements Sampler {
  readonly length: number;
  constructor(source: Sized) {
    this.length = lengthOf(source, 'SequentialSampler');
  }
  at(position: number): number {
    return position;
  }
}

/** Every sample once an epoch in an order that depends on (seed, epoch) alone. Costs no memory, however long the dataset is. */
export class RandomSampler implements Sampler {
  readonly length: number;
  readonly seed: number;
  private permutation: Permutation | null = null;
  private permutationEpoch = -1;

  constructor(source: Sized, options: { seed?: number } = {}) {
    this.length = lengthOf(source, 'RandomSampler');
    this.seed = checkInteger(options.seed ?? 0, 'seed', 'RandomSampler');
  }

  at(position: number, epoch: number): number {
    if (this.permutation === null || this.permutationEpoch !== epoch) {
      this.permutation = new Permutation(this.length, this.seed, epoch);
      this.permutationEpoch = epoch;
    }
    return this.permutation.at(position);
  }
}

/**
 * The share of one rank: positions rank, rank + world, rank + 2·world, … of another sampler, so that batch k of all ranks together
 * is batch k of one process with a batch `world` times as large. All ranks get equally many samples: the last ones are filled up
 * from the start of the epoch, or left out with `dropLast`.
 */
export class DistributedSampler implements Sampler {
  readonly length: number;
  private readonly rank: number;
  private readonly world: number;

  constructor(
    private readonly base: Sampler,
    options: { rank: number; world: number; dropLast?: boolean },
  ) {
    this.world = checkInteger(options.world, 'world', 'DistributedSampler', 1);
    this.rank = checkInteger(options.rank, 'rank', 'DistributedSampler', 0, this.world - 1);
    const share = base.length / this.world;
    this.length = options.dropLast ? Math.floor(share) : Math.ceil(share);
  }

  at(position: number, epoch: number): number {
    return this.base.at((position * this.world + this.rank) % this.base.length, epoch);
  }
}

/** Consecutive positions of a sampler as batches; the last one may be short unless `dropLast`. */
export class BatchSampler implements BatchOrder {
  readonly length: number;
  readonly batchSize: number;

  constructor(
    readonly sampler: Sampler,
    batchSize: number,
    options: { dropLast?: boolean } = {},
  ) {
    this.batchSize = checkInteger(batchSize, 'batchSize', 'BatchSampler', 1);
    const batches = sampler.length / this.batchSize;
    this.length = options.dropLast ? Math.floor(batches) : Math.ceil(batches);
  }

  at(batch: number, epoch: number): number[] {
    const start = batch * this.batchSize;
    const count = Math.min(this.batchSize, this.sampler.length - start);
    return Array.from({ length: count }, (_, i) => this.sampler.at(start + i, epoch));
  }
}

/** Checks what a user's sampler returned, so that a wrong index names the sampler and not a kernel. */
export function checkIndices(indices: unknown, datasetLength: number, batch: number): number[] {
  if (!Array.isArray(indices)) throw new ValueError(`DataLoader: batch ${batch} of the sampler is ${describe(indices)}, expected an array of indices`);
  for (const index of indices) {
    if (!Number.isSafeInteger(index) || index < 0 || index >= datasetLength) {
      throw new DataError(`DataLoader: the sampler gave index ${describe(index)} in batch ${batch}, the dataset has ${datasetLength} samples`);
    }
  }
  return indices as number[];
}
