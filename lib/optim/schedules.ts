// The learning-rate schedules that need no more than the step and the base rate.
import { describe, ValueError } from '../errors.js';
import { checkInteger, checkNumber } from '../shape.js';
import { FromStart, type OptimizerLike, Schedule } from './schedule.js';

/** The base rate times a factor for totalIters steps, then the base rate. */
export class ConstantLR extends FromStart {
  private readonly factor: number;
  private readonly totalIters: number;
  /**
   * Sets the rate of the first step too.
   * @param options.factor in [0, 1]. Default 1/3
   * @param options.totalIters steps with the factor. Default 5
   */
  constructor(optimizer: OptimizerLike, options: { factor?: number; totalIters?: number } = {}) {
    super(optimizer);
    this.factor = checkNumber(options?.factor ?? 1 / 3, 'factor', 'ConstantLR', 0, 1);
    this.totalIters = checkInteger(options?.totalIters ?? 5, 'totalIters', 'ConstantLR', 0);
    this.start();
  }
  override rate(step: number, base: number): number {
    return step < this.totalIters ? base * this.factor : base;
  }
}

/** Rate × gamma every `stepSize` steps. */
export class StepLR extends Schedule {
  private readonly stepSize: number;
  private readonly gamma: number;
  /**
   * Begins at the base rate.
   * @param options.stepSize steps between changes
   * @param options.gamma the factor. Default 0.1
   */
  constructor(optimizer: OptimizerLike, options: { stepSize: number; gamma?: number }) {
    super(optimizer);
    this.stepSize = checkInteger(options?.stepSize, 'stepSize', 'StepLR', 1);
    this.gamma = checkNumber(options.gamma ?? 0.1, 'gamma', 'StepLR', 0);
  }
  override rate(step: number, base: number): number {
    return base * this.gamma ** Math.floor(step / this.stepSize);
  }
}

/** Rate × gamma at each milestone. */
export class MultiStepLR extends Schedule {
  private readonly milestones: readonly number[];
  private readonly gamma: number;
  /**
   * Begins at the base rate.
   * @param options.milestones steps at which the rate changes
   * @param options.gamma the factor. Default 0.1
   */
  constructor(optimizer: OptimizerLike, options: { milestones: readonly number[]; gamma?: number }) {
    super(optimizer);
    if (!Array.isArray(options?.milestones)) throw new ValueError(`MultiStepLR: milestones must be an array of steps, got ${describe(options?.milestones)}`);
    this.milestones = options.milestones.map((m) => checkInteger(m, 'a milestone', 'MultiStepLR', 0));
    this.gamma = checkNumber(options.gamma ?? 0.1, 'gamma', 'MultiStepLR', 0);
  }
  override rate(step: number, base: number): number {
    return base * this.gamma ** this.milestones.filter((m) => m <= step).length;
  }
}

/** Rate × gamma every step. */
export class ExponentialLR extends Schedule {
  private readonly gamma: number;
  /**
   * Begins at the base rate.
   * @param options.gamma the factor of each step
   */
  constructor(optimizer: OptimizerLike, options: { gamma: number }) {
    super(optimizer);
    this.gamma = checkNumber(options?.gamma, 'gamma', 'ExponentialLR', 0);
  }
  override rate(step: number, base: number): number {
    return base * this.gamma ** step;
  }
}

/** base·(1 − step/totalIters)^power, then 0. */
export class PolynomialLR extends Schedule {
  private readonly totalIters: number;
  private readonly power: number;
  /**
   * Begins at the base rate.
   * @param options.totalIters steps until 0. Default 5
   * @param options.power Default 1
   */
  constructor(optimizer: OptimizerLike, options: { totalIters?: number; power?: number } = {}) {
    super(optimizer);
    this.totalIters = checkInteger(options?.totalIters ?? 5, 'totalIters', 'PolynomialLR', 1);
    this.power = checkNumber(options?.power ?? 1, 'power', 'PolynomialLR', 0);
  }
  override rate(step: number, base: number): number {
    return base * (1 - Math.min(step, this.totalIters) / this.totalIters) ** this.power;
  }
}

/** Half a cosine from the base rate to etaMin over tMax steps, and back (Loshchilov & Hutter, 2017). */
export class CosineAnnealingLR extends Schedule {
  private readonly tMax: number;
  private readonly etaMin: number;
  /**
   * Begins at the base rate.
   * @param options.tMax steps of the half cosine
   * @param options.etaMin the lowest rate. Default 0
   */
  constructor(optimizer: OptimizerLike, options: { tMax: number; etaMin?: number }) {
    super(optimizer);
    this.tMax = checkInteger(options?.tMax, 'tMax', 'CosineAnnealingLR', 1);
    this.etaMin = checkNumber(options.etaMin ?? 0, 'etaMin', 'CosineAnnealingLR', 0);
  }
  override rate(step: number, base: number): number {
    return this.etaMin + ((base - this.etaMin) * (1 + Math.cos((Math.PI * step) / this.tMax))) / 2;
  }
}

/** Cosine with restarts (SGDR; Loshchilov & Hutter, 2017): the first cycle takes t0 steps, each next one tMult times as many. */
export class CosineAnnealingWarmRestarts extends Schedule {
  private readonly t0: number;
  private readonly tMult: number;
  private readonly etaMin: number;
  /**
   * Begins at the base rate.
   * @param options.t0 steps of the first cycle
   * @param options.tMult whole factor of the next ones. Default 1
   * @param options.etaMin the lowest rate. Default 0
   */
  constructor(optimizer: OptimizerLike, options: { t0: number; tMult?: number; etaMin?: number }) {
    super(optimizer);
    this.t0 = checkInteger(options?.t0, 't0', 'CosineAnnealingWarmRestarts', 1);
    this.tMult = checkInteger(options.tMult ?? 1, 'tMult', 'CosineAnnealingWarmRestarts', 1);
    this.etaMin = checkNumber(options.etaMin ?? 0, 'etaMin', 'CosineAnnealingWarmRestarts', 0);
  }
  override rate(step: number, base: number): number {
    let [length, within] = [this.t0, step];
    while (within >= length) {
      within -= length;
      length *= this.tMult;
    }
    return this.etaMin + ((base - this.etaMin) * (1 + Math.cos((Math.PI * within) / length))) / 2;
  }
}

/** The base rate times a factor that goes from startFactor to endFactor in totalIters steps. */
export class LinearLR extends FromStart {
  private readonly startFactor: number;
  private readonly endFactor: number;
  private readonly totalIters: number;
  /**
   * Sets the rate of the first step too.
   * @param options.startFactor in [0, 1]. Default 1/3
   * @param options.endFactor in [0, 1]. Default 1
   * @param options.totalIters steps between the two. Default 5
   */
  constructor(optimizer: OptimizerLike, options: { startFactor?: number; endFactor?: number; totalIters?: number } = {}) {
    super(optimizer);
    this.startFactor = checkNumber(options.startFactor ?? 1 / 3, 'startFactor', 'LinearLR', 0, 1);
    this.endFactor = checkNumber(options.endFactor ?? 1, 'endFactor', 'LinearLR', 0, 1);
    this.totalIters = checkInteger(options.totalIters ?? 5, 'totalIters', 'LinearLR', 1);
    this.start();
  }
  override rate(step: number, base: number): number {
    const share = Math.min(step, this.totalIters) / this.totalIters;
    return base * (this.startFactor + (this.endFactor - this.startFactor) * share);
  }
}

/** The base rate times any function of the step; one function, or one for each group. It is asked for earlier steps, too. */
export class LambdaLR extends FromStart {
  private readonly factors: readonly ((step: number) => number)[];
  /**
   * Sets the rate of the first step too.
   * @param factor one for all groups, or one for each
   */
  constructor(optimizer: OptimizerLike, factor: ((step: number) => number) | readonly ((step: number) => number)[]) {
    super(optimizer);
    this.factors = Array.isArray(factor) ? factor : this.baseLrs.map(() => factor as (step: number) => number);
    if (this.factors.length !== this.baseLrs.length || this.factors.some((f) => typeof f !== 'function')) {
      throw new ValueError(`LambdaLR: expected a function, or one for each of ${this.baseLrs.length} groups, got ${describe(factor)}`);
    }
    this.start();
  }
  override rate(step: number, base: number, group: number): number {
    return base * this.factors[group]!(step);
  }
}

/** Linear from 0 over `warmup` steps, then linear to 0 at `total`. */
export class LinearWithWarmup extends FromStart {
  private readonly warmup: number;
  private readonly total: number;
  /**
   * Sets the rate of the first step, to 0 if there is a warm-up.
   * @param options.warmup steps until the base rate
   * @param options.total steps until 0
   */
  constructor(optimizer: OptimizerLike, options: { warmup: number; total: number }) {
    super(optimizer);
    this.warmup = checkInteger(options?.warmup, 'warmup', 'LinearWithWarmup', 0);
    this.total = checkInteger(options.total, 'total', 'LinearWithWarmup', this.warmup);
    this.start();
  }
  override rate(step: number, base: number): number {
    if (step < this.warmup) return (base * step) / Math.max(1, this.warmup);
    return base * Math.max(0, (this.total - step) / Math.max(1, this.total - this.warmup));
  }
}

/** Linear from 0 over `warmup` steps, then a cosine to minLr at `total`. */
export class CosineWithWarmup extends FromStart {
  private readonly warmup: number;
  private readonly total: number;
  private readonly minLr: number;
  /**
   * Sets the rate of the first step, to 0 if there is a warm-up.
   * @param options.warmup steps until the base rate
   * @param options.total steps until minLr
   * @param options.minLr the last rate. Default 0
   */
  constructor(optimizer: OptimizerLike, options: { warmup: number; total: number; minLr?: number }) {
    super(optimizer);
    this.warmup = checkInteger(options?.warmup, 'warmup', 'CosineWithWarmup', 0);
    this.total = checkInteger(options.total, 'total', 'CosineWithWarmup', this.warmup);
    this.minLr = checkNumber(options.minLr ?? 0, 'minLr', 'CosineWithWarmup', 0);
    this.start();
  }
  override rate(step: number, base: number): number {
    if (step < this.warmup) return (base * step) / Math.max(1, this.warmup);
    const share = Math.min(1, (step - this.warmup) / Math.max(1, this.total - this.warmup));
    return this.minLr + ((base - this.minLr) * (1 + Math.cos(Math.PI * share))) / 2;
  }
}

/** Linear warm-up, a constant rate, then a linear or cosine decay to minLr (Hu et al., MiniCPM, 2024). */
export class WarmupStableDecay extends FromStart {
  private readonly o: { warmup: number; stable: number; decay: number; minLr: number; shape: 'linear' | 'cosine' };
  /**
   * Sets the rate of the first step, to 0 if there is a warm-up.
   * @param options.warmup steps until the base rate
   * @param options.stable steps at the base rate
   * @param options.decay steps until minLr
   * @param options.minLr the last rate. Default 0
   * @param options.shape of the decay. Default linear
   */
  constructor(optimizer: OptimizerLike, options: { warmup: number; stable: number; decay: number; minLr?: number; shape?: 'linear' | 'cosine' }) {
    super(optimizer);
    const where = 'WarmupStableDecay';
    const shape = options?.shape ?? 'linear';
    if (shape !== 'linear' && shape !== 'cosine') throw new ValueError(`${where}: shape must be linear or cosine, got ${describe(shape)}`);
    this.o = {
      warmup: checkInteger(options?.warmup, 'warmup', where, 0),
      stable: checkInteger(options.stable, 'stable', where, 0),
      decay: checkInteger(options.decay, 'decay', where, 0),
      minLr: checkNumber(options.minLr ?? 0, 'minLr', where, 0),
      shape,
    };
    this.start();
  }
  override rate(step: number, base: number): number {
    const { warmup, stable, decay, minLr, shape } = this.o;
    if (step < warmup) return (base * step) / Math.max(1, warmup);
    if (step < warmup + stable) return base;
    const share = Math.min(1, (step - warmup - stable) / Math.max(1, decay));
    return minLr + (base - minLr) * (shape === 'linear' ? 1 - share : (1 + Math.cos(Math.PI * share)) / 2);
  }
}
