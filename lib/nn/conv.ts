// Convolution and pooling layers.

import { describe, ValueError } from '../errors.js';
import { checkChoice } from '../ops/arguments.js';
import {
  type AvgPoolOptions,
  adaptiveAvgPool2d,
  avgPool1d,
  avgPool2d,
  type ConvOptions,
  conv1d,
  conv2d,
  geometryOf,
  maxPool1d,
  maxPool2d,
  type PoolOptions,
} from '../ops/conv.js';
import { type PadMode, pad } from '../ops/joining.js';
import { flatten } from '../ops/view.js';
import { type Every, withOptions } from '../options.js';
import { numel } from '../shape.js';
import type { Tensor } from '../tensor.js';
import * as init from './init.js';
import { checkSize, FACTORY, type FactoryOptions, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

/** One size for every dimension, or one each. @inline */
type Sizes = number | readonly number[];

/** Options of the convolutions. */
export interface ConvLayerOptions extends ConvOptions, FactoryOptions {
  /** Learn a bias. Default true. */
  bias?: boolean;
  /** What lies beyond the border: zeros (default), or the image again. */
  paddingMode?: 'zeros' | Exclude<PadMode, 'constant'>;
}
const CONV: Every<ConvLayerOptions> = { stride: 1, padding: 0, dilation: 1, groups: 1, bias: true, paddingMode: 'zeros', ...FACTORY };
const PADDING_MODES = ['zeros', 'reflect', 'replicate', 'circular'] as const;

abstract class Conv extends Module {
  /** [outChannels, inChannels / groups, ...kernel sizes]. */
  weight: Parameter;
  /** [outChannels], or null. */
  bias: Parameter | null;
  protected readonly options: ConvOptions;
  /** How the input is padded before the convolution, from the last dimension on; null: by the kernel, with zeros. */
  private readonly border: { mode: PadMode; padding: readonly number[] } | null;
  constructor(
    dims: number,
    /** C of the input. */
    readonly inChannels: number,
    /** C of the result. */
    readonly outChannels: number,
    kernelSize: Sizes,
    options: ConvLayerOptions,
  ) {
    super();
    const where = new.target.name;
    checkSize(inChannels, 'inChannels', where);
    checkSize(outChannels, 'outChannels', where);
    const kernel = Array.isArray(kernelSize) ? [...kernelSize] : new Array<number>(dims).fill(kernelSize as number);
    if (kernel.length !== dims) throw new ValueError(`${where}: the kernel needs ${dims} sizes, got ${describe(kernelSize)}`);
    for (const k of kernel) checkSize(k, 'kernelSize', where);
    const { bias, dtype, device, paddingMode, ...geometry } = withOptions(where, CONV, options);
    const mode = checkChoice(paddingMode ?? 'zeros', PADDING_MODES, 'paddingMode', where);
    const groups = checkSize(geometry.groups ?? 1, 'groups', where);
    if (inChannels % groups !== 0 || outChannels % groups !== 0)
      throw new ValueError(`${where}: ${inChannels} and ${outChannels} channels do not divide into ${groups} groups`);
    const { stride, dilation, padding } = geometryOf(geometry, kernel, where);
    this.border = mode === 'zeros' || padding.every(([a, b]) => a + b === 0) ? null : { mode, padding: padding.toReversed().flat() };
    this.options = this.border ? { stride, dilation, groups } : geometry;
    this.weight = parameter([outChannels, inChannels / groups, ...kernel], { dtype, device });
    init.kaimingUniform_(this.weight, { a: Math.sqrt(5) });
    this.bias = bias === false ? null : parameter([outChannels], { dtype, device });
    const bound = 1 / Math.sqrt((inChannels / groups) * numel(kernel));
    if (this.bias) init.uniform_(this.bias, -bound, bound);
  }
  protected padded(x: Tensor): Tensor {
    return this.border === null ? x : pad(x, this.border.padding, { mode: this.border.mode });
  }
}

/**
 * Convolution of [N, C, L] with learned kernels of one size (cross-correlation, as in PyTorch). Weights start uniform in ±1/√(inChannels /
 * groups · kernel).
 */
export class Conv1d extends Conv {
  constructor(inChannels: number, outChannels: number, kernelSize: Sizes, options: ConvLayerOptions = {}) {
    super(1, inChannels, outChannels, kernelSize, options);
  }
  /** x `[N, C, L]` or `[C, L]`. */
  override forward(x: Tensor): Tensor {
    return conv1d(this.padded(x), this.weight, this.bias, this.options);
  }
}

/**
 * Convolution of [N, C, H, W] with learned kernels of one size (cross-correlation, as in PyTorch). Weights start uniform in ±1/√(inChannels
 * / groups · kernel).
 */
export class Conv2d extends Conv {
  constructor(inChannels: number, outChannels: number, kernelSize: Sizes, options: ConvLayerOptions = {}) {
    super(2, inChannels, outChannels, kernelSize, options);
  }
  /** x `[N, C, H, W]` or `[C, H, W]`. */
  override forward(x: Tensor): Tensor {
    return conv2d(this.padded(x), this.weight, this.bias, this.options);
  }
}

const POOL: Every<PoolOptions> = { stride: undefined, padding: 0, ceilMode: false };
const AVG_POOL: Every<AvgPoolOptions> = { ...POOL, countIncludePad: true };

abstract class Pool<O extends object> extends Module {
  protected readonly options: O;
  constructor(
    protected readonly kernelSize: Sizes,
    defaults: Every<O>,
    options: O,
  ) {
    super();
    this.options = withOptions<Every<O>>(new.target.name, defaults, options);
  }
}
/** `maxPool1d` as a module. */
export class MaxPool1d extends Pool<PoolOptions> {
  constructor(kernelSize: Sizes, options: PoolOptions = {}) {
    super(kernelSize, POOL, options);
  }
  /** x `[N, C, L]` or `[C, L]`. */
  override forward(x: Tensor): Tensor {
    return maxPool1d(x, this.kernelSize, this.options);
  }
}
/** `maxPool2d` as a module. */
export class MaxPool2d extends Pool<PoolOptions> {
  constructor(kernelSize: Sizes, options: PoolOptions = {}) {
    super(kernelSize, POOL, options);
  }
  /** x `[N, C, H, W]` or `[C, H, W]`. */
  override forward(x: Tensor): Tensor {
    return maxPool2d(x, this.kernelSize, this.options);
  }
}
/** `avgPool1d` as a module. */
export class AvgPool1d extends Pool<AvgPoolOptions> {
  constructor(kernelSize: Sizes, options: AvgPoolOptions = {}) {
    super(kernelSize, AVG_POOL, options);
  }
  /** x `[N, C, L]` or `[C, L]`. */
  override forward(x: Tensor): Tensor {
    return avgPool1d(x, this.kernelSize, this.options);
  }
}
/** `avgPool2d` as a module. */
export class AvgPool2d extends Pool<AvgPoolOptions> {
  constructor(kernelSize: Sizes, options: AvgPoolOptions = {}) {
    super(kernelSize, AVG_POOL, options);
  }
  /** x `[N, C, H, W]` or `[C, H, W]`. */
  override forward(x: Tensor): Tensor {
    return avgPool2d(x, this.kernelSize, this.options);
  }
}
/** Average pooling to a given size, whatever the input's. */
export class AdaptiveAvgPool2d extends Module {
  constructor(private readonly outputSize: number | readonly (number | null)[]) {
    super();
  }
  /** x `[N, C, H, W]` or `[C, H, W]`. */
  override forward(x: Tensor): Tensor {
    return adaptiveAvgPool2d(x, this.outputSize);
  }
}
/** Dimensions from `start` to `end` as one; by default all but the batch. */
export class Flatten extends Module {
  constructor(
    private readonly start = 1,
    private readonly end = -1,
  ) {
    super();
  }
  /** A view where the strides allow it. */
  override forward(x: Tensor): Tensor {
    return flatten(x, this.start, this.end);
  }
}
