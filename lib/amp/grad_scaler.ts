// GradScaler: dynamic loss scaling for float16. Whether a step is skipped, and what the scale becomes, is decided on the device, so no
// step waits for the host and a captured graph holds all of it. The host reads the state behind its back: what it knows of skips
// is some steps old, and a scale that cannot fall any further is an error of a later call.
import { noGrad } from '../autograd/modes.js';
import { zeros } from '../create.js';
import { type Device, type DeviceLike, device as deviceNamed } from '../device.js';
import type { ProcessGroup } from '../distributed/process_group.js';
import { describe, ValueError } from '../errors.js';
import { copy_, fill_ } from '../ops/copy.js';
import { invoke } from '../ops/door.js';
import { mul } from '../ops/pointwise.js';
import type { Optimizer } from '../optim/optimizer.js';
import { checkMaxNorm } from '../optim/options.js';
import { stateTensor } from '../optim/state.js';
import { checkInteger, checkNumber } from '../shape.js';
import { Tensor } from '../tensor.js';
import { LossScale, type ScaleRule } from './loss_scale.js';

/** How a GradScaler finds the scale; the defaults are PyTorch's. */
export interface GradScalerOptions {
  /** The first scale. Default 65536. */
  initScale?: number;
  /** What the scale is multiplied by after `growthInterval` steps in a row without inf or NaN. Default 2. */
  growthFactor?: number;
  /** What it is multiplied by after a step with. Default 0.5. */
  backoffFactor?: number;
  /** Steps without inf or NaN before the scale grows. Default 2000. */
  growthInterval?: number;
  /** The scale never falls below; gradients that are not finite even there are an error. Default 1. */
  minScale?: number;
  /** False: every method passes on what it is given. Default true. */
  enabled?: boolean;
  /** Ranks whose gradients differ (sharded ones): inf or NaN on one of them skips the step on all. Not needed where gradients are averaged. */
  group?: ProcessGroup;
  /** Where the scale is; by default the device of the group, or of the first loss. */
  device?: DeviceLike;
}

/** What a checkpoint keeps of a GradScaler. */
export interface GradScalerState {
  /** What losses are multiplied by. */
  scale: number;
  /** Steps in a row without inf or NaN, since the scale last changed. */
  growthTracker: number;
  /** As the option of that name. */
  growthFactor: number;
  /** As the option of that name. */
  backoffFactor: number;
  /** As the option of that name. */
  growthInterval: number;
}

/** Losses to scale: a tensor, or arrays of them. */
export type Losses = Tensor | readonly Losses[];
/** Any optimizer, or what steps like one: a CPUOffloadOptimizer. */
/** Any optimizer, or what steps like one: a CPUOffloadOptimizer. @inline */
// biome-ignore lint/suspicious/noExplicitAny: an optimizer of any options
type AnyOptimizer = Pick<Optimizer<any>, 'step' | 'takeStep' | 'gradients' | 'isSharded'>;
type Stage = 'ready' | 'unscaled' | 'stepped';

/**
 * Multiplies losses so that small float16 gradients do not vanish, divides the gradients again, skips steps whose gradients are not
 * finite, and finds the scale (Micikevicius et al., 2018). PyTorch's algorithm and defaults.
 *
 * ```ts
 * scaler.scale(loss).backward();
 * scaler.step(optimizer, { maxNorm: 1 }); // unscales, clips and steps in one call
 * scaler.update();
 * ```
 *
 * Optimizers and schedules count no skipped step. The host hears of one when the loop awaits something, and schedules are exact before that
 * for up to 15 skips that it has not heard of. float16 gradients may be unscaled; those of float16 parameters go to float32 masters.
 */
export class GradScaler {
  /** Whether it does anything: as the option `enabled` said. */
  readonly isEnabled: boolean;
  private readonly group: ProcessGroup | null;
  private device: Device | null;
  private rule: ScaleRule;
  private readonly current: LossScale;
  /** What was found in the gradients of each optimizer, and how far it is since the last update. */
  private readonly found = new WeakMap<AnyOptimizer, Tensor>();
  private readonly stages = new Map<AnyOptimizer, Exclude<Stage, 'ready'>>();

  constructor(options: GradScalerOptions = {}) {
    const where = 'GradScaler';
    const { enabled = true, group, device } = options ?? {};
    if (typeof enabled !== 'boolean') throw new ValueError(`${where}: enabled must be true or false, got ${describe(enabled)}`);
    this.isEnabled = enabled;
    this.group = group ?? null;
    // a stage of a pipeline never sees a loss
    this.device = device === undefined ? (this.group?.device ?? null) : deviceNamed(device);
    const { growthFactor = 2, backoffFactor = 0.5, growthInterval = 2000, minScale = 1, initScale = 65536 } = options ?? {};
    this.rule = checkRule({ growthFactor, backoffFactor, growthInterval }, minScale, where);
    this.current = new LossScale(this.checkScale(initScale, 'initScale', where));
  }

  /** Steps that were skipped, as far as the host knows: it hears of one some steps later. */
  get skipped(): number {
    return this.current.skips;
  }

  /** The loss, or every one of an array, times the scale. */
  scale(loss: Tensor): Tensor;
  scale<T extends Losses>(loss: T): T;
  scale(loss: Losses): Losses {
    if (!this.isEnabled) return loss;
    if (Array.isArray(loss)) return loss.map((l: Losses) => this.scale(l as Tensor));
    if (!(loss instanceof Tensor)) throw new ValueError(`GradScaler.scale: expected a loss or an array of losses, got ${describe(loss)}`);
    this.current.check('scale');
    this.device ??= loss.device;
    return mul(loss, this.current.place(this.device));
  }

  /** Divides the gradients of the optimizer's parameters by the scale, in place: for what looks at them before the step. */
  unscale_(optimizer: AnyOptimizer): void {
    if (!this.isEnabled) return;
    const stage = this.stageOf(optimizer, 'unscale_');
    if (stage === 'unscaled') throw new ValueError('GradScaler.unscale_: it was already called on this optimizer since the last update()');
    if (stage === 'stepped') throw new ValueError('GradScaler.unscale_: it is called after step()');
    const gradients = optimizer.gradients();
    if (gradients.length === 0) throw new ValueError('GradScaler.unscale_: no parameter of the optimizer has a gradient');
    const factor = this.factor('unscale_');
    const found = this.foundOf(optimizer, factor);
    noGrad(() => {
      fill_(found, 0);
      invoke('unscaleMany', factor.device, [factor, found, ...gradients.map((g) => g.detach())]);
      for (const g of gradients) g.storage.wrote('unscale_');
      this.share(found);
    });
    this.stages.set(optimizer, 'unscaled');
  }

  /**
   * Takes a step of the optimizer with the gradients divided by the scale, unless one of them is inf or NaN: then nothing of it changes,
   * its step counts included. Unless unscale_ has run before, `.grad` stays as it is: division, clipping and step are one.
   * @param options.maxNorm scales the gradients for this step so that the norm of the unscaled ones is at most this
   * @returns with maxNorm the norm of the unscaled gradients before clipping, a device tensor
   */
  step(optimizer: AnyOptimizer, options: { maxNorm: number }): Tensor;
  step(optimizer: AnyOptimizer, options?: { maxNorm?: number }): Tensor | undefined;
  step(optimizer: AnyOptimizer, options: { maxNorm?: number } = {}): Tensor | undefined {
    const maxNorm = options?.maxNorm;
    if (!this.isEnabled) return optimizer.step({ maxNorm });
    const stage = this.stageOf(optimizer, 'step');
    if (maxNorm !== undefined) checkMaxNorm(maxNorm, optimizer, 'GradScaler.step');
    if (stage === 'stepped') throw new ValueError('GradScaler.step: it has already been called on this optimizer since the last update()');
    const factor = this.factor('step');
    const norm = optimizer.takeStep((buffer, gradients) => {
      const found = this.foundOf(optimizer, factor);
      const unscaled = stage === 'unscaled';
      const looked = unscaled && maxNorm === undefined ? [] : gradients;
      const norm = buffer.prepare(looked, unscaled ? null : factor, maxNorm ?? Number.POSITIVE_INFINITY);
      if (!unscaled) {
        copy_(found, buffer.foundInf);
        this.share(found);
      }
      if (unscaled || this.group) copy_(buffer.foundInf, found);
      return norm;
    });
    if (norm === null) throw new ValueError('GradScaler.step: no parameter of the optimizer has a gradient');
    this.stages.set(optimizer, 'stepped');
    if (maxNorm !== undefined) return norm;
    norm.dispose();
    return undefined;
  }

  /**
   * What the scale becomes after this step; once a step, after all optimizers.
   * @param newScale sets the scale instead
   */
  update(newScale?: number): void {
    if (!this.isEnabled) return;
    if (newScale !== undefined) this.current.set(this.checkScale(newScale, 'the new scale', 'GradScaler.update'), null);
    else {
      const factor = this.factor('update');
      const found = Array.from(this.stages.keys(), (optimizer) => this.foundOf(optimizer, factor));
      if (found.length === 0) throw new ValueError('GradScaler.update: neither step() nor unscale_() has run since the last update()');
      this.current.update(found, this.rule);
    }
    this.stages.clear();
  }

  /** The scale, 1 if not enabled. Waits for the device. */
  async getScale(): Promise<number> {
    if (!this.isEnabled) return 1;
    return (await this.current.read()).scale;
  }

  /** The state for checkpoints, empty if not enabled. Waits for the device. */
  async stateDict(): Promise<GradScalerState | Record<string, never>> {
    if (!this.isEnabled) return {};
    const [growthFactor, backoffFactor, growthInterval] = this.rule;
    return { ...(await this.current.read()), growthFactor, backoffFactor, growthInterval };
  }

  /**
   * Goes on with the scale and the rule of a state; `minScale` stays this scaler's. Nothing happens if not enabled.
   * @throws ValueError for a state that is empty or has other values
   */
  loadStateDict(dict: GradScalerState | Record<string, never>): void {
    if (!this.isEnabled) return;
    const where = 'GradScaler.loadStateDict';
    if (typeof dict !== 'object' || dict === null) throw new ValueError(`${where}: expected a state, got ${describe(dict)}`);
    if (Object.keys(dict).length === 0) throw new ValueError(`${where}: the state is empty; it may be that of a scaler that was not enabled`);
    const state = dict as GradScalerState;
    const rule = checkRule(state, this.rule[3], where);
    const scale = this.checkScale(state.scale, 'scale', where);
    const tracker = checkInteger(state.growthTracker, 'growthTracker', where, 0);
    this.rule = rule;
    this.current.set(scale, tracker);
    this.stages.clear();
  }

  private checkScale(scale: unknown, name: string, where: string): number {
    const value = checkPositive(scale, name, where);
    if (value < this.rule[3]) throw new ValueError(`${where}: ${name} must not be below minScale ${this.rule[3]}, got ${value}`);
    if (!Number.isFinite(Math.fround(value))) throw new ValueError(`${where}: ${name} must be finite in float32, got ${value}`);
    return Math.fround(value);
  }

  /** The stage of an optimizer, and what has to hold for every call on one. */
  private stageOf(optimizer: AnyOptimizer, op: string): Stage {
    if (typeof (optimizer as { takeStep?: unknown } | null)?.takeStep !== 'function')
      throw new ValueError(`GradScaler.${op}: expected an optimizer, got ${describe(optimizer)}`);
    if (optimizer.isSharded && !this.group)
      throw new ValueError(`GradScaler.${op}: ranks have pieces of the gradients, and skip a step together: give the scaler the group as { group }`);
    return this.stages.get(optimizer) ?? 'ready';
  }

  private factor(op: string): Tensor {
    this.current.check(op);
    const factor = this.device ? this.current.place(this.device) : null;
    if (!factor) throw new ValueError(`GradScaler.${op}: no loss has been scaled yet; call scale(loss).backward() first`);
    return factor;
  }
  private foundOf(optimizer: AnyOptimizer, { device }: Tensor): Tensor {
    const known = this.found.get(optimizer);
    if (known) return known;
    const made = stateTensor(zeros([1], { dtype: 'float64', device }));
    this.found.set(optimizer, made);
    return made;
  }
  /** What one rank has found, all have. */
  private share(found: Tensor): void {
    if (this.group) this.group.allReduce(found, { op: 'max', label: 'of inf or NaN in gradients' }).wait();
  }
}

function checkRule(given: Partial<GradScalerState>, minScale: number, where: string): ScaleRule {
  const growth = checkNumber(given.growthFactor, 'growthFactor', where);
  const backoff = checkNumber(given.backoffFactor, 'backoffFactor', where);
  if (!(growth > 1)) throw new ValueError(`${where}: growthFactor must be more than 1, got ${growth}`);
  if (!(backoff > 0 && backoff < 1)) throw new ValueError(`${where}: backoffFactor must be between 0 and 1, got ${backoff}`);
  return [growth, backoff, checkInteger(given.growthInterval, 'growthInterval', where, 1), checkPositive(minScale, 'minScale', where)];
}

function checkPositive(value: unknown, name: string, where: string): number {
  const checked = checkNumber(value, name, where);
  if (!(checked > 0)) throw new ValueError(`${where}: ${name} must be more than 0, got ${checked}`);
  return checked;
}
