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
export type Sized = number | HasLength;
/** Anything that counts its samples. */
export interface HasLength {
  /** How many there are. */
  readonly length: number;
}

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
  /** The seed of the orders. */
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

/** One of several ranks, and what becomes of samples that cannot be dealt evenly. */
export interface RankOptions {
  /** This rank, from 0. */
  rank: number;
  /** How many ranks there are. */
  world: number;
  /** Leave them out. Default false. */
  dropLast?: boolean;
  /** Fill up from the start of the epoch, so that ranks get equally many. By default every sample comes once, and ranks differ by one. */
  pad?: boolean;
}

/**
 * The share of one rank: positions rank, rank + world, rank + 2·world, … of another sampler. For a loader of your own; a DataLoader
 * with `rank` and `world` deals by itself, and can resume with another number of ranks.
 */
export class DistributedSampler implements Sampler {
  readonly length: number;
  private readonly rank: number;
  private readonly world: number;

  constructor(
    private readonly base: Sampler,
    { rank, world, dropLast = false, pad = false }: RankOptions,
  ) {
    this.world = checkInteger(world, 'world', 'DistributedSampler', 1);
    this.rank = checkInteger(rank, 'rank', 'DistributedSampler', 0, this.world - 1);
    if (dropLast && pad) throw new ValueError('DistributedSampler: dropLast and pad exclude each other');
    this.length = dropLast ? Math.floor(base.length / world) : Math.ceil((base.length - (pad ? 0 : rank)) / world);
  }

  at(position: number, epoch: number): number {
    return this.base.at((position * this.world + this.rank) % this.base.length, epoch);
  }
}

/** Consecutive positions of a sampler as batches; the last one may be short unless `dropLast`. */
export class BatchSampler implements BatchOrder {
  readonly length: number;
  /** Samples in a full batch. */
  readonly batchSize: number;

  constructor(
    /** The order that is cut into batches. */
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

/**
 * One rank's part of every batch. The order of an epoch is cut into batches for all ranks together, and of each the r-th rank gets the
 * r-th piece: laid one after another, the ranks' batches are those of one process, sample for sample. An epoch may begin behind what
 * was seen before, by any number of ranks.
 */
export class RankBatches implements BatchOrder {
  /** Batches of this rank: one less than `steps` when the last batch has fewer samples than there are ranks and none for this one. */
  readonly length: number;
  /** Batches of all ranks together. */
  readonly steps: number;
  private readonly left: number;

  constructor(
    private readonly order: Sampler,
    private readonly batchSize: number,
    private readonly start: number,
    private readonly ranks: RankOptions,
  ) {
    this.left = Math.max(0, order.length - start);
    const batches = this.left / (batchSize * ranks.world);
    this.steps = ranks.dropLast ? Math.floor(batches) : Math.ceil(batches);
    this.length = this.steps > 0 && this.piece(this.steps - 1)[1] === 0 ? this.steps - 1 : this.steps;
  }

  at(batch: number, epoch: number): number[] {
    const [first, count] = this.piece(batch);
    return Array.from({ length: count }, (_, i) => this.order.at(this.start + ((first + i) % this.left), epoch));
  }

  /** Where in the epoch the ranks stand together after so many batches. */
  positionAfter(batches: number): number {
    return this.start + Math.min(this.left, batches * this.batchSize * this.ranks.world);
  }

  /** This rank's piece of a batch: its first position behind `start`, and the number of samples. */
  private piece(batch: number): [first: number, count: number] {
    const { rank, world, pad } = this.ranks;
    const first = batch * this.batchSize * world;
    const total = Math.min(this.batchSize * world, this.left - first);
    if (pad) return [first + rank * Math.ceil(total / world), Math.ceil(total / world)];
    const [each, more] = [Math.floor(total / world), total % world];
    return [first + rank * each + Math.min(rank, more), each + (rank < more ? 1 : 0)];
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
