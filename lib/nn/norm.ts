// Normalisation layers. Statistics are kept in float32 (float64 for float64), whatever the activations' dtype.

import { ShapeError } from '../errors.js';
import { groupNorm, layerNorm, rmsNorm } from '../ops/norm.js';
import { type Every, withOptions } from '../options.js';
import { checkNumber } from '../shape.js';
import type { Tensor } from '../tensor.js';
import * as init from './init.js';
import { checkSize, FACTORY, type FactoryOptions, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

/** Options of the normalizations. */
export interface NormOptions extends FactoryOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Learn a scale (and a shift). Default true. */
  affine?: boolean;
  /** Learn a shift. Default true. */
  bias?: boolean;
}

/** Every option of the normalizations. */
export const NORM: Every<NormOptions> = { eps: 1e-5, affine: true, bias: true, ...FACTORY };
const RMS_NORM: Every<Omit<NormOptions, 'bias'>> = { eps: undefined, affine: true, ...FACTORY };

export function learned(shape: readonly number[], options: NormOptions): [Parameter | null, Parameter | null] {
  if (options.affine === false) return [null, null];
  const weight = parameter(shape, options);
  init.ones_(weight);
  if (options.bias === false) return [weight, null];
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
  /** Of shape `normalizedShape`, starts at 1; null without `affine`. */
  weight: Parameter | null;
  /** Of shape `normalizedShape`, starts at 0; null without `affine` or `bias`. */
  bias: Parameter | null;
  /** Sizes of the last dimensions. */
  readonly normalizedShape: readonly number[];
  /** What is added to the variance. */
  readonly eps: number;
  constructor(normalizedShape: number | readonly number[], options: NormOptions = {}) {
    super();
    this.normalizedShape = checkNormalized(normalizedShape, 'LayerNorm');
    const o = withOptions('LayerNorm', NORM, options);
    this.eps = checkNumber(o.eps ?? 1e-5, 'eps', 'LayerNorm', 0);
    [this.weight, this.bias] = learned(this.normalizedShape, o);
  }
  /** x `[.., ...normalizedShape]`, whose shape the result has. */
  override forward(x: Tensor): Tensor {
    return layerNorm(x, this.normalizedShape, this.weight, this.bias, this.eps);
  }
}

/** Root-mean-square normalisation (Zhang & Sennrich, 2019). eps defaults to the dtype's machine epsilon, as PyTorch's. */
export class RMSNorm extends Module {
  /** Of shape `normalizedShape`, starts at 1; null without `affine`. */
  weight: Parameter | null;
  /** Sizes of the last dimensions. */
  readonly normalizedShape: readonly number[];
  /** What is added to the mean of squares; null: the machine epsilon. */
  readonly eps: number | null;
  constructor(normalizedShape: number | readonly number[], options: Omit<NormOptions, 'bias'> = {}) {
    super();
    this.normalizedShape = checkNormalized(normalizedShape, 'RMSNorm');
    const o = withOptions('RMSNorm', RMS_NORM, options);
    this.eps = o.eps ?? null;
    [this.weight] = learned(this.normalizedShape, { ...o, bias: false });
  }
  /** x `[.., ...normalizedShape]`, whose shape the result has. */
  override forward(x: Tensor): Tensor {
    return rmsNorm(x, this.normalizedShape, this.weight, this.eps);
  }
}

/** Group normalisation (Wu & He, 2018) of [N, C, …]. */
export class GroupNorm extends Module {
  /** [numChannels], starts at 1; null without `affine`. */
  weight: Parameter | null;
  /** [numChannels], starts at 0; null without `affine` or `bias`. */
  bias: Parameter | null;
  /** What is added to the variance. */
  readonly eps: number;
  constructor(
    /** Into how many groups the channels are cut. */
    readonly numGroups: number,
    /** C of the input. */
    readonly numChannels: number,
    options: NormOptions = {},
  ) {
    super();
    checkSize(numGroups, 'numGroups', 'GroupNorm');
    checkSize(numChannels, 'numChannels', 'GroupNorm');
    if (numChannels % numGroups !== 0) throw new ShapeError(`GroupNorm: ${numChannels} channels do not divide into ${numGroups} groups`);
    const o = withOptions('GroupNorm', NORM, options);
    this.eps = checkNumber(o.eps ?? 1e-5, 'eps', 'GroupNorm', 0);
    [this.weight, this.bias] = learned([numChannels], o);
  }
  /** x `[N, C, …]`, whose shape the result has. */
  override forward(x: Tensor): Tensor {
    return groupNorm(x, this.numGroups, this.weight, this.bias, this.eps);
  }
}
