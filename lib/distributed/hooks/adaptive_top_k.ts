// Top-k with a share that follows the network: as much is sent as fits into the time that backward takes. What the streams measure in one
// interval of steps is reduced over the ranks at its end and decides when the next has ended: the same on every rank, and so long
// known by then that nothing waits for it.
import { noGrad } from '../../autograd/modes.js';
import { dtypeSize } from '../../dtype.js';
import { ValueError } from '../../errors.js';
import type { Stateful } from '../../io/checkpoint.js';
import { scope } from '../../memory.js';
import { wideType } from '../../ops/matmul.js';
import { checkInteger, checkNumber } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { Ensemble } from '../ensemble.js';
import type { Work } from '../work.js';
import type { GradientBucket, ReductionContext } from './hook.js';
import { plainReduction } from './plain.js';
import { Stopwatch } from './stopwatch.js';
import { TopK, type TopKOptions } from './top_k.js';

/** Options of AdaptiveTopK. */
export interface AdaptiveTopKOptions extends Pick<TopKOptions, 'minElements'> {
  /** The least share that is ever sent; 0.001. */
  minRatio?: number;
  /** Steps between decisions; 20. A loop should await something, such as its loss, at least once in so many. */
  interval?: number;
  /** The part of backward's time that communication may take; 1: all of it, as both run at once. */
  budget?: number;
}

/** What is known of a step, on average. */
export interface Measurement {
  readonly backwardSeconds: number;
  /** Communication, and the bytes that each rank moved in that time. */
  readonly seconds: number;
  readonly traffic: number;
  /** Bytes that each rank would move for all elements: as sums, and chosen as values and places. */
  readonly dense: number;
  readonly sparse: number;
}

/** The share of elements that can be sent in the time; 1: all of them, as sums. A power of two, so that noise changes little. */
export function affordableRatio(m: Measurement, budget: number, minRatio: number): number {
  const bytes = (m.traffic / m.seconds) * m.backwardSeconds * budget;
  if (Number.isNaN(bytes) || m.dense <= bytes) return 1;
  return Math.max(minRatio, Math.min(1, 2 ** Math.floor(Math.log2(bytes / m.sparse))));
}

/** A ratio that the device still works out. */
class Decision {
  private ratio: number | null = null;
  /** Once the device is there. */
  readonly known: Promise<number>;

  constructor(
    private readonly reduced: Tensor,
    private readonly decide: (values: Float64Array) => number,
  ) {
    this.known = reduced.toTypedArray().then((values) => {
      this.ratio ??= decide(values as Float64Array);
      reduced.dispose();
      return this.ratio;
    });
    this.known.catch(() => {}); // a fault is met by whoever waits next
  }

  /** Now: waits if the device is not there yet, or if the loop has never awaited anything since. */
  now(): number {
    this.ratio ??= this.decide(this.reduced.toTypedArraySync() as Float64Array);
    return this.ratio;
  }
}

/** TopK that begins with everything and chooses its own ratio. */
export class AdaptiveTopK extends TopK {
  /** For errors. */
  override readonly name: string = 'AdaptiveTopK';
  private readonly minRatio: number;
  private readonly interval: number;
  private readonly budget: number;
  private watch: Stopwatch | null = null;
  private row = 0;
  private steps = 0;
  /** Bytes of a step so far: moved, and as they would be moved. */
  private moved = { traffic: 0, dense: 0, sparse: 0 };
  private next: { now(): number; readonly known: Promise<number> } | null = null;

  /** The share, the count of steps, and the decision under way. */
  override readonly shared: Stateful = {
    stateDict: async () => ({ ratio: this.ratio, steps: this.steps, next: this.next && (await this.next.known) }),
    loadStateDict: ({ ratio, steps, next }: { ratio: number; steps: number; next: number | null }) => {
      this.setRatio(ratio);
      this.steps = checkInteger(steps, 'steps', this.name, 0);
      this.next = next === null ? null : { now: () => next, known: Promise.resolve(next) };
    },
  };

  constructor(options: AdaptiveTopKOptions = {}) {
    super({ ratio: 1, minElements: options.minElements });
    this.minRatio = checkNumber(options.minRatio ?? 0.001, 'minRatio', 'AdaptiveTopK', 0, 1);
    this.interval = checkInteger(options.interval ?? 20, 'interval', 'AdaptiveTopK', 1);
    this.budget = checkNumber(options.budget ?? 1, 'budget', 'AdaptiveTopK', 0);
    if (this.minRatio === 0) throw new ValueError('AdaptiveTopK: minRatio must be above 0');
  }

  override attach(ensemble: Ensemble, parameters: Parameters<TopK['attach']>[1]): void {
    super.attach(ensemble, parameters);
    this.watch = new Stopwatch(ensemble.device);
  }

  override *reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void> {
    const { buffer, gradients } = bucket;
    const elements = gradients.reduce((n, { gradient }) => n + (gradient.numel >= this.minElements ? gradient.numel : 0), 0);
    this.moved.dense += 2 * buffer.nbytes;
    this.moved.sparse += context.ensemble.size * elements * (dtypeSize[wideType(buffer.dtype)] + 4);
    let steps: Generator<Work<unknown>, void, void>;
    if (this.ratio < 1) steps = super.reduce(bucket, context);
    else {
      // what was left out while less was sent
      for (const { name, gradient } of gradients) this.returnError(name, gradient);
      this.sends(buffer.nbytes);
      steps = plainReduction.reduce(bucket, context);
    }
    for (let step = steps.next(); !step.done; step = steps.next()) {
      this.watch!.end(this.row);
      yield step.value;
    }
  }

  protected override sends(summed: number, gathered = 0): void {
    this.row = this.watch!.begin();
    // the best ways to sum move everything twice
    this.moved.traffic += 2 * summed + gathered * this.attached().size;
  }

  /** Starts the clock. */
  backwardBegins(): void {
    this.watch!.backwardBegins();
  }
  /** Stops the clock. */
  backwardEnds(): void {
    this.watch!.backwardEnds();
  }

  /** Every `interval` steps: measures, and takes the last decision into force. */
  endStep(): void {
    noGrad(() =>
      scope(() => {
        this.watch!.endStep();
        const { traffic, dense, sparse } = this.moved;
        this.moved = { traffic: 0, dense: 0, sparse: 0 };
        if (++this.steps % this.interval !== 0) return;
        if (this.next) this.setRatio(this.next.now());
        this.next = new Decision(this.watch!.take(this.attached(), [traffic, dense, sparse]), (values) => this.decide(values));
      }),
    );
  }

  private decide(values: Float64Array): number {
    const { backward, buckets, numbers } = Stopwatch.read(values);
    const [traffic, dense, sparse] = numbers as [number, number, number];
    return affordableRatio({ backwardSeconds: backward, seconds: buckets, traffic, dense, sparse }, this.budget, this.minRatio);
  }
}
