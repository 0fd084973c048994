// Transposed convolutions: the gradient of a convolution by its input, as an operation of its own. It has no kernels but that gradient's, whose
// rule in the tape leads back to the convolution.

import { ShapeError, ValueError } from '../errors.js';
import { checkInteger, checkShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFloat, checkParameter, checkSameDType, checkSizes, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { batched, type Sizes } from './conv.js';
import { door, fresh } from './door.js';
import { pad } from './joining.js';
import { add } from './pointwise.js';
import { reshape, squeeze, unsqueeze } from './view.js';

/** How the kernel moves over the result. */
export interface ConvTransposeOptions {
  /** Distance between the positions of the kernel in the result. Default 1. */
  stride?: Sizes;
  /** How much is cut off both sides of the result: what a convolution with this padding would have added. Default 0. */
  padding?: Sizes;
  /** Rows and columns more at the end: which of the sizes that a strided convolution makes equal is meant. Below stride or dilation. Default 0. */
  outputPadding?: Sizes;
  /** Channels are cut into this many groups that do not see each other. Default 1. */
  groups?: number;
  /** Distance between the taps of the kernel. Default 1. */
  dilation?: Sizes;
}

/** The options with a number for each dimension of the kernel. */
export interface TransposedGeometry {
  readonly stride: number[];
  readonly padding: number[];
  readonly outputPadding: number[];
  readonly groups: number;
  readonly dilation: number[];
}

export function transposedGeometryOf(options: ConvTransposeOptions | undefined, dims: number, op: string): TransposedGeometry {
  const o = optionsOf(options, op);
  const stride = checkSizes(o.stride ?? 1, dims, 'stride', op, 1);
  const dilation = checkSizes(o.dilation ?? 1, dims, 'dilation', op, 1);
  const padding = checkSizes(o.padding ?? 0, dims, 'padding', op, 0);
  const outputPadding = checkSizes(o.outputPadding ?? 0, dims, 'outputPadding', op, 0);
  if (outputPadding.some((p, i) => p >= Math.max(stride[i]!, dilation[i]!)))
    throw new ValueError(`${op}: outputPadding ${showShape(outputPadding)} must be below stride ${showShape(stride)} or dilation ${showShape(dilation)}`);
  return { stride, padding, outputPadding, groups: checkInteger(o.groups ?? 1, 'groups', op, 1), dilation };
}

function transposed(
  op: 'convTranspose1d' | 'convTranspose2d',
  x: Tensor,
  w: Tensor,
  bias: Tensor | null | undefined,
  options: ConvTransposeOptions | undefined,
): Tensor {
  const dims = op === 'convTranspose1d' ? 1 : 2;
  checkFloat(x, op);
  checkFloat(w, op, 'the weight');
  checkSameDType(x, w, op, 'input and weight');
  if (w.ndim !== dims + 2) throw new ShapeError(`${op}: the weight must have ${dims + 2} dimensions [in, out / groups, kernel], got ${showShape(w.shape)}`);
  const kernel = w.shape.slice(2);
  const { stride, padding, outputPadding, groups, dilation } = transposedGeometryOf(options, dims, op);
  const channels = w.shape[1]! * groups;
  const b = checkParameter(bias, [channels], op, 'the bias');
  if (b !== null) checkSameDType(x, b, op, 'input and bias');
  return batched(x, dims, op, (given) => {
    if (given.shape[1] !== w.shape[0] || w.shape[0]! % groups !== 0)
      throw new ShapeError(`${op}: input ${showShape(given.shape)} does not fit weight ${showShape(w.shape)} in ${groups} groups`);
    const sizes = kernel.map((k, i) => (given.shape[2 + i]! - 1) * stride[i]! - 2 * padding[i]! + dilation[i]! * (k - 1) + outputPadding[i]! + 1);
    if (sizes.some((s) => s < 1) || kernel.includes(0) || given.shape.slice(2).includes(0))
      throw new ShapeError(
        `${op}: nothing is left of input ${showShape(given.shape)} by kernel ${showShape(kernel)}, stride ${showShape(stride)} and padding ${showShape(padding)}`,
      );
    // where outputPadding reaches the stride, the convolution from there to here has more positions: they hold zeros
    const more = kernel.map((k, i) => Math.floor((sizes[i]! + 2 * padding[i]! - dilation[i]! * (k - 1) - 1) / stride[i]!) + 1 - given.shape[2 + i]!);
    const border = more.toReversed().flatMap((n) => [0, n]);
    const input = more.some((n) => n > 0) ? pad(given, border) : given;
    // one dimension is two with a height of 1
    const two = (values: readonly number[], one: number): number[] => (dims === 2 ? [...values] : [one, values[0]!]);
    const image = (t: Tensor): Tensor => (dims === 2 ? t : unsqueeze(t, 2));
    const shape = checkShape([given.shape[0]!, channels, ...two(sizes, 1)], op);
    const geometry = [...two(stride, 1), ...two(padding, 0), ...two(dilation, 1), groups];
    const made = door('conv2dBackwardInput', [image(input), image(w)], [fresh(shape, x.dtype)], geometry, { geometry })[0]!;
    const y = dims === 2 ? made : squeeze(made, 2);
    return b === null ? y : add(y, reshape(b, [channels, ...kernel.map(() => 1)]));
  });
}

/**
 * Transposed convolution (Zeiler et al., 2010) of x [N, C, L] with w [C, O/groups, K], plus bias [O]: [N, O, L′] with
 * L′ = (L − 1)·stride − 2·padding + dilation·(K − 1) + outputPadding + 1. The gradient of `conv1d` by its input.
 */
export const convTranspose1d = autocasts('convTranspose1d', (x: Tensor, w: Tensor, bias?: Tensor | null, options?: ConvTransposeOptions): Tensor => {
  return transposed('convTranspose1d', x, w, bias, options);
});

/**
 * Transposed convolution (Zeiler et al., 2010) of x [N, C, H, W] with w [C, O/groups, KH, KW], plus bias [O]: [N, O, H′, W′] with
 * H′ = (H − 1)·stride − 2·padding + dilation·(KH − 1) + outputPadding + 1. The gradient of `conv2d` by its input.
 */
export const convTranspose2d = autocasts('convTranspose2d', (x: Tensor, w: Tensor, bias?: Tensor | null, options?: ConvTransposeOptions): Tensor => {
  return transposed('convTranspose2d', x, w, bias, options);
});
