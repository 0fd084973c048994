// What optimizers are made with: options every group has, and the checks all of them share.
import { describe, ValueError } from '../errors.js';
import type { Tensor } from '../tensor.js';

/** Options every optimizer has, per group. */
export interface GroupOptions {
  /** Learning rate. */
  lr: number;
  /** Times the weights, added to their gradients; AdamW, Lion and LAMB treat it as their papers do. */
  weightDecay: number;
  /** Ascend instead of descend. Default false. */
  maximize: boolean;
  /**
   * bfloat16 parameters have no float32 master: the step is done in float32 and stored by stochastic rounding, up or down with the
   * probabilities that keep the expected value, so steps below the spacing of the parameters are not lost (Gupta et al., 2015). Saves 4
   * bytes a parameter. The bits depend on the seed that the default generator had when the optimizer was made (saved with its state), the
   * parameter's place in the optimizer (with a pipeline, in its model), its step and the element's place in the whole parameter, whatever
   * piece of it a rank has; all ranks need the same seed. Parameters of 32 and 64 bits are not concerned, float16 ones need masters.
   * Default false.
   */
  stochasticRounding?: boolean;
}
/** A group of an optimizer: its parameters and every option. */
export type ParamGroup<O extends GroupOptions> = O & {
  /** The parameters, in the order of their places. */
  params: Tensor[];
};
/** A group as it is given: options that it lacks are the optimizer's. */
export type GivenGroup<O extends GroupOptions> = Partial<O> & {
  /** Its parameters. */
  params: Iterable<Tensor>;
};
/** Parameters alone, or groups that override some of the options. */
export type Params<O extends GroupOptions> = Iterable<Tensor> | readonly GivenGroup<O>[];

export function checkRange(where: string, name: string, value: unknown, min: number, below = Number.POSITIVE_INFINITY): void {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value >= below) {
    const range = below === Number.POSITIVE_INFINITY ? `a finite number from ${min}` : `in [${min}, ${below})`;
    throw new ValueError(`${where}: ${name} must be ${range}, got ${describe(value)}`);
  }
}

/** Clipping within a step works on what this rank has. */
export function checkMaxNorm(maxNorm: unknown, optimizer: { readonly isSharded: boolean }, where: string): void {
  if (typeof maxNorm !== 'number' || !(maxNorm >= 0)) throw new ValueError(`${where}: maxNorm must be a number from 0, got ${describe(maxNorm)}`);
  if (optimizer.isSharded) throw new ValueError(`${where}: ranks have pieces of the gradients; clip them before the step with clipGradNorm`);
}
