// Normalisation layers. Statistics are kept in float32 (float64 for float64), whatever the activations' dtype.

import { noGrad } from '../autograd/modes.js';
import { ones, tensor, zeros } from '../create.js';
import { ShapeError } from '../errors.js';
import { checkTensor, optionsOf } from '../ops/arguments.js';
import { batchNorm, groupNorm, layerNorm, rmsNorm } from '../ops/norm.js';
import { add_ } from '../ops/pointwise.js';
import { checkNumber } from '../shape.js';
import type { Tensor } from '../tensor.js';
import * as init from './init.js';
import { checkSize, type FactoryOptions, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

export interface NormOptions extends FactoryOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Learn a scale (and a shift). Default true. */
  affine?: boolean;
  /** Learn a shift. Default true. */
  bias?: boolean;
}

function learned(shape: readonly number[], options: NormOptions): [Parameter | null, Parameter | null] {
  if (options?.affine === false) return [null, null];
  const weight = parameter(shape, options);
  init.ones_(weight);
  if (options?.bias === false) return [weight, null];
  const bias = parameter(shape, options);
  init.zeros_(bias);
  return [weight, bias];
}

function checkNormalized(shape: unknown, where: string): number[] {
  const sizes = Array.isArray(shape) ? shape : [shape];
  if (sizes.length === 0) throw new ShapeError(`${where}: normalizedShape must have a size`);
  return sizes.map((size) => checkSize(size, 'normalizedShape', where));
}

/** Layer normalisation over the last dimensions (Ba et al., 2016). */
export class LayerNorm extends Module {
  weight: Parameter | null;
  bias: Parameter | null;
  readonly normalizedShape: readonly number[];
  readonly eps: number;
  constructor(normalizedShape: number | readonly number[], options: NormOptions = {}) {
    super();
    this.normalizedShape = checkNormalized(normalizedShape, 'LayerNorm');
    this.eps = checkNumber(options?.eps ?? 1e-5, 'eps', 'LayerNorm', 0);
    [this.weight, this.bias] = learned(this.normalizedShape, options);
  }
  override forward(x: Tensor): Tensor {
    return layerNorm(x, this.normalizedShape, this.weight, this.bias, this.eps);
  }
}

/** Root-mean-square normalisation (Zhang & Sennrich, 2019). eps defaults to the dtype's machine epsilon, as PyTorch's. */
export class RMSNorm extends Module {
  weight: Parameter | null;
  readonly normalizedShape: readonly number[];
  readonly eps: number | null;
  constructor(normalizedShape: number | readonly number[], options: Omit<NormOptions, 'bias'> = {}) {
    super();
    this.normalizedShape = checkNormalized(normalizedShape, 'RMSNorm');
    this.eps = options?.eps ?? null;
    [this.weight] = learned(this.normalizedShape, { ...options, bias: false });
  }
  override forward(x: Tensor): Tensor {
    return rmsNorm(x, this.normalizedShape, this.weight, this.eps);
  }
}

/** Group normalisation (Wu & He, 2018) of [N, C, …]. */
export class GroupNorm extends Module {
  weight: Parameter | null;
  bias: Parameter | null;
  readonly eps: number;
  constructor(
    readonly numGroups: number,
    readonly numChannels: number,
    options: NormOptions = {},
  ) {
    super();
    checkSize(numGroups, 'numGroups', 'GroupNorm');
    checkSize(numChannels, 'numChannels', 'GroupNorm');
    if (numChannels % numGroups !== 0) throw new ShapeError(`GroupNorm: ${numChannels} channels do not divide into ${numGroups} groups`);
    this.eps = checkNumber(options?.eps ?? 1e-5, 'eps', 'GroupNorm', 0);
    [this.weight, this.bias] = learned([numChannels], options);
  }
  override forward(x: Tensor): Tensor {
    return groupNorm(x, this.numGroups, this.weight, this.bias, this.eps);
  }
}

export interface BatchNormOptions extends NormOptions {
  /** Share of the new statistics in the running ones; null: their cumulative average. Default 0.1. */
  momentum?: number | null;
  /** Keep running statistics for evaluation. Default true. */
  trackRunningStats?: boolean;
}

abstract class BatchNorm extends Module {
  weight: Parameter | null;
  bias: Parameter | null;
  declare running_mean: Tensor | null;
  declare running_var: Tensor | null;
  declare num_batches_tracked: Tensor | null;
  readonly eps: number;
  readonly momentum: number | null;
  protected abstract readonly dims: readonly number[];
  constructor(
    readonly numFeatures: number,
    given: BatchNormOptions = {},
  ) {
    super();
    const options = optionsOf<BatchNormOptions>(given, this.constructor.name);
    checkSize(numFeatures, 'numFeatures', this.constructor.name);
    this.eps = checkNumber(options?.eps ?? 1e-5, 'eps', this.constructor.name, 0);
    // here null is a choice of its own, not the default
    this.momentum = options.momentum === null ? null : checkNumber(options.momentum ?? 0.1, 'momentum', this.constructor.name, 0, 1);
    [this.weight, this.bias] = learned([numFeatures], options);
    const track = options.trackRunningStats ?? true;
    const where = { device: options.device };
    this.registerBuffer('running_mean', track ? zeros([numFeatures], where) : null);
    this.registerBuffer('running_var', track ? ones([numFeatures], where) : null);
    this.registerBuffer('num_batches_tracked', track ? tensor(0n, where) : null);
  }
  override forward(x: Tensor): Tensor {
    checkTensor(x, this.constructor.name);
    if (!this.dims.includes(x.ndim)) throw new ShapeError(`${this.constructor.name}: expected ${this.dims.join(' or ')} dimensions, got [${x.shape}]`);
    const useBatch = this.training || this.running_mean === null;
    let momentum = this.momentum ?? 0;
    if (this.training && this.num_batches_tracked !== null) {
      noGrad(() => add_(this.num_batches_tracked!, 1));
      // the cumulative average needs the count on the host; that option alone waits
      if (this.momentum === null) momentum = 1 / this.num_batches_tracked.itemSync();
    }
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
