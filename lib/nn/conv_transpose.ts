// Transposed convolution layers.

import { ShapeError, ValueError } from '../errors.js';
import { checkSizes, checkTensor } from '../ops/arguments.js';
import type { Sizes } from '../ops/conv.js';
import { type ConvTransposeOptions, convTranspose1d, convTranspose2d, type TransposedGeometry, transposedGeometryOf } from '../ops/conv_transpose.js';
import { type Every, withOptions } from '../options.js';
import { numel, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import * as init from './init.js';
import { checkSize, FACTORY, type FactoryOptions, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

/** Options of the transposed convolutions. */
export interface ConvTransposeLayerOptions extends ConvTransposeOptions, FactoryOptions {
  /** Learn a bias. Default true. */
  bias?: boolean;
}

const CONV_TRANSPOSE: Every<ConvTransposeLayerOptions> = { stride: 1, padding: 0, outputPadding: 0, groups: 1, dilation: 1, bias: true, ...FACTORY };

abstract class ConvTranspose extends Module {
  /** [inChannels, outChannels / groups, ...kernel sizes]. */
  weight: Parameter;
  /** [outChannels], or null. */
  bias: Parameter | null;
  private readonly kernel: readonly number[];
  private readonly geometry: TransposedGeometry;
  constructor(
    dims: number,
    /** C of the input. */
    readonly inChannels: number,
    /** C of the result. */
    readonly outChannels: number,
    kernelSize: Sizes,
    options: ConvTransposeLayerOptions,
  ) {
    super();
    const where = new.target.name;
    checkSize(inChannels, 'inChannels', where);
    checkSize(outChannels, 'outChannels', where);
    this.kernel = checkSizes(kernelSize, dims, 'kernelSize', where, 1);
    const { bias, dtype, device, ...geometry } = withOptions(where, CONV_TRANSPOSE, options);
    this.geometry = transposedGeometryOf(geometry, dims, where);
    const { groups } = this.geometry;
    if (inChannels % groups !== 0 || outChannels % groups !== 0)
      throw new ValueError(`${where}: ${inChannels} and ${outChannels} channels do not divide into ${groups} groups`);
    this.weight = parameter([inChannels, outChannels / groups, ...this.kernel], { dtype, device });
    init.kaimingUniform_(this.weight, { a: Math.sqrt(5) });
    this.bias = bias === false ? null : parameter([outChannels], { dtype, device });
    const bound = 1 / Math.sqrt((outChannels / groups) * numel(this.kernel));
    if (this.bias) init.uniform_(this.bias, -bound, bound);
  }
  /** The options of one call: with the outputPadding that gives the size wanted. */
  protected optionsFor(x: Tensor, outputSize: readonly number[] | null | undefined): TransposedGeometry {
    const where = this.constructor.name;
    const dims = this.kernel.length;
    checkTensor(x, where);
    if (outputSize === undefined || outputSize === null || x.ndim < dims) return this.geometry;
    const { stride, padding, dilation } = this.geometry;
    const wanted = checkSizes(outputSize, dims, 'outputSize', where, 1);
    const smallest = this.kernel.map((k, i) => (x.shape[x.ndim - dims + i]! - 1) * stride[i]! - 2 * padding[i]! + dilation[i]! * (k - 1) + 1);
    const outputPadding = wanted.map((size, i) => size - smallest[i]!);
    if (outputPadding.some((p, i) => p < 0 || p >= stride[i]!))
      throw new ShapeError(
        `${where}: outputSize ${showShape(wanted)} of an input ${showShape(x.shape)} must be from ${showShape(smallest)} to ${showShape(smallest.map((s, i) => s + stride[i]! - 1))}`,
      );
    return { ...this.geometry, outputPadding };
  }
}

/**
 * Transposed convolution of [N, C, L] (Zeiler et al., 2010): the gradient of a convolution by its input as a layer, which makes inputs longer
 * by `stride`. Weights start uniform in ±1/√(outChannels / groups · kernel), as PyTorch's.
 */
export class ConvTranspose1d extends ConvTranspose {
  constructor(inChannels: number, outChannels: number, kernelSize: Sizes, options: ConvTransposeLayerOptions = {}) {
    super(1, inChannels, outChannels, kernelSize, options);
  }
  /** x `[N, C, L]` or `[C, L]`; `outputSize` chooses among the lengths that a strided convolution would make L of. */
  override forward(x: Tensor, outputSize?: readonly number[] | null): Tensor {
    return convTranspose1d(x, this.weight, this.bias, this.optionsFor(x, outputSize));
  }
}

/**
 * Transposed convolution of [N, C, H, W] (Zeiler et al., 2010): the gradient of a convolution by its input as a layer, which makes images
 * larger by `stride`. Weights start uniform in ±1/√(outChannels / groups · kernel), as PyTorch's.
 */
export class ConvTranspose2d extends ConvTranspose {
  constructor(inChannels: number, outChannels: number, kernelSize: Sizes, options: ConvTransposeLayerOptions = {}) {
    super(2, inChannels, outChannels, kernelSize, options);
  }
  /** x `[N, C, H, W]` or `[C, H, W]`; `outputSize` chooses among the sizes that a strided convolution would make H × W of. */
  override forward(x: Tensor, outputSize?: readonly number[] | null): Tensor {
    return convTranspose2d(x, this.weight, this.bias, this.optionsFor(x, outputSize));
  }
}
