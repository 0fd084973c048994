// SGD, Adagrad, RMSprop, LAMB and Lion: one row of options each for the step kernels of csrc/ops/optim.h.
import { ValueError } from '../errors.js';
import { isSharded } from './global_norm.js';
import { Optimizer } from './optimizer.js';
import { checkRange, type GroupOptions, type ParamGroup, type Params } from './options.js';

export interface SGDOptions extends GroupOptions {
  momentum: number;
  /** Share of the gradient kept out of the momentum buffer. */
  dampening: number;
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

export interface AdagradOptions extends GroupOptions {
  lrDecay: number;
  eps: number;
  /** Start of the sums of squares. */
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

export interface RMSpropOptions extends GroupOptions {
  /** Decay rate of the average of squares. */
  alpha: number;
  eps: number;
  momentum: number;
  /** Divide by the variance instead of the mean square. */
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

export interface LAMBOptions extends GroupOptions {
  betas: readonly [number, number];
  eps: number;
}

/** LAMB (You et al., 2020): Adam with a trust ratio per tensor, for large batches. Defaults: lr 1e-3, eps 1e-6. */
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

export interface LionOptions extends GroupOptions {
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
