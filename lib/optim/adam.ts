// Adam and AdamW: one kernel, two ways to decay weights.
import { Optimizer } from './optimizer.js';
import { checkRange, type GroupOptions, type ParamGroup, type Params } from './options.js';

/** Options of Adam and AdamW. */
export interface AdamOptions extends GroupOptions {
  /** Decay rates of the averages of the gradient and its square, in [0, 1). Default 0.9 and 0.999. */
  betas: readonly [number, number];
  /** Added to the root of the second moment. Default 1e-8. */
  eps: number;
  /** Keep the largest second moment seen (Reddi et al., 2018). Default false. */
  amsgrad: boolean;
}

/** Adam (Kingma & Ba, 2015). Defaults: lr 1e-3, betas 0.9 and 0.999, eps 1e-8, weightDecay 0 (added to the gradient). */
export class Adam extends Optimizer<AdamOptions> {
  protected readonly op = 'adamStep';
  protected readonly decoupled: boolean = false;
  constructor(params: Params<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super(params, { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0, amsgrad: false, maximize: false }, options);
  }
  protected stateNames(): readonly string[] {
    return this.groups.some((g) => g.amsgrad) ? ['exp_avg', 'exp_avg_sq', 'max_exp_avg_sq'] : ['exp_avg', 'exp_avg_sq'];
  }
  protected fields(g: ParamGroup<AdamOptions>): number[] {
    return [g.betas[0], g.betas[1], g.eps, Number(g.amsgrad), Number(this.decoupled)];
  }
  protected checkOptions(o: AdamOptions, where: string): void {
    if (!Array.isArray(o.betas)) checkRange(where, 'betas', o.betas, 0, 1);
    checkRange(where, 'betas[0]', o.betas[0], 0, 1);
    checkRange(where, 'betas[1]', o.betas[1], 0, 1);
    checkRange(where, 'eps', o.eps, 0);
  }
}

/** AdamW (Loshchilov & Hutter, 2019): weight decay applied to the weights themselves. weightDecay defaults to 0.01. */
export class AdamW extends Adam {
  protected override readonly decoupled = true;
  constructor(params: Params<AdamOptions>, options: Partial<AdamOptions> = {}) {
    super(params, typeof options === 'object' ? { ...options, weightDecay: options?.weightDecay ?? 0.01 } : options);
  }
}
