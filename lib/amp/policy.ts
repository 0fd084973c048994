// What autocast does with an operation: PyTorch's lists for CUDA (ATen/autocast_mode.h), used on every device, so that a program makes
// the same decisions wherever it runs. What is not here computes in the type of its inputs and casts nothing.

/** What an autocast region may compute matrix products in; `float32` turns autocast's casts around, for one module or a part of a region. */
export type AutocastDType = 'bfloat16' | 'float16' | 'float32';

/**
 * - `low`: inputs in the region's dtype. Matrix products, where the time is.
 * - `float32`: 16-bit inputs give a float32 result. Ops that lose digits or overflow.
 * - `widest`: inputs in the widest of their floating dtypes. Ops that need equal ones.
 * - `input`: the type of the inputs, although it is made of ops with rows of their own.
 * - `refused`: an error, as the gradient would overflow.
 *
 * float64 and whole numbers are never cast.
 */
export type Policy = 'low' | 'float32' | 'widest' | 'input' | 'refused';

/** What autocast does with each operation that it does anything with. */
export const policy = {
  matmul: 'low',
  mm: 'low',
  bmm: 'low',
  addmm: 'low',
  einsum: 'low',
  linear: 'low',
  linearCrossEntropy: 'low',
  mlp: 'low',
  attentionPacked: 'low',
  scaledDotProductAttention: 'low',
  conv1d: 'low',
  conv2d: 'low',
  convTranspose1d: 'low',
  convTranspose2d: 'low',
  prelu: 'low',
  recurrent: 'low',

  acos: 'float32',
  asin: 'float32',
  cosh: 'float32',
  sinh: 'float32',
  tan: 'float32',
  exp: 'float32',
  expm1: 'float32',
  log: 'float32',
  log10: 'float32',
  log1p: 'float32',
  log2: 'float32',
  pow: 'float32',
  reciprocal: 'float32',
  rsqrt: 'float32',
  softplus: 'float32',
  sum: 'float32',
  prod: 'float32',
  norm: 'float32',
  sumSquares: 'float32',
  cumsum: 'float32',
  cumprod: 'float32',
  softmax: 'float32',
  softmin: 'float32',
  logSoftmax: 'float32',
  logsumexp: 'float32',
  layerNorm: 'float32',
  rmsNorm: 'float32',
  groupNorm: 'float32',
  cosineSimilarity: 'float32',
  cdist: 'float32',
  interpolate: 'float32',
  nllLoss: 'float32',
  klDiv: 'float32',
  l1Loss: 'float32',
  mseLoss: 'float32',
  huberLoss: 'float32',
  smoothL1Loss: 'float32',
  binaryCrossEntropyWithLogits: 'float32',
  marginRankingLoss: 'float32',
  hingeEmbeddingLoss: 'float32',
  cosineEmbeddingLoss: 'float32',
  pairwiseDistance: 'float32',
  tripletMarginLoss: 'float32',
  softMarginLoss: 'float32',
  multiMarginLoss: 'float32',
  multilabelSoftMarginLoss: 'float32',
  gaussianNllLoss: 'float32',
  poissonNllLoss: 'float32',

  atan2: 'widest',
  cross: 'widest',
  dot: 'widest',
  tensordot: 'widest',
  scatterAdd: 'widest',
  indexPut: 'widest',

  trace: 'input',
  adaptiveAvgPool2d: 'input',

  binaryCrossEntropy: 'refused',
} as const satisfies Record<string, Policy>;

/** The operations that `policy` has a row for. */
export type AutocastOp = keyof typeof policy;

/** The row of an operation, if it has one. */
export function policyOf(op: string): Policy | null {
  return Object.hasOwn(policy, op) ? policy[op as AutocastOp] : null;
}
