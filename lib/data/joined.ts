// Datasets one after another: by index, and as streams.
import { describe, ValueError } from '../errors.js';
import { checkIndex, checkMapDataset, type Dataset, type IterableDataset, isIterableDataset, type StreamShare, workerRef } from './dataset.js';
import { construct, type ModuleRef, OWN_MODULE } from './module_ref.js';
import type { SampleRandom } from './sample_random.js';

/** The samples of several datasets, one dataset after the other. */
export class ConcatDataset<S> implements Dataset<S> {
  /** Samples of all of them. */
  readonly length: number;
  /** The first index behind each dataset. */
  private readonly ends: readonly number[];

  constructor(private readonly datasets: readonly Dataset<S>[]) {
    if (!Array.isArray(datasets) || datasets.length === 0)
      throw new ValueError(`ConcatDataset: expected an array of datasets, got ${Array.isArray(datasets) ? 'an empty one' : describe(datasets)}`);
    let length = 0;
    this.ends = datasets.map((dataset, i) => (length += checkMapDataset(dataset, `ConcatDataset: entry ${i}`).length));
    this.length = length;
  }
  get(index: number, random: SampleRandom): S | Promise<S> {
    checkIndex(index, this.length, 'ConcatDataset.get');
    const which = this.ends.findIndex((end) => index < end);
    return this.datasets[which]!.get(index - (this.ends[which - 1] ?? 0), random);
  }
  toWorker(): ModuleRef {
    return { module: OWN_MODULE, export: 'concatInWorker', args: this.datasets.map((dataset) => workerRef(dataset, 'ConcatDataset')) };
  }
}

/** Makes a ConcatDataset from references. */
export async function concatInWorker(...datasets: ModuleRef[]): Promise<ConcatDataset<unknown>> {
  return new ConcatDataset(await Promise.all(datasets.map(async (ref) => (await construct(ref, 'ConcatDataset')) as Dataset)));
}

/** The samples of several streams, one stream after the other. Each stream is dealt to workers and ranks by itself. */
export class ChainDataset<S> implements IterableDataset<S> {
  constructor(private readonly streams: readonly IterableDataset<S>[]) {
    const other = Array.isArray(streams) ? streams.find((stream) => !isIterableDataset(stream)) : streams;
    if (!Array.isArray(streams) || other !== undefined)
      throw new ValueError(`ChainDataset: expected an array of streams with iterate(), got ${describe(other)}`);
  }
  async *iterate(share: StreamShare): AsyncIterable<S> {
    for (const stream of this.streams) yield* stream.iterate(share);
  }
  toWorker(): ModuleRef {
    return { module: OWN_MODULE, export: 'chainInWorker', args: this.streams.map((stream) => workerRef(stream, 'ChainDataset')) };
  }
}

/** Makes a ChainDataset from references. */
export async function chainInWorker(...streams: ModuleRef[]): Promise<ChainDataset<unknown>> {
  return new ChainDataset(await Promise.all(streams.map(async (ref) => (await construct(ref, 'ChainDataset')) as IterableDataset)));
}
