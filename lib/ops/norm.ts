// Normalizations. Weights may have another floating-point dtype than the input (float32 weights with bfloat16 activations);
// the statistics that backward needs are kept in float32, or float64 for float64.
import { ShapeError, ValueError } from '../errors.js';
import { checkDims, checkInteger, checkNumber, checkShape, numel, type Shape, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFinite, checkFlag, checkFloat, checkParameter } from './arguments.js';
import { autocasts } from './autocast.js';
import { checkInPlace, door, fresh, like } from './door.js';
import { wideType } from './matmul.js';
import { div, maximum } from './pointwise.js';
import { type Dims, norm } from './reduce.js';
import { reshape } from './view.js';

/** @inline */
type Maybe = Tensor | null | undefined;

/** The first output; statistics that no graph has saved are given back at once. */
function withoutStatistics([y, ...statistics]: Tensor[]): Tensor {
  if (y!.gradFn === null) for (const s of statistics) s.dispose();
  return y!;
}

/** Checks that the last dimensions of x are `normalizedShape`. */
function checkNormalized(x: Tensor, normalizedShape: number | readonly number[], op: string): Shape {
  const shape = checkShape(typeof normalizedShape === 'number' ? [normalizedShape] : normalizedShape, op);
  if (shape.length === 0 || !sameShape(x.shape.slice(-shape.length), shape)) {
    throw new ShapeError(`${op}: the last dimensions of ${showShape(x.shape)} are not the normalized shape ${showShape(shape)}`);
  }
  return shape;
}

const flattened = (p: Tensor | null): Tensor | null => (p === null || p.ndim === 1 ? p : reshape(p, [p.numel]));

/**
 * (x − mean) / √(variance + eps) · weight + bias over the last dimensions, which are `normalizedShape` (Ba et al., 2016).
 * Weight and bias have that shape and may be absent.
 */
export const layerNorm = autocasts('layerNorm', (x: Tensor, normalizedShape: number | readonly number[], weight?: Maybe, bias?: Maybe, eps = 1e-5): Tensor => {
  checkFloat(x, 'layerNorm');
  const shape = checkNormalized(x, normalizedShape, 'layerNorm');
  const w = flattened(checkParameter(weight, shape, 'layerNorm', 'the weight'));
  const b = flattened(checkParameter(bias, shape, 'layerNorm', 'the bias'));
  checkFinite(eps, 'eps', 'layerNorm', 0);
  const lead = x.shape.slice(0, -shape.length);
  const rows = shape.length === 1 ? x : reshape(x, [...lead, numel(shape)]);
  const statistics = fresh(lead, wideType(x.dtype));
  const y = withoutStatistics(door('layerNorm', [rows, w, b], [like(rows), statistics, statistics], [eps], { eps }));
  return shape.length === 1 ? y : reshape(y, x.shape);
});

/**
 * x / √(mean(x²) + eps) · weight over the last dimensions (Zhang & Sennrich, 2019). `eps` defaults to the
 * distance of 1 to the next float32 (float64 for float64).
 */
export const rmsNorm = autocasts('rmsNorm', (x: Tensor, normalizedShape: number | readonly number[], weight?: Maybe, eps?: number | null): Tensor => {
  checkFloat(x, 'rmsNorm');
  const shape = checkNormalized(x, normalizedShape, 'rmsNorm');
  const w = flattened(checkParameter(weight, shape, 'rmsNorm', 'the weight'));
  const epsilon = checkFinite(eps ?? (x.dtype === 'float64' ? Number.EPSILON : 2 ** -23), 'eps', 'rmsNorm', 0);
  const lead = x.shape.slice(0, -shape.length);
  const rows = shape.length === 1 ? x : reshape(x, [...lead, numel(shape)]);
  const y = withoutStatistics(door('rmsNorm', [rows, w], [like(rows), fresh(lead, wideType(x.dtype))], [epsilon], { eps: epsilon }));
  return shape.length === 1 ? y : reshape(y, x.shape);
});

function checkChannels(x: Tensor, op: string): number {
  if (x.ndim < 2) throw new ShapeError(`${op}: expected [batch, channels, …], got ${showShape(x.shape)}`);
  return x.shape[1]!;
}

/** Normalizes each image [C, …] of x [N, C, …] in `groups` groups of channels (Wu & He, 2018). Weight and bias are [C]. */
export const groupNorm = autocasts('groupNorm', (x: Tensor, groups: number, weight?: Maybe, bias?: Maybe, eps = 1e-5): Tensor => {
  checkFloat(x, 'groupNorm');
  const channels = checkChannels(x, 'groupNorm');
  checkInteger(groups, 'groups', 'groupNorm', 1);
  if (channels % groups !== 0) throw new ShapeError(`groupNorm: ${channels} channels of ${showShape(x.shape)} do not divide into ${groups} groups`);
  const w = checkParameter(weight, [channels], 'groupNorm', 'the weight');
  const b = checkParameter(bias, [channels], 'groupNorm', 'the bias');
  checkFinite(eps, 'eps', 'groupNorm', 0);
  const statistics = fresh([x.shape[0]!, groups], wideType(x.dtype));
  return withoutStatistics(door('groupNorm', [x, w, b], [like(x), statistics, statistics], [groups, eps], { groups }));
});

/**
 * Normalizes each channel of x [N, C, …] over everything else (Ioffe & Szegedy, 2015). In training by the batch's own
 * statistics, which also move the running ones in place: running ← (1 − momentum)·running + momentum·batch, with the
 * unbiased variance. Otherwise by the running statistics.
 */
export function batchNorm(
  x: Tensor,
  runningMean?: Maybe,
  runningVar?: Maybe,
  weight?: Maybe,
  bias?: Maybe,
  training = false,
  momentum = 0.1,
  eps = 1e-5,
): Tensor {
  checkFloat(x, 'batchNorm');
  const channels = checkChannels(x, 'batchNorm');
  const mean = checkParameter(runningMean, [channels], 'batchNorm', 'the running mean');
  const variance = checkParameter(runningVar, [channels], 'batchNorm', 'the running variance');
  const w = checkParameter(weight, [channels], 'batchNorm', 'the weight');
  const b = checkParameter(bias, [channels], 'batchNorm', 'the bias');
  checkFlag(training, 'training', 'batchNorm');
  checkNumber(momentum, 'momentum', 'batchNorm', 0, 1);
  checkFinite(eps, 'eps', 'batchNorm', 0);
  if ((mean === null) !== (variance === null)) throw new ValueError('batchNorm: give both running statistics or neither');
  if (!training && mean === null) throw new ValueError('batchNorm: outside training the running statistics are needed');
  const perChannel = channels === 0 ? 0 : x.numel / channels;
  if (training && perChannel < 2) throw new ShapeError(`batchNorm: training needs more than one value per channel, got ${showShape(x.shape)}`);
  const running = training ? [mean, variance].filter((r) => r !== null) : [];
  for (const r of running) checkInPlace('batchNorm', r);
  const statistics = fresh([channels], wideType(x.dtype));
  const made = door('batchNorm', [x, w, b, mean, variance], [like(x), statistics, statistics], [Number(training), momentum, eps], { training });
  for (const r of running) r.storage.wrote('batchNorm');
  return withoutStatistics(made);
}

/** x / max(‖x‖, eps) along `dims`, for the norm of order `order`. */
export function normalize(x: Tensor, order = 2, dims: Dims = 1, eps = 1e-12): Tensor {
  checkFloat(x, 'normalize');
  checkFinite(eps, 'eps', 'normalize', 0);
  return div(x, maximum(norm(x, order, checkDims(dims, x.ndim, 'normalize'), true), eps));
}
