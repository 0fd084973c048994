// The scale of a GradScaler where it lives, on the device, and what the host knows of it: it reads the state without waiting, so its
// knowledge is some steps old.
import { noGrad } from '../autograd/modes.js';
import { everyStep } from '../capture.js';
import { fromTypedArray } from '../create.js';
import type { Device } from '../device.js';
import { LossScaleError } from '../errors.js';
import { fill_ } from '../ops/copy.js';
import { invoke } from '../ops/door.js';
import { narrow } from '../ops/view.js';
import { Overhearing } from '../optim/overhear.js';
import { stateTensor } from '../optim/state.js';
import type { Tensor } from '../tensor.js';

/** Places of the state, as csrc/ops/loss_scale.h has them. */
enum Slot {
  Scale = 0,
  GrowthTracker = 1,
  Skipped = 2,
  Stuck = 3,
}
const SLOTS = 4;

/** The factors of an update, in the order of the operation. */
export type ScaleRule = readonly [growthFactor: number, backoffFactor: number, growthInterval: number, minScale: number];

export class LossScale {
  private state: Tensor | null = null;
  /** The scale again, as float32: what multiplies or divides by it. Null before place(). */
  factor: Tensor | null = null;
  /** Skipped steps that the host has heard of. */
  skips = 0;
  private updates = 0;
  private readonly overhearing = new Overhearing();
  /** Counts sets: what was asked for before one says nothing of what is stuck now. */
  private sets = 0;
  private stuck: { readonly step: number; readonly scale: number } | null = null;

  constructor(
    private scale: number,
    private tracker = 0,
  ) {}

  /** Brings the state to a device, once. */
  place(device: Device): Tensor {
    if (!this.factor) {
      this.state = stateTensor(fromTypedArray(Float64Array.of(this.scale, this.tracker, 0, 0), [SLOTS], { device }));
      this.factor = stateTensor(fromTypedArray(Float32Array.of(this.scale), [], { device }));
    }
    return this.factor;
  }

  update(found: readonly Tensor[], rule: ScaleRule): void {
    const { state, factor } = this;
    invoke('updateScale', state!.device, [state, factor, ...found], rule);
    everyStep(() => {
      factor!.storage.wrote('GradScaler.update');
      this.updates++;
      this.ask();
    });
  }

  /** Another scale, and unless null another place in the growth interval. What was stuck may go on. */
  set(scale: number, tracker: number | null): void {
    this.stuck = null;
    this.sets++;
    this.scale = scale;
    this.tracker = tracker ?? this.tracker;
    const { state, factor } = this;
    if (!state || !factor) return;
    const write = (slot: Slot, value: number): unknown => fill_(narrow(state, 0, slot, 1), value);
    noGrad(() => {
      fill_(factor, scale);
      write(Slot.Scale, scale);
      write(Slot.Stuck, 0);
      if (tracker !== null) write(Slot.GrowthTracker, tracker);
    });
  }

  /** Waits for the device. */
  async read(): Promise<{ scale: number; growthTracker: number }> {
    if (!this.state) return { scale: this.scale, growthTracker: this.tracker };
    const values = await this.state.toTypedArray();
    return { scale: values[Slot.Scale] as number, growthTracker: values[Slot.GrowthTracker] as number };
  }

  /** Throws if the scale cannot fall as far as it should; also before each replay of a captured step. */
  check(op: string): void {
    everyStep(() => {
      if (!this.stuck) return;
      const { step, scale } = this.stuck;
      throw new LossScaleError(
        `GradScaler.${op}: gradients were not finite at the smallest loss scale, ${scale}, by step ${step}; inf or NaN comes from the model or its data`,
      );
    });
  }

  /** Asks the device for the state; nothing waits. */
  private ask(): void {
    const { updates: step, sets } = this;
    this.overhearing.ask(this.state!, 0, SLOTS, (values) => {
      this.skips = values[Slot.Skipped]!;
      if (sets === this.sets && values[Slot.Stuck]! > 0) this.stuck ??= { step, scale: values[Slot.Scale]! };
    });
  }
}
