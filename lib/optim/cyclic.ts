// Schedules with cycles, phases and feedback.
import { describe, ValueError } from '../errors.js';
import { checkInteger, checkNumber } from '../shape.js';
import { type OptimizerLike, Schedule } from './schedule.js';

function oneOf<T extends string>(value: unknown, allowed: readonly T[], name: string, where: string): T {
  if (!allowed.includes(value as T)) throw new ValueError(`${where}: ${name} must be ${allowed.join(' or ')}, got ${describe(value)}`);
  return value as T;
}

/** Options of CyclicLR. */
export interface CyclicOptions {
  /** The lower rate. */
  baseLr: number;
  /** The upper rate. */
  maxLr: number;
  /** Steps of the rising half. Default 2000. */
  stepSizeUp?: number;
  /** Steps of the falling half; stepSizeUp by default. */
  stepSizeDown?: number;
  /** Constant amplitude (the default), halved each cycle, or times gamma^step. */
  mode?: 'triangular' | 'triangular2' | 'exp_range';
  /** Of exp_range. Default 1. */
  gamma?: number;
}

/** Back and forth between two rates (Smith, 2017). */
export class CyclicLR extends Schedule {
  private readonly o: Required<CyclicOptions>;
  /** PyTorch's CyclicLR without cycling momentum. */
  constructor(optimizer: OptimizerLike, options: CyclicOptions) {
    super(optimizer);
    const where = 'CyclicLR';
    const up = checkInteger(options?.stepSizeUp ?? 2000, 'stepSizeUp', where, 1);
    this.o = {
      baseLr: checkNumber(options?.baseLr, 'baseLr', where, 0),
      maxLr: checkNumber(options.maxLr, 'maxLr', where, 0),
      stepSizeUp: up,
      stepSizeDown: checkInteger(options.stepSizeDown ?? up, 'stepSizeDown', where, 1),
      mode: oneOf(options.mode ?? 'triangular', ['triangular', 'triangular2', 'exp_range'], 'mode', where),
      gamma: checkNumber(options.gamma ?? 1, 'gamma', where, 0),
    };
    this.apply();
  }
  override rate(step: number): number {
    const { baseLr, maxLr, stepSizeUp, stepSizeDown, mode, gamma } = this.o;
    const total = stepSizeUp + stepSizeDown;
    const cycle = Math.floor(1 + step / total);
    const x = 1 + step / total - cycle;
    const ratio = stepSizeUp / total;
    const height = (maxLr - baseLr) * (x <= ratio ? x / ratio : (x - 1) / (ratio - 1));
    const scale = mode === 'triangular' ? 1 : mode === 'triangular2' ? 1 / 2 ** (cycle - 1) : gamma ** step;
    return baseLr + height * scale;
  }
}

/** Options of OneCycleLR. */
export interface OneCycleOptions {
  /** The highest rate. */
  maxLr: number;
  /** Steps of the whole cycle; one more is a ValueError. */
  totalSteps: number;
  /** Share of the steps in which the rate rises. Default 0.3. */
  pctStart?: number;
  /** The form of rise and fall. Default cos. */
  annealStrategy?: 'cos' | 'linear';
  /** The first rate is maxLr / divFactor. Default 25. */
  divFactor?: number;
  /** The last rate is the first / finalDivFactor. Default 1e4. */
  finalDivFactor?: number;
  /** Mirror the rise before the final decay. Default false. */
  threePhase?: boolean;
}

/** One rise to maxLr and one fall far below the start (Smith & Topin, 2018). */
export class OneCycleLR extends Schedule {
  private readonly phases: readonly { end: number; from: number; to: number }[];
  private readonly strategy: 'cos' | 'linear';
  private readonly totalSteps: number;
  /** PyTorch's OneCycleLR without cycling momentum. */
  constructor(optimizer: OptimizerLike, options: OneCycleOptions) {
    super(optimizer);
    const where = 'OneCycleLR';
    const max = checkNumber(options?.maxLr, 'maxLr', where, 0);
    const total = checkInteger(options.totalSteps, 'totalSteps', where, 1);
    const pct = checkNumber(options.pctStart ?? 0.3, 'pctStart', where, 0, 1);
    const initial = max / checkNumber(options.divFactor ?? 25, 'divFactor', where, Number.MIN_VALUE);
    const last = initial / checkNumber(options.finalDivFactor ?? 1e4, 'finalDivFactor', where, Number.MIN_VALUE);
    this.strategy = oneOf(options.annealStrategy ?? 'cos', ['cos', 'linear'], 'annealStrategy', where);
    this.totalSteps = total;
    this.phases = options.threePhase
      ? [
          { end: pct * total - 1, from: initial, to: max },
          { end: 2 * pct * total - 2, from: max, to: initial },
          { end: total - 1, from: initial, to: last },
        ]
      : [
          { end: pct * total - 1, from: initial, to: max },
          { end: total - 1, from: max, to: last },
        ];
    this.apply();
  }
  override rate(step: number): number {
    if (step > this.totalSteps) throw new ValueError(`OneCycleLR: step ${step} is beyond the ${this.totalSteps} steps of the cycle`);
    let start = 0;
    for (const [i, { end, from, to }] of this.phases.entries()) {
      if (step <= end || i === this.phases.length - 1) {
        const share = (step - start) / (end - start);
        return this.strategy === 'linear' ? from + (to - from) * share : to + ((from - to) / 2) * (1 + Math.cos(Math.PI * share));
      }
      start = end;
    }
    return 0;
  }
}

/** One schedule after another: each begins anew, from the base rates, at its milestone. */
export class SequentialLR extends Schedule {
  private readonly schedules: readonly Schedule[];
  private readonly milestones: readonly number[];
  /**
   * Takes schedules of one optimizer.
   * @param options.schedules in their order
   * @param options.milestones the step at which each but the first begins
   */
  constructor(optimizer: OptimizerLike, options: { schedules: readonly Schedule[]; milestones: readonly number[] }) {
    super(optimizer);
    const { schedules, milestones } = options ?? {};
    if (!Array.isArray(schedules) || schedules.length === 0 || schedules.some((s) => !(s instanceof Schedule))) {
      throw new ValueError(`SequentialLR: schedules must be an array of schedules, got ${describe(schedules)}`);
    }
    if (!Array.isArray(milestones) || milestones.length !== schedules.length - 1) {
      throw new ValueError(`SequentialLR: ${schedules.length} schedules need ${schedules.length - 1} milestones, got ${describe(milestones)}`);
    }
    this.schedules = schedules;
    this.milestones = milestones.map((m) => checkInteger(m, 'a milestone', 'SequentialLR', 0));
    (this as { baseLrs: readonly number[] }).baseLrs = schedules[0]!.baseLrs; // a first schedule may have set a starting rate already
    this.apply();
  }
  override rate(step: number, base: number, group: number): number {
    const which = this.milestones.filter((m) => m <= step).length;
    const start = which === 0 ? 0 : this.milestones[which - 1]!;
    return this.schedules[which]!.rate(step - start, base, group);
  }
}

/** Options of ReduceLROnPlateau. */
export interface PlateauOptions {
  /** Whether the metric should fall or rise. Default min. */
  mode?: 'min' | 'max';
  /** What a cut multiplies the rate by. Default 0.1. */
  factor?: number;
  /** Steps without improvement that are tolerated. Default 10. */
  patience?: number;
  /** What counts as an improvement. Default 1e-4. */
  threshold?: number;
  /** Improvement relative to the best, or absolute. Default rel. */
  thresholdMode?: 'rel' | 'abs';
  /** Steps to wait after a cut. Default 0. */
  cooldown?: number;
  /** The rate never falls below. Default 0. */
  minLr?: number;
  /** Cuts smaller than this are not made. Default 1e-8. */
  eps?: number;
}

/** Cuts the rate when a metric stops improving; call `step(metric)`. */
export class ReduceLROnPlateau {
  private readonly o: Required<PlateauOptions>;
  private best: number;
  private bad = 0;
  private wait = 0;
  constructor(
    private readonly optimizer: OptimizerLike,
    options: PlateauOptions = {},
  ) {
    const where = 'ReduceLROnPlateau';
    this.o = {
      mode: oneOf(options?.mode ?? 'min', ['min', 'max'], 'mode', where),
      factor: checkNumber(options?.factor ?? 0.1, 'factor', where, 0, 1),
      patience: checkInteger(options?.patience ?? 10, 'patience', where, 0),
      threshold: checkNumber(options?.threshold ?? 1e-4, 'threshold', where, 0),
      thresholdMode: oneOf(options?.thresholdMode ?? 'rel', ['rel', 'abs'], 'thresholdMode', where),
      cooldown: checkInteger(options?.cooldown ?? 0, 'cooldown', where, 0),
      minLr: checkNumber(options?.minLr ?? 0, 'minLr', where, 0),
      eps: checkNumber(options?.eps ?? 1e-8, 'eps', where, 0),
    };
    this.best = this.worst;
  }
  private get worst(): number {
    return this.o.mode === 'min' ? Number.POSITIVE_INFINITY : Number.NEGATIVE_INFINITY;
  }
  /** Takes a value of the metric: usually once an epoch, with the loss of data that is not trained on. */
  step(metric: number): void {
    if (typeof metric !== 'number') throw new ValueError(`ReduceLROnPlateau: step needs the metric as a number, got ${describe(metric)}`);
    if (this.improves(metric)) {
      this.best = metric;
      this.bad = 0;
    } else this.bad++;
    if (this.wait > 0) {
      this.wait--;
      this.bad = 0;
    }
    if (this.bad <= this.o.patience) return;
    for (const g of this.optimizer.groups) {
      const lr = Math.max(g.lr * this.o.factor, this.o.minLr);
      if (g.lr - lr > this.o.eps) g.lr = lr;
    }
    this.wait = this.o.cooldown;
    this.bad = 0;
  }
  /** The rates in force. */
  get lrs(): number[] {
    return this.optimizer.groups.map((g) => g.lr);
  }
  /** Best value, counts and rates, for checkpoints. */
  stateDict(): Record<string, unknown> {
    // JSON, which may carry the state, has no infinity
    return { best: Number.isFinite(this.best) ? this.best : null, bad: this.bad, wait: this.wait, lrs: this.lrs };
  }
  /** Goes on from a state, and sets its rates. Throws ValueError for one of other groups. */
  loadStateDict(state: Record<string, unknown>): void {
    const where = 'ReduceLROnPlateau.loadStateDict';
    const { best, lrs } = state ?? {};
    if (!Array.isArray(lrs) || lrs.length !== this.optimizer.groups.length) throw new ValueError(`${where}: the state has other groups`);
    const rates = lrs.map((lr) => checkNumber(lr, 'a rate', where, 0));
    this.best = best === null ? this.worst : checkNumber(best, 'best', where);
    this.bad = checkInteger(state['bad'], 'bad', where, 0);
    this.wait = checkInteger(state['wait'], 'wait', where, 0);
    this.optimizer.groups.forEach((g, i) => {
      g.lr = rates[i]!;
    });
  }
  private improves(metric: number): boolean {
    const { mode, threshold, thresholdMode } = this.o;
    const sign = mode === 'min' ? -1 : 1;
    const bar = thresholdMode === 'rel' ? this.best * (1 + sign * threshold) : this.best + sign * threshold;
    return mode === 'min' ? metric < bar : metric > bar;
  }
}
