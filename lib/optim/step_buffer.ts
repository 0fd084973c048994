// The small device buffer of an optimizer, laid out by csrc/ops/optim.h: what changes from step to step (learning rates, step counts, skip
// flags), which the kernels read and advance. So a captured step can be replayed with other values, and the device alone can decide
// that a parameter, or a whole step, is skipped: its count then stays, and bias corrections with it. The host hears of skipped
// steps late, and until then the buffer holds the rates for every number of skips it may not know of.
import { everyStep } from '../capture.js';
import { fromTypedArray, zeros } from '../create.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { copy_ } from '../ops/copy.js';
import { fresh, invoke } from '../ops/door.js';
import { cat } from '../ops/pieces.js';
import { narrow } from '../ops/view.js';
import type { Tensor } from '../tensor.js';
import { Overhearing } from './overhear.js';
import { stateTensor } from './state.js';

/** Places of the buffer; the rates follow the known skips. */
const SLOTS = 8;
const Slot = { clipFactor: 0, lossScale: 1, foundInf: 2, skipped: 3, knownSkips: 7 } as const;
/** Rows of rates: the last one also serves more skips. */
const RATE_ROWS = 16;

/** The rate of a group if so many more steps were skipped than the host has heard of. */
export type RateAfterSkips = (group: number, skips: number) => number;

export class StepBuffer {
  private tensor: Tensor | null = null;
  /** What was written last: known skips and rates. */
  private written: Float64Array = new Float64Array();
  /** Whether skip flags are set. */
  private flagged = false;
  /** What the counts of the next layout begin with. */
  private start: Float64Array = new Float64Array();
  private groups = 0;
  private size = 0;
  /** Steps may be skipped: some had found-inf decided on the device. */
  private prepared = false;
  /** The slots are those of a prepared step. */
  private occupied = false;
  /** Skips in all: before this layout, heard of from the device, and taken notice of. */
  private before = 0;
  private heard = 0;
  private known = 0;
  private readonly overhearing = new Overhearing();

  /** Skipped steps that the host has taken notice of. */
  get knownSkips(): number {
    return this.known;
  }

  /** Steps each parameter has taken, from the device: waits. */
  counts(): Float64Array {
    if (!this.tensor) return this.start;
    const all = this.tensor.toTypedArraySync() as Float64Array;
    this.heard = this.before + all[Slot.skipped]!;
    return all.slice(this.firstCount, this.firstCount + this.size);
  }

  /** Hears of all skips: waits, if there can be any. */
  hear(): void {
    if (this.prepared) this.counts();
  }
  /** Takes notice of the skips that were heard of; returns how many are new. */
  notice(): number {
    const late = this.heard - this.known;
    this.known = this.heard;
    return late;
  }

  /** The next step lays the buffer out for so many parameters, with these counts and zeros for parameters that follow. */
  reset(counts: Float64Array, size: number): void {
    this.hear();
    this.before = this.heard;
    this.start = new Float64Array(size);
    this.start.set(counts);
    this.tensor?.dispose();
    this.tensor = null;
  }

  /** The buffer for a step at these rates. Only what changed is written. `prepared`: the caller goes on with prepare(). */
  ready(rate: RateAfterSkips, groups: number, parameters: readonly Tensor[], prepared: boolean): Tensor {
    this.tensor ??= this.layOut(groups, parameters);
    if (prepared) {
      this.prepared = true;
      this.occupied = true;
      everyStep(() => {
        this.occupied = true;
      });
    } else {
      // a captured step clears what a prepared one before it leaves, and a replay what there was before the graph
      this.clear();
      everyStep(() => this.clear());
    }
    everyStep(() => this.writeRates(rate));
    this.writeFlags(this.tensor, parameters);
    return this.tensor;
  }

  /**
   * Looks at all gradients: found-inf, the loss scale that they are divided by, and the factor that clips their norm come to be in the
   * buffer. Returns the norm after the division.
   */
  prepare(gradients: readonly Tensor[], scale: Tensor | null, maxNorm: number): Tensor {
    const buffer = this.tensor!;
    return invoke('prepareStep', buffer.device, [buffer, scale, fresh([], 'float32'), ...gradients.map((g) => g.detach())], [maxNorm])[0]!;
  }
  /** Whether the step is skipped: one number, a view. */
  get foundInf(): Tensor {
    return narrow(this.tensor!, 0, Slot.foundInf, 1);
  }

  /** What is decided about a step: clip factor, loss scale and found-inf; and a flag for each parameter that is skipped. Views. */
  get decisions(): readonly [slots: Tensor, flags: Tensor] {
    return [narrow(this.tensor!, 0, 0, Slot.foundInf + 1), narrow(this.tensor!, 0, this.firstCount + this.size, this.size)];
  }

  /** After a prepared step: asks the device how many were skipped. Nothing waits. */
  ask(): void {
    everyStep(() => {
      const { tensor, before } = this;
      if (!tensor) return;
      this.overhearing.ask(tensor, Slot.skipped, 1, ([skipped]) => {
        // a later layout has its own count, and this one may have been read since
        if (this.tensor === tensor) this.heard = Math.max(this.heard, before + skipped!);
      });
    });
  }

  private get firstCount(): number {
    return SLOTS + RATE_ROWS * this.groups;
  }

  /** A step that nothing prepares neither clips nor is skipped. */
  private clear(): void {
    if (!this.occupied || !this.tensor) return;
    this.prepare([], null, Number.POSITIVE_INFINITY).dispose();
    this.occupied = false;
  }

  private writeRates(rate: RateAfterSkips): void {
    if (!this.tensor) return;
    const { groups } = this;
    const rows = this.prepared ? RATE_ROWS : 1; // without skips the first row is in force
    const values = new Float64Array(1 + rows * groups);
    values[0] = this.known - this.before;
    for (let row = 0, at = 1; row < rows; row++) for (let g = 0; g < groups; g++) values[at++] = rate(g, row);
    if (values.length === this.written.length && values.every((v, i) => Object.is(v, this.written[i]))) return;
    try {
      native.write(this.tensor.storage.handle, Slot.knownSkips * 8, values);
    } catch (error) {
      throw fromNative(error);
    }
    this.written = values;
  }

  private layOut(groups: number, parameters: readonly Tensor[]): Tensor {
    this.groups = groups;
    this.size = parameters.length;
    this.flagged = false;
    this.occupied = false;
    this.written = new Float64Array();
    const host = new Float64Array(this.firstCount + 2 * this.size);
    host[Slot.clipFactor] = 1;
    host[Slot.lossScale] = 1;
    host.set(this.start, this.firstCount);
    return stateTensor(fromTypedArray(host, undefined, { device: parameters[0]!.device }));
  }

  /** Gradients of which the device alone knows that there are none: their parameters, states and counts stay as they are. */
  private writeFlags(buffer: Tensor, parameters: readonly Tensor[]): void {
    const some = parameters.some((p) => p.grad?.absent);
    if (!some && !this.flagged) return;
    this.flagged = some;
    const none = zeros([1], { dtype: 'float64', device: buffer.device });
    const flags = cat(parameters.map((p) => p.grad?.absent ?? none));
    copy_(narrow(buffer, 0, this.firstCount + this.size, this.size), flags);
    flags.dispose();
    none.dispose();
  }
}
