// SGD, Adagrad, RMSprop, LAMB and Lion: one row of options each for the step kernels of csrc/ops/optim.h.
import { ValueError } from '../errors.js';
import { isSharded } from './global_norm.js';
import { Optimizer } from './optimizer.js';
import { checkRange, type GroupOptions, type ParamGroup, type Params } from './options.js';

/** Options of SGD. */
export interface SGDOptions extends GroupOptions {
  /** Share of the earlier steps in the next one. Default 0. */
  momentum: number;
  /** Share of the gradient kept out of the momentum buffer. Default 0. */
  dampening: number;
  /** Nesterov's momentum, which needs a momentum and no dampening. Default false. */
  nesterov: boolean;
}

/** Stochastic gradient descent with momentum (Sutskever et al., 2013). Defaults: lr 1e-3, no momentum. */
export class SGD extends Optimizer<SGDOptions> {
  protected readonly op = 'sgdStep';
  constructor(params: Params<SGDOptions>, options: Partial<SGDOptions> = {}) {
    super(params, { lr: 1e-3, momentum: 0, dampening: 0, nesterov: false, weightDecay: 0, maximize: false }, options);
  }
  protected stateNames(): readonly string[] {
    return this.groups.some((g) => g.momentum !== 0) ? ['momentum_buffer'] : [];
  }
  protected fields(g: ParamGroup<SGDOptions>): number[] {
    return [g.momentum, g.dampening, Number(g.nesterov)];
  }
  protected checkOptions(o: SGDOptions, where: string): void {
    checkRange(where, 'momentum', o.momentum, 0);
    checkRange(where, 'dampening', o.dampening, 0);
    if (o.nesterov && (o.momentum <= 0 || o.dampening !== 0))
      throw new ValueError(`${where}: nesterov needs a momentum and no dampening, got momentum ${o.momentum}, dampening ${o.dampening}`);
  }
}

/** Options of Adagrad. */
export interface AdagradOptions extends GroupOptions {
  /** The rate of the n-th step is divided by 1 + (n − 1)·lrDecay. Default 0. */
  lrDecay: number;
  /** Added to the root of the sum of squares. Default 1e-10. */
  eps: number;
  /** Start of the sums of squares. Default 0. */
  initialAccumulatorValue: number;
}

/** Adagrad (Duchi et al., 2011). Defaults: lr 1e-2, eps 1e-10. */
export class Adagrad extends Optimizer<AdagradOptions> {
  protected readonly op = 'adagradStep';
  constructor(params: Params<AdagradOptions>, options: Partial<AdagradOptions> = {}) {
    super(params, { lr: 1e-2, lrDecay: 0, eps: 1e-10, initialAccumulatorValue: 0, weightDecay: 0, maximize: false }, options);
  }
  protected stateNames(): readonly string[] {
    return ['sum'];
  }
  protected fields(g: ParamGroup<AdagradOptions>): number[] {
    return [g.lrDecay, g.eps];
  }
  protected override startOf(_name: string, g: ParamGroup<AdagradOptions>): number {
    return g.initialAccumulatorValue;
  }
  protected checkOptions(o: AdagradOptions, where: string): void {
    checkRange(where, 'lrDecay', o.lrDecay, 0);
    checkRange(where, 'eps', o.eps, 0);
    checkRange(where, 'initialAccumulatorValue', o.initialAccumulatorValue, 0);
  }
}

/** Options of RMSprop. */
export interface RMSpropOptions extends GroupOptions {
  /** Decay rate of the average of squares. Default 0.99. */
  alpha: number;
  /** Added to the root of the average. Default 1e-8. */
  eps: number;
  /** Share of the earlier steps in the next one. Default 0. */
  momentum: number;
  /** Divide by the variance instead of the mean square. Default false. */
  centered: boolean;
}

/** RMSprop (Tieleman & Hinton, 2012). Defaults: lr 1e-2, alpha 0.99, eps 1e-8. */
export class RMSprop extends Optimizer<RMSpropOptions> {
  protected readonly op = 'rmspropStep';
  constructor(params: Params<RMSpropOptions>, options: Partial<RMSpropOptions> = {}) {
    super(params, { lr: 1e-2, alpha: 0.99, eps: 1e-8, momentum: 0, centered: false, weightDecay: 0, maximize: false }, options);
  }
  protected stateNames(): readonly string[] {
    // lists are positional: a later one needs the earlier ones
    if (this.groups.some((g) => g.centered)) return ['square_avg', 'momentum_buffer', 'grad_avg'];
    return this.groups.some((g) => g.momentum !== 0) ? ['square_avg', 'momentum_buffer'] : ['square_avg'];
  }
  protected fields(g: ParamGroup<RMSpropOptions>): number[] {
    return [g.alpha, g.eps, g.momentum, Number(g.centered)];
  }
  protected checkOptions(o: RMSpropOptions, where: string): void {
    checkRange(where, 'alpha', o.alpha, 0);
    checkRange(where, 'eps', o.eps, 0);
    checkRange(where, 'momentum', o.momentum, 0);
  }
}

/** Options of LAMB. */
export interface LAMBOptions extends GroupOptions {
  /** Decay rates of the averages of the gradient and its square, in [0, 1). Default 0.9 and 0.999. */
  betas: readonly [number, number];
  /** Added to the root of the second moment. Default 1e-6. */
  eps: number;
}

/**
 * LAMB (You et al., 2020): Adam with a trust ratio per tensor, for large batches. Defaults: lr 1e-3, eps 1e-6. Throws ValueError for
 * parameters of which ranks have pieces, as it needs the norms of whole ones.
 */
export class LAMB extends Optimizer<LAMBOptions> {
  protected readonly op = 'lambStep';
  constructor(params: Params<LAMBOptions>, options: Partial<LAMBOptions> = {}) {
    super(params, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-6, weightDecay: 0, maximize: false }, options);
  }
  protected stateNames(): readonly string[] {
    return ['exp_avg', 'exp_avg_sq'];
  }
  protected fields(g: ParamGroup<LAMBOptions>): number[] {
    return [g.betas[0], g.betas[1], g.eps];
  }
  protected checkOptions(o: LAMBOptions, where: string): void {
    checkRange(where, 'betas[0]', o.betas?.[0], 0, 1);
    checkRange(where, 'betas[1]', o.betas[1], 0, 1);
    checkRange(where, 'eps', o.eps, 0);
    if ((o as ParamGroup<LAMBOptions>).params.some(isSharded))
      throw new ValueError(`${where}: LAMB needs the norms of whole parameters, and ranks have pieces`);
  }
}

/** Options of Lion. */
export interface LionOptions extends GroupOptions {
  /** Share of the momentum in the step, and in the next momentum, in [0, 1). Default 0.9 and 0.99. */
  betas: readonly [number, number];
}

/** Lion (Chen et al., 2023): the sign of an interpolated momentum. Defaults: lr 1e-4, betas 0.9 and 0.99. */
export class Lion extends Optimizer<LionOptions> {
  protected readonly op = 'lionStep';
  constructor(params: Params<LionOptions>, options: Partial<LionOptions> = {}) {
    super(params, { lr: 1e-4, betas: [0.9, 0.99], weightDecay: 0, maximize: false }, options);
  }
  protected stateNames(): readonly string[] {
    return ['exp_avg'];
  }
  protected fields(g: ParamGroup<LionOptions>): number[] {
    return [g.betas[0], g.betas[1]];
  }
  protected checkOptions(o: LionOptions, where: string): void {
    checkRange(where, 'betas[0]', o.betas?.[0], 0, 1);
    checkRange(where, 'betas[1]', o.betas[1], 0, 1);
  }
}
