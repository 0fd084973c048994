// Images and their patches: channels that become pixels, windows that become columns. Views, one copy, and reading and adding at places that are
// computed on the device.

import { arange, zeros } from '../create.js';
import { ShapeError } from '../errors.js';
import { checkInteger, checkShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFloat, checkSizes, checkTensor, optionsOf } from './arguments.js';
import { batched, type Sizes } from './conv.js';
import { contiguous } from './copy.js';
import { indexAdd_, indexSelect } from './gather.js';
import { pad } from './joining.js';
import { add, mul } from './pointwise.js';
import { narrow, permute, reshape } from './view.js';

/** How the windows of `im2col` and `col2im` lie. */
export interface PatchOptions {
  /** Distance between the elements of a window. Default 1. */
  dilation?: Sizes;
  /** Zeros on both sides. Default 0. */
  padding?: Sizes;
  /** Distance between windows. Default 1. */
  stride?: Sizes;
}

/** The windows over an image of this size. */
interface Windows {
  readonly kernel: readonly number[];
  readonly padding: readonly number[];
  /** Of the image with its border. */
  readonly padded: readonly number[];
  /** Windows down and across. */
  readonly counts: readonly number[];
  /** Where the elements of the windows lie in the image with its border, as [kernel, windows]. */
  places(device: Tensor['device']): Tensor;
}

function windowsOf(size: readonly number[], kernelSize: Sizes, options: PatchOptions | undefined, op: string): Windows {
  const o = optionsOf(options, op);
  const kernel = checkSizes(kernelSize, 2, 'the kernel size', op, 1);
  const dilation = checkSizes(o.dilation ?? 1, 2, 'dilation', op, 1);
  const padding = checkSizes(o.padding ?? 0, 2, 'padding', op, 0);
  const stride = checkSizes(o.stride ?? 1, 2, 'stride', op, 1);
  const padded = size.map((s, i) => s + 2 * padding[i]!);
  const counts = padded.map((s, i) => Math.floor((s - dilation[i]! * (kernel[i]! - 1) - 1) / stride[i]!) + 1);
  if (counts.some((n) => n < 1))
    throw new ShapeError(
      `${op}: the kernel ${showShape(kernel)} with dilation ${showShape(dilation)} is larger than the image ${showShape(size)} with padding ${showShape(padding)}`,
    );
  const places = (device: Tensor['device']): Tensor => {
    const [rows, columns] = [0, 1].map((i) => {
      const line = (n: number, step: number): Tensor => arange(0, n * step, step, { device });
      return add(reshape(line(kernel[i]!, dilation[i]!), [kernel[i]!, 1]), line(counts[i]!, stride[i]!));
    }) as [Tensor, Tensor];
    const at = add(reshape(mul(rows, padded[1]!), [kernel[0]!, 1, counts[0]!, 1]), reshape(columns, [1, kernel[1]!, 1, counts[1]!]));
    return reshape(at, [at.numel]);
  };
  return { kernel, padding, padded, counts, places };
}

/**
 * The windows of x [N, C, H, W] as columns [N, C·KH·KW, windows], row by row: PyTorch's `F.unfold`, under the name of its kernel. `unfold` cuts
 * windows of one dimension.
 */
export function im2col(x: Tensor, kernelSize: Sizes, options?: PatchOptions): Tensor {
  checkFloat(x, 'im2col');
  return batched(x, 2, 'im2col', (image) => {
    const { kernel, padding, padded, counts, places } = windowsOf(image.shape.slice(2), kernelSize, options, 'im2col');
    const [n, c] = image.shape as [number, number];
    const [top, left] = padding as [number, number];
    const border = top + left > 0 ? pad(image, [left, left, top, top]) : image;
    const columns = indexSelect(reshape(border, [n, c, padded[0]! * padded[1]!]), 2, places(x.device));
    return reshape(columns, [n, c * kernel[0]! * kernel[1]!, counts[0]! * counts[1]!]);
  });
}

/**
 * The image [N, C, H, W] of size `outputSize` whose windows are the columns of x [N, C·KH·KW, windows], added up where they overlap: PyTorch's
 * `F.fold`, the gradient of `im2col`.
 */
export function col2im(x: Tensor, outputSize: Sizes, kernelSize: Sizes, options?: PatchOptions): Tensor {
  const op = 'col2im';
  checkFloat(x, op);
  const size = checkSizes(outputSize, 2, 'the output size', op, 1);
  const { kernel, padding, padded, counts, places } = windowsOf(size, kernelSize, options, op);
  const [taps, windows] = [kernel[0]! * kernel[1]!, counts[0]! * counts[1]!];
  const [n, rows, columns] = x.ndim === 2 ? [1, ...x.shape] : x.shape;
  if (x.ndim < 2 || x.ndim > 3 || rows! % taps !== 0 || columns !== windows)
    throw new ShapeError(
      `${op}: expected [batch, channels·${taps}, ${windows}] or no batch for an image ${showShape(size)} and a kernel ${showShape(kernel)}, got ${showShape(x.shape)}`,
    );
  const c = rows! / taps;
  const plane = padded[0]! * padded[1]!;
  const blank = zeros(checkShape([n!, c, plane], op), { dtype: x.dtype, device: x.device });
  const sums = reshape(indexAdd_(blank, 2, places(x.device), reshape(x, [n!, c, taps * windows])), [n!, c, padded[0]!, padded[1]!]);
  const image = narrow(narrow(sums, 2, padding[0]!, size[0]!), 3, padding[1]!, size[1]!);
  return reshape(contiguous(image), x.ndim === 2 ? [c, ...size] : [n!, c, ...size]);
}

/** The last three dimensions, [C, H, W], of what `op` takes. */
function imageOf(x: unknown, op: string): [Tensor, number[], number, number, number] {
  checkTensor(x, op);
  if (x.ndim < 3) throw new ShapeError(`${op}: expected [.., channels, height, width], got ${showShape(x.shape)}`);
  return [x, x.shape.slice(0, -3), ...(x.shape.slice(-3) as [number, number, number])];
}

/** [.., C·r², H, W] to [.., C, H·r, W·r] (Shi et al., 2016): each pixel becomes r × r of them, from neighbouring channels. */
export function pixelShuffle(input: Tensor, upscaleFactor: number): Tensor {
  const r = checkInteger(upscaleFactor, 'upscaleFactor', 'pixelShuffle', 1, 2 ** 20);
  const [x, batch, c, h, w] = imageOf(input, 'pixelShuffle');
  if (c % (r * r) !== 0) throw new ShapeError(`pixelShuffle: ${c} channels of ${showShape(x.shape)} are no multiple of ${r}²`);
  const parts = reshape(x, [...batch, c / (r * r), r, r, h, w]);
  return reshape(permute(parts, [...batch.keys(), ...[0, 3, 1, 4, 2].map((d) => d + batch.length)]), [...batch, c / (r * r), h * r, w * r]);
}

/** [.., C, H·r, W·r] to [.., C·r², H, W]: what pixelShuffle did, back. */
export function pixelUnshuffle(input: Tensor, downscaleFactor: number): Tensor {
  const r = checkInteger(downscaleFactor, 'downscaleFactor', 'pixelUnshuffle', 1, 2 ** 20);
  const [x, batch, c, h, w] = imageOf(input, 'pixelUnshuffle');
  if (h % r !== 0 || w % r !== 0) throw new ShapeError(`pixelUnshuffle: height and width of ${showShape(x.shape)} are no multiples of ${r}`);
  const parts = reshape(x, [...batch, c, h / r, r, w / r, r]);
  return reshape(permute(parts, [...batch.keys(), ...[0, 2, 4, 1, 3].map((d) => d + batch.length)]), [...batch, c * r * r, h / r, w / r]);
}

/** The channels of [N, C, …] dealt to `groups` in turn (Zhang et al., 2018): channel g·(C/groups) + i becomes i·groups + g. */
export function channelShuffle(x: Tensor, groups: number): Tensor {
  checkTensor(x, 'channelShuffle');
  checkInteger(groups, 'groups', 'channelShuffle', 1, 2 ** 29);
  if (x.ndim < 3 || x.shape[1]! % groups !== 0)
    throw new ShapeError(`channelShuffle: expected [batch, channels, ..] with a multiple of ${groups} channels, got ${showShape(x.shape)}`);
  const [n, c, ...rest] = x.shape as [number, number, ...number[]];
  const parts = reshape(x, [n, groups, c / groups, ...rest]);
  return reshape(permute(parts, [0, 2, 1, ...rest.map((_, d) => d + 3)]), x.shape);
}
