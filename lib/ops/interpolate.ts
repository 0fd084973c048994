// Images and sequences in another size. Each dimension by itself: a result is a weighted sum of neighbours, whose places and weights are computed
// on the device, so that a captured graph holds them. Gradients go back by the places, in a fixed order.

import { arange } from '../create.js';
import { ShapeError, ValueError } from '../errors.js';
import { checkNumber, checkShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkChoice, checkFlag, checkFloat, checkSizes, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { clamp, lerp } from './blend.js';
import { clone, to } from './copy.js';
import { indexSelect } from './gather.js';
import { add, div, floor, mul, neg, sub } from './pointwise.js';
import { reshape } from './view.js';

/** How values between elements are made: the nearest one, or a polynomial through 2 or 4 neighbours a dimension. */
export type InterpolationMode = 'nearest' | 'nearest-exact' | 'linear' | 'bilinear' | 'bicubic' | 'trilinear';

/** Options of `interpolate`: `size` or `scaleFactor`. */
export interface InterpolateOptions {
  /** Of the dimensions after the channels: one number for all, or one each. */
  size?: number | readonly number[] | null;
  /** In place of `size`: how often the input's. */
  scaleFactor?: number | readonly number[] | null;
  /** `linear` for [N, C, L], `bilinear` and `bicubic` for [N, C, H, W], `trilinear` for [N, C, D, H, W]. Default nearest. */
  mode?: InterpolationMode;
  /** Whether the middles of the corner elements stay in the corners, in place of the corners of the corner elements. Default false. */
  alignCorners?: boolean;
}

const MODES = ['nearest', 'nearest-exact', 'linear', 'bilinear', 'bicubic', 'trilinear'] as const;
/** Dimensions that the modes of one number of dimensions are for. */
const DIMS: Partial<Record<InterpolationMode, number>> = { linear: 1, bilinear: 2, bicubic: 2, trilinear: 3 };

/** One dimension: from `input` to `output` elements, which are `step` apart in the input. */
interface Axis {
  readonly input: number;
  readonly output: number;
  readonly step: readonly [over: number, under: number];
}

function axesOf(x: Tensor, o: InterpolateOptions, alignCorners: boolean, op: string): Axis[] {
  const inputs = x.shape.slice(2);
  const [size, factor] = [o.size ?? null, o.scaleFactor ?? null];
  if ((size === null) === (factor === null)) throw new ValueError(`${op}: give size or scaleFactor, and not both`);
  if (inputs.includes(0)) throw new ShapeError(`${op}: the input ${showShape(x.shape)} has no elements to interpolate`);
  const axis = (input: number, output: number, step: readonly [number, number]): Axis => ({
    input,
    output,
    step: alignCorners ? [output > 1 ? input - 1 : 0, Math.max(1, output - 1)] : step,
  });
  if (size !== null) return checkSizes(size, inputs.length, 'size', op, 1).map((output, i) => axis(inputs[i]!, output, [inputs[i]!, output]));
  const factors = Array.isArray(factor) ? factor : inputs.map(() => factor);
  if (factors.length !== inputs.length) throw new ValueError(`${op}: scaleFactor must be one number or ${inputs.length}, got ${factors.length}`);
  return inputs.map((input, i) => {
    const times = checkNumber(factors[i], 'scaleFactor', op, 0);
    const output = Math.floor(input * times);
    if (!(output >= 1 && Number.isFinite(output))) throw new ValueError(`${op}: a scaleFactor of ${times} makes ${output} of ${input} elements`);
    return axis(input, output, [1, times]);
  });
}

/** Where the elements of the result lie between those of the input: float64, from the middle of its first element on. */
function between({ output, step: [over, under] }: Axis, alignCorners: boolean, device: Tensor['device']): Tensor {
  const place = arange(0, output, 1, { dtype: 'float64', device });
  return alignCorners ? div(mul(place, over), under) : sub(div(mul(add(place, 0.5), over), under), 0.5);
}

/** The element of the input that is shown, for each of the result. */
function nearest({ input, output, step: [over, under] }: Axis, exact: boolean, device: Tensor['device']): Tensor {
  const place = arange(0, output, 1, { dtype: 'float64', device });
  const at = floor(div(mul(exact ? add(place, 0.5) : place, over), under));
  return to(clamp(at, 0, input - 1), 'int64');
}

/** Keys' cubic convolution (1981) with a = −0.75, at distances up to 1 and from there to 2. */
const A = -0.75;
const near = (t: Tensor): Tensor => add(mul(mul(sub(mul(t, A + 2), A + 3), t), t), 1);
const far = (t: Tensor): Tensor => mul(sub(mul(add(mul(sub(t, 5), t), 8), t), 4), A);

/** The dimension `d` of x by an axis. */
function along(x: Tensor, d: number, axis: Axis, mode: InterpolationMode, alignCorners: boolean): Tensor {
  const { input, step } = axis;
  if (input === axis.output && step[0] === step[1]) return x;
  if (mode === 'nearest' || mode === 'nearest-exact') return indexSelect(x, d, nearest(axis, mode === 'nearest-exact', x.device));
  const cubic = mode === 'bicubic';
  const exact = between(axis, alignCorners, x.device);
  const place = cubic ? exact : clamp(exact, 0);
  const first = floor(place);
  const shape = x.shape.map((_, i) => (i === d ? axis.output : 1));
  const weight = (w: Tensor): Tensor => to(reshape(w, shape), x.dtype);
  const tap = (k: number): Tensor => indexSelect(x, d, to(clamp(add(first, k), 0, input - 1), 'int64'));
  const t = sub(place, first);
  if (!cubic) return lerp(tap(0), tap(1), weight(t));
  const rest = add(neg(t), 1);
  const weights = [far(add(t, 1)), near(t), near(rest), far(add(rest, 1))];
  return weights.map((w, i) => mul(tap(i - 1), weight(w))).reduce((a, b) => add(a, b));
}

/**
 * x [N, C, …] with one to three dimensions after the channels, in another size. Nearest neighbours of any dtype; the other modes of floating-point
 * tensors, 16-bit ones in float32. Without smoothing: to make an image much smaller, `avgPool2d` or `adaptiveAvgPool2d` see all of it.
 */
export const interpolate = autocasts('interpolate', (x: Tensor, options: InterpolateOptions): Tensor => {
  const op = 'interpolate';
  checkTensor(x, op);
  const o = optionsOf(options, op);
  const mode = checkChoice(o.mode ?? 'nearest', MODES, 'mode', op);
  const alignCorners = checkFlag(o.alignCorners ?? false, 'alignCorners', op);
  const isNearest = mode === 'nearest' || mode === 'nearest-exact';
  if (isNearest && alignCorners) throw new ValueError(`${op}: alignCorners is for modes other than ${mode}`);
  const dims = x.ndim - 2;
  if (dims < 1 || dims > 3 || (!isNearest && dims !== DIMS[mode]))
    throw new ShapeError(`${op}: ${mode} is for [batch, channels] and ${DIMS[mode] ?? '1 to 3'} dimensions more, got ${showShape(x.shape)}`);
  if (!isNearest) checkFloat(x, op);
  const axes = axesOf(x, o, alignCorners, op);
  checkShape([...x.shape.slice(0, 2), ...axes.map((a) => a.output)], op);
  const isHalf = !isNearest && (x.dtype === 'float16' || x.dtype === 'bfloat16');
  const y = axes.reduce((z, axis, i) => along(z, 2 + i, axis, mode, alignCorners), isHalf ? to(x, 'float32') : x);
  return y === x ? clone(x) : to(y, x.dtype);
});
