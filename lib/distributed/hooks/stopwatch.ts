// Stopwatch: how long the collectives of a step take, and its backward, as the device's streams see it. Marks and sums stay on the device, so
// measuring never waits. Of a collective the shortest time among the ranks counts: the others have waited for whoever came last.
import { full, zeros } from '../../create.js';
import type { Device } from '../../device.js';
import { fromNative } from '../../errors.js';
import { native } from '../../native.js';
import { cat } from '../../ops/pieces.js';
import type { Tensor } from '../../tensor.js';
import type { Ensemble } from '../ensemble.js';
import { COMMUNICATION, COMPUTE } from '../work.js';

/** Row 0 is backward, the others are buckets; further buckets are not measured. */
const ROWS = 512;
const BACKWARD = 0;

export class Stopwatch {
  /** Begin and end of each row, in this step. */
  private readonly marks: Tensor;
  private readonly sums: Tensor;
  private used = 1;
  private steps = 0;

  constructor(private readonly device: Device) {
    const on = { dtype: 'float64' as const, device };
    this.marks = zeros([ROWS, 2], on).keep();
    this.sums = zeros([ROWS], on).keep();
  }

  backwardBegins(): void {
    this.mark(2 * BACKWARD, COMPUTE);
  }
  backwardEnds(): void {
    this.mark(2 * BACKWARD + 1, COMPUTE);
  }
  /** Before the collectives of a bucket; gives what `end` wants. */
  begin(): number {
    const { slot } = this.device;
    const row = this.used++;
    // what they wait for is not theirs
    native.waitEvent(slot, COMMUNICATION, slot, COMPUTE, native.recordEvent(slot, COMPUTE));
    this.mark(2 * row, COMMUNICATION);
    return row;
  }
  end(row: number): void {
    this.mark(2 * row + 1, COMMUNICATION);
  }

  endStep(): void {
    const { slot } = this.device;
    native.waitEvent(slot, COMPUTE, slot, COMMUNICATION, native.recordEvent(slot, COMMUNICATION));
    const rows = Math.min(this.used, ROWS);
    const [begin, end] = [this.marks.slice(0, 0, rows).select(1, 0), this.marks.slice(0, 0, rows).select(1, 1)];
    this.sums.slice(0, 0, rows).add_(end.sub(begin));
    this.used = 1;
    this.steps++;
  }

  /**
   * The averages since the last call, over the ranks: minus the longest backward, the shortest time of each bucket, and the smallest
   * of each of `numbers`; in stream order.
   */
  take(ensemble: Ensemble, numbers: readonly number[]): Tensor {
    const on = { dtype: 'float64' as const, device: this.device };
    const steps = this.steps;
    const given = numbers.map((n) => full([1], steps > 0 ? n : Number.POSITIVE_INFINITY, on));
    const times = steps > 0 ? cat([this.sums.slice(0, 0, 1).neg(), this.sums.slice(0, 1)]).div(steps) : full([ROWS], Number.POSITIVE_INFINITY, on);
    const all = cat([times, ...given]).keep();
    ensemble.allReduce(all, { op: 'min', label: 'of the time of reductions' }).wait();
    this.sums.zero_();
    this.steps = 0;
    return all;
  }

  /** Backward, buckets together, and the numbers, of what `take` gave. */
  static read(values: Float64Array): { backward: number; buckets: number; numbers: number[] } {
    const times = values.subarray(0, ROWS);
    return { backward: -times[BACKWARD]!, buckets: times.subarray(1).reduce((a, b) => a + b, 0), numbers: [...values.subarray(ROWS)] };
  }

  private mark(place: number, stream: number): void {
    if (place >= 2 * ROWS) return;
    try {
      native.markTime(this.marks.storage.handle, 8 * place, stream);
    } catch (error) {
      throw fromNative(error);
    }
  }
}
