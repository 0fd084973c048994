// The free functions of the public API.

export * from './activation.js';
export * from './attention.js';
export * from './blend.js';
export { allclose, type CloseOptions, equal } from './check.js';
export {
  type AvgPoolOptions,
  adaptiveAvgPool2d,
  avgPool1d,
  avgPool2d,
  type ConvOptions,
  conv1d,
  conv2d,
  maxPool1d,
  maxPool2d,
  type PoolOptions,
  type Sizes,
} from './conv.js';
export { type ConvTransposeOptions, convTranspose1d, convTranspose2d } from './conv_transpose.js';
export { bfloat16, bool, clone, contiguous, copy_, double, fill_, float, half, int, long, type MoveOptions, to, zero_ } from './copy.js';
export * from './counting.js';
export * from './ctc_loss.js';
export * from './einsum.js';
export * from './embedding.js';
export * from './extremes.js';
export * from './indexing.js';
export * from './interpolate.js';
export * from './joining.js';
export * from './likelihood_loss.js';
export * from './loss.js';
export * from './margin_loss.js';
export { addmm, attentionPacked, bmm, dot, linear, matmul, mlp, mm, outer, trace } from './matmul.js';
export * from './norm.js';
export * from './patches.js';
export * from './pointwise.js';
export * from './products.js';
export { all, any, argmax, argmin, countNonzero, type Dims, max, mean, min, norm, prod, std, sum, sumSquares, variance, variance as var } from './reduce.js';
export * from './softmax.js';
export * from './sort.js';
export {
  diagonal,
  expand,
  expandAs,
  flatten,
  movedim,
  mT,
  narrow,
  permute,
  reshape,
  select,
  squeeze,
  t,
  transpose,
  unflatten,
  unsqueeze,
  view,
} from './view.js';
