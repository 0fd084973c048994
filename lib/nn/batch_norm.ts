// Batch normalisation. A batch's own statistics are computed in float32 (float64 for float64), whatever the activations' dtype; the running
// ones have the dtype of the parameters, as in PyTorch.

import { noGrad } from '../autograd/modes.js';
import { ones, tensor, zeros } from '../create.js';
import { ShapeError } from '../errors.js';
import { checkTensor } from '../ops/arguments.js';
import { batchNorm } from '../ops/norm.js';
import { add_ } from '../ops/pointwise.js';
import { type Every, withOptions } from '../options.js';
import { checkNumber } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkSize } from './linear.js';
import { Module, type Parameter } from './module.js';
import { learned, NORM, type NormOptions } from './norm.js';

/** Options of the batch normalizations. */
export interface BatchNormOptions extends NormOptions {
  /** Share of the new statistics in the running ones; null: their cumulative average. Default 0.1. */
  momentum?: number | null;
  /** Keep running statistics for evaluation. Default true. */
  trackRunningStats?: boolean;
}

const BATCH_NORM: Every<BatchNormOptions> = { ...NORM, momentum: 0.1, trackRunningStats: true };

/** What the batch normalisations share. */
export abstract class BatchNorm extends Module {
  /** [numFeatures], starts at 1; null without `affine`. */
  weight: Parameter | null;
  /** [numFeatures], starts at 0; null without `affine` or `bias`. */
  bias: Parameter | null;
  /** Running mean of each channel, or null. */
  declare running_mean: Tensor | null;
  /** Running variance of each channel, unbiased, or null. */
  declare running_var: Tensor | null;
  /** How many batches the running statistics have seen: int64, or null. */
  declare num_batches_tracked: Tensor | null;
  /** What is added to the variance. */
  readonly eps: number;
  /** Share of the new statistics in the running ones; null: their cumulative average. */
  readonly momentum: number | null;
  protected abstract readonly dims: readonly number[];
  constructor(
    /** Channels of the input. */
    readonly numFeatures: number,
    given: BatchNormOptions = {},
  ) {
    super();
    const options = withOptions(this.constructor.name, BATCH_NORM, given);
    checkSize(numFeatures, 'numFeatures', this.constructor.name);
    this.eps = checkNumber(options.eps ?? 1e-5, 'eps', this.constructor.name, 0);
    // here null is a choice of its own, not the default
    this.momentum = options.momentum === null ? null : checkNumber(options.momentum ?? 0.1, 'momentum', this.constructor.name, 0, 1);
    [this.weight, this.bias] = learned([numFeatures], options);
    const track = options.trackRunningStats ?? true;
    const { dtype, device } = options;
    this.registerBuffer('running_mean', track ? zeros([numFeatures], { dtype, device }) : null);
    this.registerBuffer('running_var', track ? ones([numFeatures], { dtype, device }) : null);
    this.registerBuffer('num_batches_tracked', track ? tensor(0n, { device }) : null);
  }
  /** Normalizes each channel: by the batch in training, which moves the running statistics, else by these. Throws ShapeError for other shapes. */
  override forward(x: Tensor): Tensor {
    checkTensor(x, this.constructor.name);
    if (!this.dims.includes(x.ndim)) throw new ShapeError(`${this.constructor.name}: expected ${this.dims.join(' or ')} dimensions, got [${x.shape}]`);
    if (this.training && this.num_batches_tracked !== null) noGrad(() => add_(this.num_batches_tracked!, 1));
    return this.normalize(x);
  }
  /** Normalises by the batch in training and where nothing runs along, else by the running statistics. */
  protected normalize(x: Tensor): Tensor {
    const useBatch = this.training || this.running_mean === null;
    let momentum = this.momentum ?? 0;
    // the cumulative average needs the count on the host; that option alone waits
    if (this.training && this.momentum === null && this.num_batches_tracked !== null) momentum = 1 / this.num_batches_tracked.itemSync();
    return batchNorm(x, this.running_mean, this.running_var, this.weight, this.bias, useBatch, momentum, this.eps);
  }
}

/** Batch normalisation (Ioffe & Szegedy, 2015) of [N, C] or [N, C, L]. */
export class BatchNorm1d extends BatchNorm {
  protected override readonly dims = [2, 3];
}
/** Batch normalisation of [N, C, H, W]. */
export class BatchNorm2d extends BatchNorm {
  protected override readonly dims = [4];
}
