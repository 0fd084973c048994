// Convolutions and pools over the last one or two dimensions. One-dimensional forms are the two-dimensional ones with a height of
// 1, by views. Inputs may lack the batch dimension.

import { arange } from '../create.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { checkInteger, checkShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFlag, checkFloat, checkParameter, checkSameDType, checkSizes, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { to } from './copy.js';
import { door, fresh } from './door.js';
import { pad } from './joining.js';
import { matmul } from './matmul.js';
import { add, div, floorDivide, ge, logicalAnd, lt, mul, neg, sub } from './pointwise.js';
import { mT, reshape, squeeze, unsqueeze } from './view.js';

/** One number for every dimension, or one each. */
export type Sizes = number | readonly number[];

/** How the kernel moves over the input. */
export interface ConvOptions {
  /** Distance between positions of the kernel. Default 1. */
  stride?: Sizes;
  /** Zeros on both sides; `same` keeps the size (stride 1 only), `valid` is 0. */
  padding?: Sizes | 'same' | 'valid';
  /** Distance between the taps of the kernel. Default 1. */
  dilation?: Sizes;
  /** Channels are cut into this many groups that do not see each other. Default 1. */
  groups?: number;
}

/** Runs `f` on a batched input [N, C, …]. */
export function batched(x: Tensor, dims: number, op: string, f: (x: Tensor) => Tensor): Tensor {
  if (x.ndim !== dims + 1 && x.ndim !== dims + 2) {
    throw new ShapeError(
      `${op}: expected ${dims + 2} dimensions [batch, channels, ${dims === 1 ? 'length' : 'height, width'}], or no batch, got ${showShape(x.shape)}`,
    );
  }
  return x.ndim === dims + 2 ? f(x) : squeeze(f(unsqueeze(x, 0)), 0);
}

/** Padding before and after each dimension. */
function paddingOf(padding: unknown, kernel: readonly number[], stride: readonly number[], dilation: readonly number[], op: string): [number, number][] {
  if (padding === 'valid') return kernel.map(() => [0, 0]);
  if (padding !== 'same') {
    if (typeof padding === 'string') throw new ValueError(`${op}: padding must be numbers, 'same' or 'valid', got ${describe(padding)}`);
    return checkSizes(padding, kernel.length, 'padding', op, 0).map((p) => [p, p]);
  }
  if (stride.some((s) => s !== 1)) throw new ValueError(`${op}: padding 'same' needs a stride of 1, got ${showShape(stride)}`);
  return kernel.map((k, i) => {
    const total = dilation[i]! * (k - 1);
    return [Math.floor(total / 2), Math.ceil(total / 2)];
  });
}

/** The options of a convolution with a number for each dimension of the kernel. */
interface Geometry {
  readonly stride: number[];
  readonly dilation: number[];
  readonly groups: number;
  /** Before and after each dimension. */
  readonly padding: [number, number][];
}

export function geometryOf(options: ConvOptions | undefined, kernel: readonly number[], op: string): Geometry {
  const o = optionsOf(options, op);
  const stride = checkSizes(o.stride ?? 1, kernel.length, 'stride', op, 1);
  const dilation = checkSizes(o.dilation ?? 1, kernel.length, 'dilation', op, 1);
  return { stride, dilation, groups: checkInteger(o.groups ?? 1, 'groups', op, 1), padding: paddingOf(o.padding ?? 0, kernel, stride, dilation, op) };
}

function convolve(op: 'conv1d' | 'conv2d', x: Tensor, w: Tensor, bias: Tensor | null | undefined, options: ConvOptions | undefined): Tensor {
  const dims = op === 'conv1d' ? 1 : 2;
  checkFloat(x, op);
  checkFloat(w, op, 'the weight');
  checkSameDType(x, w, op, 'input and weight');
  if (w.ndim !== dims + 2) throw new ShapeError(`${op}: the weight must have ${dims + 2} dimensions [out, in / groups, kernel], got ${showShape(w.shape)}`);
  const kernel = w.shape.slice(2);
  const { stride, dilation, groups, padding } = geometryOf(options, kernel, op);
  const b = checkParameter(bias, [w.shape[0]!], op, 'the bias');
  if (b !== null) checkSameDType(x, b, op, 'input and bias');
  return batched(x, dims, op, (given) => {
    if (given.shape[1] !== w.shape[1]! * groups || w.shape[0]! % groups !== 0) {
      throw new ShapeError(
        `${op}: input ${showShape(given.shape)} does not fit weight ${showShape(w.shape)} in ${groups} groups (${given.shape[1]} channels ≠ ${w.shape[1]! * groups})`,
      );
    }
    // the kernel pads both sides alike
    const even = padding.every(([before, after]) => before === after);
    const input = even ? given : pad(given, [...padding].reverse().flat());
    const pads = even ? padding.map(([p]) => p) : padding.map(() => 0);
    const sizes = kernel.map((k, i) => Math.floor((input.shape[2 + i]! + 2 * pads[i]! - dilation[i]! * (k - 1) - 1) / stride[i]!) + 1);
    if (sizes.some((s) => s < 1) || kernel.includes(0)) {
      throw new ShapeError(
        `${op}: the kernel ${showShape(kernel)} with dilation ${showShape(dilation)} is larger than the input ${showShape(given.shape)} with padding ${showShape(pads)}`,
      );
    }
    if (dims === 2) return conv2dRaw(input, w, b, sizes, [...stride, ...pads, ...dilation, groups]);
    const flat = conv2dRaw(unsqueeze(input, 2), unsqueeze(w, 2), b, [1, sizes[0]!], [1, stride[0]!, 0, pads[0]!, 1, dilation[0]!, groups]);
    return squeeze(flat, 2);
  });
}

function conv2dRaw(x: Tensor, w: Tensor, b: Tensor | null, sizes: readonly number[], geometry: readonly number[]): Tensor {
  return door('conv2d', [x, w, b], [fresh(checkShape([x.shape[0]!, w.shape[0]!, ...sizes], 'conv2d'), x.dtype)], geometry, { geometry })[0]!;
}

/** Cross-correlation of x [N, C, L] with w [O, C/groups, K], plus bias [O]: [N, O, L′]. */
export const conv1d = autocasts('conv1d', (x: Tensor, w: Tensor, bias?: Tensor | null, options?: ConvOptions): Tensor => {
  return convolve('conv1d', x, w, bias, options);
});
/** Cross-correlation of x [N, C, H, W] with w [O, C/groups, KH, KW], plus bias [O]: [N, O, H′, W′]. */
export const conv2d = autocasts('conv2d', (x: Tensor, w: Tensor, bias?: Tensor | null, options?: ConvOptions): Tensor => {
  return convolve('conv2d', x, w, bias, options);
});

/** How the window moves over the input. */
export interface PoolOptions {
  /** Distance between windows; the kernel's size by default. */
  stride?: Sizes | null;
  /** Border on both sides, at most half the kernel: zeros for means, never the largest for maxima. Default 0. */
  padding?: Sizes;
  /** Windows may reach past the far border; they are cut there. Default false. */
  ceilMode?: boolean;
}
/** As PoolOptions, for means. */
export interface AvgPoolOptions extends PoolOptions {
  /** Whether padding counts in the divisor; it does by default. */
  countIncludePad?: boolean;
}

type PoolName = 'maxPool1d' | 'maxPool2d' | 'avgPool1d' | 'avgPool2d';

function pool(op: PoolName, x: Tensor, kernelSize: Sizes, options: AvgPoolOptions | undefined): Tensor {
  const dims = op.endsWith('1d') ? 1 : 2;
  checkFloat(x, op);
  const o = optionsOf(options, op);
  const kernel = checkSizes(kernelSize, dims, 'the kernel size', op, 1);
  const stride = checkSizes(o.stride ?? kernel, dims, 'stride', op, 1);
  const padding = checkSizes(o.padding ?? 0, dims, 'padding', op, 0);
  const ceil = checkFlag(o.ceilMode ?? false, 'ceilMode', op);
  const countPad = checkFlag(o.countIncludePad ?? true, 'countIncludePad', op);
  if (padding.some((p, i) => 2 * p > kernel[i]!))
    throw new ValueError(`${op}: padding ${showShape(padding)} is more than half the kernel ${showShape(kernel)}`);
  return batched(x, dims, op, (input) => {
    const sizes = kernel.map((k, i) => {
      const span = input.shape[2 + i]! + 2 * padding[i]! - k;
      const size = (ceil ? Math.ceil(span / stride[i]!) : Math.floor(span / stride[i]!)) + 1;
      // a window must begin inside the image or its near padding
      return ceil && (size - 1) * stride[i]! >= input.shape[2 + i]! + padding[i]! ? size - 1 : size;
    });
    if (sizes.some((s) => s < 1) || input.shape.slice(2).includes(0))
      throw new ShapeError(`${op}: the kernel ${showShape(kernel)} is larger than the input ${showShape(input.shape)} with padding ${showShape(padding)}`);
    const two = (values: readonly number[], one: number): number[] => (dims === 2 ? [...values] : [one, values[0]!]);
    const image = dims === 2 ? input : unsqueeze(input, 2);
    const geometry = [...two(kernel, 1), ...two(stride, 1), ...two(padding, 0)];
    const shape = checkShape([...image.shape.slice(0, 2), ...two(sizes, 1)], op);
    const y = op.startsWith('max') ? maxPool(image, shape, geometry) : avgPool(image, shape, [...geometry, Number(countPad)]);
    return dims === 2 ? y : squeeze(y, 2);
  });
}

function maxPool(x: Tensor, shape: readonly number[], geometry: readonly number[]): Tensor {
  const [y, indices] = door('maxPool2d', [x], [fresh(shape, x.dtype), fresh(shape, 'int64')], geometry, undefined);
  if (y!.gradFn === null) indices!.dispose();
  return y!;
}
function avgPool(x: Tensor, shape: readonly number[], geometry: readonly number[]): Tensor {
  return door('avgPool2d', [x], [fresh(shape, x.dtype)], geometry, { geometry })[0]!;
}

/** The largest element of each window of x [N, C, L]. */
export function maxPool1d(x: Tensor, kernelSize: Sizes, options?: PoolOptions): Tensor {
  return pool('maxPool1d', x, kernelSize, options);
}
/** The largest element of each window of x [N, C, H, W]. NaN wins. */
export function maxPool2d(x: Tensor, kernelSize: Sizes, options?: PoolOptions): Tensor {
  return pool('maxPool2d', x, kernelSize, options);
}
/** The mean of each window of x [N, C, L]. */
export function avgPool1d(x: Tensor, kernelSize: Sizes, options?: AvgPoolOptions): Tensor {
  return pool('avgPool1d', x, kernelSize, options);
}
/** The mean of each window of x [N, C, H, W]. */
export function avgPool2d(x: Tensor, kernelSize: Sizes, options?: AvgPoolOptions): Tensor {
  return pool('avgPool2d', x, kernelSize, options);
}

/**
 * The mean of each of `outputSize` equal parts of x [N, C, H, W]: where sizes do not divide, parts overlap as in PyTorch
 * (from ⌊i·in/out⌋ to ⌈(i + 1)·in/out⌉). null keeps a size.
 */
export const adaptiveAvgPool2d = autocasts('adaptiveAvgPool2d', (x: Tensor, outputSize: number | readonly (number | null)[]): Tensor => {
  const op = 'adaptiveAvgPool2d';
  checkFloat(x, op);
  return batched(x, 2, op, (input) => {
    const [h, w] = input.shape.slice(2) as [number, number];
    const wanted = Array.isArray(outputSize) ? outputSize.map((s: number | null, i: number) => s ?? input.shape[2 + i]!) : outputSize;
    const [oh, ow] = checkSizes(wanted, 2, 'the output size', op, 1) as [number, number];
    if (h === 0 || w === 0) throw new ShapeError(`${op}: the input ${showShape(input.shape)} has no elements to average`);
    if (h % oh === 0 && w % ow === 0) return avgPool2d(input, [h / oh, w / ow]);
    // averages of rows and of columns are matrix products
    return matmul(matmul(averaging(h, oh, input), input), mT(averaging(w, ow, input)));
  });
});

/** [out, in]: row i averages part i. */
function averaging(size: number, parts: number, x: Tensor): Tensor {
  const i = reshape(arange(0, parts, 1, { device: x.device }), [parts, 1]);
  const begin = floorDivide(mul(i, size), parts);
  const end = neg(floorDivide(mul(add(i, 1), -size), parts));
  const column = arange(0, size, 1, { device: x.device });
  const inside = logicalAnd(ge(column, begin), lt(column, end));
  return div(to(inside, x.dtype), sub(end, begin));
}
