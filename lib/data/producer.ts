// Makes host batches out of a dataset: the same code runs in the main thread (workers: 0) and in every worker, so that both give
// the same batches to the bit.
import { DataError, describe, ValueError } from '../errors.js';
import { type Arena, type CollateFunction, stackSamples } from './collate.js';
import { type Dataset, type IterableDataset, isIterableDataset, type StreamShare } from './dataset.js';
import { SampleRandom } from './sample_random.js';

/** No more batches. */
export const END: unique symbol = Symbol('end of the data');

export interface ProducerSettings {
  readonly batchSize: number;
  readonly dropLast: boolean;
  /** Which part of a stream is read here, and under which seed and epoch samples draw. */
  readonly share: StreamShare;
  /** Batches of the stream that were delivered before: they are read again and left out. */
  readonly skip: number;
}

function failed(what: string, cause: unknown): DataError {
  return new DataError(`DataLoader: ${what} failed: ${cause instanceof Error ? cause.message : describe(cause)}`, { cause });
}

/** Indices in an error text: all of a small batch, the ends of a large one. */
export function showIndices(indices: readonly number[]): string {
  return indices.length <= 8 ? `[${indices.join(',')}]` : `[${indices.slice(0, 4).join(',')},…,${indices.at(-1)}]`;
}

export class Producer {
  private stream: Iterator<unknown> | AsyncIterator<unknown> | null = null;
  private streamSamples = 0;

  constructor(
    private readonly dataset: Dataset | IterableDataset,
    private readonly collate: CollateFunction | null,
    private readonly settings: ProducerSettings,
  ) {}

  /** The batch of these samples, or with null the next one of the stream; END when the stream is over. */
  async produce(indices: readonly number[] | null, arena: Arena | null): Promise<unknown> {
    const { dataset } = this;
    if (isIterableDataset(dataset)) return this.nextOfStream(dataset, arena);
    const wanted = indices as readonly number[];
    if (dataset.getBatch && !this.collate) {
      try {
        return await dataset.getBatch(wanted);
      } catch (cause) {
        throw failed(`dataset.getBatch(${showIndices(wanted)})`, cause);
      }
    }
    return this.finish(await this.samplesAt(dataset, wanted), arena, `of samples ${showIndices(wanted)}`);
  }

  private samplesAt(dataset: Dataset, indices: readonly number[]): unknown[] | Promise<unknown[]> {
    const { seed, epoch } = this.settings.share;
    let waits = false;
    const samples = indices.map((index) => {
      const fail = (cause: unknown): never => {
        throw failed(`dataset.get(${index})`, cause);
      };
      try {
        const sample = dataset.get(index, new SampleRandom(seed, epoch, index));
        if (!(sample instanceof Promise)) return sample;
        waits = true;
        return sample.catch(fail);
      } catch (cause) {
        return fail(cause);
      }
    });
    return waits ? Promise.all(samples) : samples;
  }

  private async nextOfStream(dataset: IterableDataset, arena: Arena | null): Promise<unknown> {
    const { batchSize, dropLast, skip, share } = this.settings;
    if (this.stream === null) {
      this.stream = open(dataset, share);
      for (let i = 0; i < skip * batchSize; i++) if ((await this.nextSample()) === END) return END;
    }
    const samples: unknown[] = [];
    while (samples.length < batchSize) {
      const sample = await this.nextSample();
      if (sample === END) break;
      samples.push(sample);
    }
    if (samples.length === 0 || (dropLast && samples.length < batchSize)) return END;
    return this.finish(samples, arena, `that ends with sample ${this.streamSamples - 1} of the stream`);
  }

  private async nextSample(): Promise<unknown> {
    let step: IteratorResult<unknown>;
    try {
      step = await this.stream!.next();
    } catch (cause) {
      throw failed(`sample ${this.streamSamples} of the stream (shard ${this.settings.share.shard} of ${this.settings.share.shards})`, cause);
    }
    if (step.done) return END;
    this.streamSamples++;
    return step.value;
  }

  private async finish(samples: unknown[], arena: Arena | null, which: string): Promise<unknown> {
    if (!this.collate) return stackSamples(samples, arena);
    try {
      return await this.collate(samples);
    } catch (cause) {
      throw failed(`collate of the batch ${which}`, cause);
    }
  }

  /** Lets a stream close its files. */
  async close(): Promise<void> {
    await this.stream?.return?.();
  }
}

function open(dataset: IterableDataset, share: StreamShare): Iterator<unknown> | AsyncIterator<unknown> {
  let stream: Partial<AsyncIterable<unknown> & Iterable<unknown>> | null;
  try {
    stream = dataset.iterate(share);
  } catch (cause) {
    throw failed(`dataset.iterate() (shard ${share.shard} of ${share.shards})`, cause);
  }
  const iterator = stream?.[Symbol.asyncIterator]?.() ?? stream?.[Symbol.iterator]?.();
  if (!iterator) throw new ValueError(`DataLoader: dataset.iterate() must return an iterable, got ${describe(stream)}`);
  return iterator;
}
