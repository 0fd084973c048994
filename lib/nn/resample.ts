// Layers between sizes of images: interpolation, pixels from channels, windows as columns.

import type { Sizes } from '../ops/conv.js';
import { type InterpolateOptions, interpolate } from '../ops/interpolate.js';
import { channelShuffle, col2im, im2col, type PatchOptions, pixelShuffle, pixelUnshuffle } from '../ops/patches.js';
import { type Every, withOptions } from '../options.js';
import type { Tensor } from '../tensor.js';
import { checkSize } from './linear.js';
import { Module } from './module.js';

const INTERPOLATION: Every<InterpolateOptions> = { size: undefined, scaleFactor: undefined, mode: undefined, alignCorners: undefined };

/** `interpolate` as a module. */
export class Upsample extends Module {
  private readonly options: InterpolateOptions;
  constructor(options: InterpolateOptions) {
    super();
    this.options = withOptions('Upsample', INTERPOLATION, options);
  }
  /** x `[N, C, …]` with one to three dimensions after the channels. */
  override forward(x: Tensor): Tensor {
    return interpolate(x, this.options);
  }
}

/** `pixelShuffle` as a module. */
export class PixelShuffle extends Module {
  constructor(
    /** How many times higher and wider the image becomes. */
    readonly upscaleFactor: number,
  ) {
    super();
    checkSize(upscaleFactor, 'upscaleFactor', 'PixelShuffle');
  }
  /** x `[.., C·r², H, W]` to `[.., C, H·r, W·r]`. */
  override forward(x: Tensor): Tensor {
    return pixelShuffle(x, this.upscaleFactor);
  }
}

/** `pixelUnshuffle` as a module. */
export class PixelUnshuffle extends Module {
  constructor(
    /** How many times lower and narrower the image becomes. */
    readonly downscaleFactor: number,
  ) {
    super();
    checkSize(downscaleFactor, 'downscaleFactor', 'PixelUnshuffle');
  }
  /** x `[.., C, H·r, W·r]` to `[.., C·r², H, W]`. */
  override forward(x: Tensor): Tensor {
    return pixelUnshuffle(x, this.downscaleFactor);
  }
}

/** `channelShuffle` as a module. */
export class ChannelShuffle extends Module {
  constructor(
    /** What the channels are dealt to. */
    readonly groups: number,
  ) {
    super();
    checkSize(groups, 'groups', 'ChannelShuffle');
  }
  /** x `[N, C, …]`, whose shape the result has. */
  override forward(x: Tensor): Tensor {
    return channelShuffle(x, this.groups);
  }
}

const PATCHES: Every<PatchOptions> = { dilation: undefined, padding: undefined, stride: undefined };

/** `im2col` as a module. */
export class Unfold extends Module {
  private readonly options: PatchOptions;
  constructor(
    /** Height and width of a window. */
    readonly kernelSize: Sizes,
    options: PatchOptions = {},
  ) {
    super();
    this.options = withOptions('Unfold', PATCHES, options);
  }
  /** x `[N, C, H, W]` or `[C, H, W]`. */
  override forward(x: Tensor): Tensor {
    return im2col(x, this.kernelSize, this.options);
  }
}

/** `col2im` as a module. */
export class Fold extends Module {
  private readonly options: PatchOptions;
  constructor(
    /** Height and width of the image. */
    readonly outputSize: Sizes,
    /** Height and width of a window. */
    readonly kernelSize: Sizes,
    options: PatchOptions = {},
  ) {
    super();
    this.options = withOptions('Fold', PATCHES, options);
  }
  /** x `[N, C·KH·KW, windows]` or `[C·KH·KW, windows]`. */
  override forward(x: Tensor): Tensor {
    return col2im(x, this.outputSize, this.kernelSize, this.options);
  }
}
