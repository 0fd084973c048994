// Random orders of chosen samples, and of samples that are drawn more often than others. As every sampler, functions of (position, epoch).
import { describe, ValueError } from '../errors.js';
import { checkFlag } from '../ops/arguments.js';
import { checkInteger } from '../shape.js';
import { isTypedArray } from './host_array.js';
import { SampleRandom } from './sample_random.js';
import { RandomSampler, type Sampler } from './sampler.js';

function checkNumbers(list: unknown, name: string, where: string): ArrayLike<number> {
  if (!Array.isArray(list) && !(isTypedArray(list) && !(list instanceof BigInt64Array || list instanceof BigUint64Array)))
    throw new ValueError(`${where}: ${name} must be an array of numbers, got ${describe(list)}`);
  return list as ArrayLike<number>;
}

/** Chosen samples, each once an epoch in an order that depends on (seed, epoch) alone. */
export class SubsetRandomSampler implements Sampler {
  private readonly order: RandomSampler;
  /**
   * @param indices into the dataset
   * @param options.seed of the orders. Default 0
   */
  constructor(
    private readonly indices: ArrayLike<number>,
    options: { seed?: number } = {},
  ) {
    checkNumbers(indices, 'indices', 'SubsetRandomSampler');
    for (let i = 0; i < indices.length; i++) checkInteger(indices[i], `index ${i}`, 'SubsetRandomSampler', 0);
    this.order = new RandomSampler(indices.length, { seed: checkInteger(options?.seed ?? 0, 'seed', 'SubsetRandomSampler') });
  }
  /** How many indices were chosen. */
  get length(): number {
    return this.indices.length;
  }
  at(position: number, epoch: number): number {
    return this.indices[this.order.at(position, epoch)]!;
  }
}

/** How a `WeightedRandomSampler` draws. */
export interface WeightedOptions {
  /** Whether a sample may come more than once an epoch. Default true. */
  replacement?: boolean;
  /** Of the draws. Default 0. */
  seed?: number;
}

/** Samples drawn in proportion to weights, which need not sum to 1: rare classes as often as frequent ones. */
export class WeightedRandomSampler implements Sampler {
  readonly length: number;
  /** Sums of the weights up to each sample. */
  private readonly sums: Float64Array;
  private readonly replacement: boolean;
  private readonly seed: number;
  private order: Uint32Array | null = null;
  private orderEpoch = -1;

  /**
   * @param weights one a sample, from 0
   * @param numSamples draws in an epoch
   */
  constructor(weights: ArrayLike<number>, numSamples: number, options: WeightedOptions = {}) {
    const where = 'WeightedRandomSampler';
    checkNumbers(weights, 'weights', where);
    this.length = checkInteger(numSamples, 'numSamples', where, 1);
    this.replacement = checkFlag(options?.replacement ?? true, 'replacement', where);
    this.seed = checkInteger(options?.seed ?? 0, 'seed', where);
    this.sums = new Float64Array(weights.length);
    let [total, positive] = [0, 0];
    for (let i = 0; i < weights.length; i++) {
      const weight = weights[i]!;
      if (!(weight >= 0 && weight < Number.POSITIVE_INFINITY))
        throw new ValueError(`${where}: weight ${i} must be a finite number from 0, got ${describe(weight)}`);
      this.sums[i] = total += weight;
      positive += Number(weight > 0);
    }
    if (!(total > 0 && total < Number.POSITIVE_INFINITY)) throw new ValueError(`${where}: the weights sum to ${total}`);
    if (!this.replacement && numSamples > positive)
      throw new ValueError(`${where}: cannot draw ${numSamples} of ${positive} samples with a weight above 0 without replacement`);
  }

  at(position: number, epoch: number): number {
    if (this.replacement) return this.find(new SampleRandom(this.seed, epoch, position).next() * this.sums.at(-1)!);
    if (this.order === null || this.orderEpoch !== epoch) {
      this.order = this.draw(epoch);
      this.orderEpoch = epoch;
    }
    return this.order[position]!;
  }

  /** The first sample whose sum is above `value`. */
  private find(value: number): number {
    let [low, high] = [0, this.sums.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.sums[middle]! > value) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** One after another without replacement: in the order of exponential times with the weights as rates (Efraimidis & Spirakis, 2006). */
  private draw(epoch: number): Uint32Array {
    const random = new SampleRandom(this.seed, epoch);
    const times = new Float64Array(this.sums.length);
    for (let i = 0; i < times.length; i++) times[i] = -Math.log1p(-random.next()) / (this.sums[i]! - (this.sums[i - 1] ?? 0));
    return Uint32Array.from(times.keys())
      .sort((a, b) => times[a]! - times[b]! || a - b)
      .subarray(0, this.length);
  }
}
