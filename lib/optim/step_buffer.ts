// The small device buffer of an optimizer, laid out by csrc/ops/optim.h: what changes from step to step (learning rates, step counts, skip
// flags), which the kernels read and advance. So a captured step can be replayed with other values, and the device alone can decide
// that a parameter, or a whole step, is skipped: its count then stays, and bias corrections with it.
import { everyStep } from '../capture.js';
import { fromTypedArray, zeros } from '../create.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { copy_ } from '../ops/copy.js';
import { cat } from '../ops/pieces.js';
import { narrow } from '../ops/view.js';
import { takeOut } from '../storage.js';
import type { Tensor } from '../tensor.js';

/** Places of the buffer. */
const SLOTS = 4;
export const Slot = { clipFactor: 0, lossScale: 1, foundInf: 2 } as const;

export class StepBuffer {
  private tensor: Tensor | null = null;
  private rates: Float64Array = new Float64Array();
  /** Whether skip flags are set. */
  private skips = false;
  /** What the counts of the next layout begin with. */
  private start: Float64Array = new Float64Array();
  private groups = 0;
  private size = 0;

  /** Steps each parameter has taken, from the device: waits. */
  counts(): Float64Array {
    if (!this.tensor) return this.start;
    const all = this.tensor.toTypedArraySync() as Float64Array;
    return all.slice(SLOTS + this.groups, SLOTS + this.groups + this.size);
  }

  /** The next step lays the buffer out for so many parameters, with these counts and zeros for parameters that follow. */
  reset(counts: Float64Array, size: number): void {
    this.start = new Float64Array(size);
    this.start.set(counts);
    this.tensor?.dispose();
    this.tensor = null;
  }

  /** The buffer for a step with these learning rates. Only what changed is written. */
  ready(rates: () => Float64Array, parameters: readonly Tensor[]): Tensor {
    this.tensor ??= this.layOut(rates().length, parameters);
    everyStep(() => this.writeRates(rates()));
    this.writeSkips(this.tensor, parameters);
    return this.tensor;
  }

  private writeRates(rates: Float64Array): void {
    if (!this.tensor || rates.every((lr, i) => Object.is(lr, this.rates[i]))) return;
    try {
      native.write(this.tensor.storage.handle, SLOTS * 8, rates);
    } catch (error) {
      throw fromNative(error);
    }
    this.rates = rates;
  }

  private layOut(groups: number, parameters: readonly Tensor[]): Tensor {
    this.groups = groups;
    this.size = parameters.length;
    this.skips = false;
    this.rates = new Float64Array(groups).fill(Number.NaN);
    const host = new Float64Array(SLOTS + groups + 2 * this.size);
    host[Slot.clipFactor] = 1;
    host[Slot.lossScale] = 1;
    host.set(this.start, SLOTS + groups);
    const made = fromTypedArray(host, undefined, { device: parameters[0]!.device });
    takeOut(made.storage, 'optimizer state');
    return made;
  }

  /** Gradients of which the device alone knows that there are none: their parameters, states and counts stay as they are. */
  private writeSkips(buffer: Tensor, parameters: readonly Tensor[]): void {
    const some = parameters.some((p) => p.grad?.absent);
    if (!some && !this.skips) return;
    this.skips = some;
    const none = zeros([1], { dtype: 'float64', device: buffer.device });
    const flags = cat(parameters.map((p) => p.grad?.absent ?? none));
    copy_(narrow(buffer, 0, SLOTS + this.groups + this.size, this.size), flags);
    flags.dispose();
    none.dispose();
  }
}
