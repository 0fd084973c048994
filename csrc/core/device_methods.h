// The operations every backend has, each with what it means: SG_METHOD(name, (parameters)). device.h makes them the
// pure virtual methods of Device, and a backend that includes this file declares its own of all of them. No include
// guard.
//
// Parameter order is the order in the block: tensors (inputs, then outputs), then numbers.
// "float kinds" = float32, float64, float16, bfloat16; sums are accumulated in float32 or wider.

// ---- tables
// inputs are broadcast to y's shape by zero strides; `compute` is the dtype of the arithmetic (float32, float64,
// int64)
SG_METHOD(pointwise, (PointwiseOp op, Ins inputs, Out y, DType compute))
// y has x's shape with 1 in every reduced dimension; bit i of `dims` marks dimension i as reduced
SG_METHOD(reduce, (ReduceOp op, In x, Out y, double dims))

// ---- copy.cc
SG_METHOD(copy, (In x, Out y))  // any dtypes, any strides (x may have zero or negative ones)
SG_METHOD(fill, (Out y, double value))
SG_METHOD(arange, (Out y, double start, double step))  // y[i] = start + i * step, in double (int64: exact below 2^53)
SG_METHOD(cat, (Out y, double dim, Ins xs))            // dtypes equal y's
SG_METHOD(triangle, (In x, Out y, double diagonal, double upper))  // tril / triu of the last two dimensions

// ---- random.cc; key = seedLow, seedHigh, streamLow, streamHigh
SG_METHOD(uniform, (Out y, double low, double high, double seed0, double seed1, double stream0, double stream1))
SG_METHOD(normal, (Out y, double mean, double std, double seed0, double seed1, double stream0, double stream1))
SG_METHOD(randint, (Out y, double low, double high, double seed0, double seed1, double stream0, double stream1))
// y = x / (1 - p) where kept, else 0. The counter of an element is base + sum(i_d * strides[d]) in the global tensor;
// layout = base, strides... (one per dimension). Backward is the same call on dy.
SG_METHOD(dropout, (In x, Out y, double p, double seed0, double seed1, double stream0, double stream1, Rest layout))

// ---- index.cc; indices int32 or int64, negative ones count from the end; out of range throws, naming value and
// position
SG_METHOD(gather, (In x, In index, Out y, double dim))
SG_METHOD(scatter, (Out y, In index, In src, double dim))     // y[..index..] = src, in place on y
SG_METHOD(scatterAdd, (Out y, In index, In src, double dim))  // deterministic
SG_METHOD(indexSelect, (In x, In index, Out y, double dim))   // index is 1-d
SG_METHOD(indexAdd, (Out y, In index, In src, double dim))    // y[.., index[i], ..] += src[.., i, ..]; deterministic
// indices (same shape I) replace the dimensions [first, first + count) of x: y = x.shape[:first] + I +
// x.shape[first+count:]
SG_METHOD(index, (In x, Out y, double first, Ins indices))
SG_METHOD(indexPut, (Out y, In values, double first, double accumulate, Ins indices))  // in place on y
SG_METHOD(nonzero, (In x, Out indices))             // [count, ndim] int64, count known to the caller
SG_METHOD(embedding, (In weight, In index, Out y))  // y = weight[index]
SG_METHOD(embeddingBackward,
          (In dy, In index, Out dweight, double paddingIndex))  // sums in float32, writes all of dweight
SG_METHOD(oneHot, (In index, Out y))

// ---- sort.cc, along the last dimension
SG_METHOD(sort, (In x, Out values, Out indices, double descending))  // stable; NaN is largest
SG_METHOD(topk, (In x, Out values, Out indices, double largest))     // k = values.size(-1); sorted
SG_METHOD(cumsum, (In x, Out y, double reverse))
SG_METHOD(cumprod, (In x, Out y))
SG_METHOD(multinomial, (In probabilities, Out indices, double replacement, double seed0, double seed1, double stream0,
                        double stream1))

// ---- softmax.cc, along the last dimension
SG_METHOD(softmax, (In x, Out y))
SG_METHOD(softmaxBackward, (In dy, In y, Out dx))
SG_METHOD(logSoftmax, (In x, Out y))
SG_METHOD(logSoftmaxBackward, (In dy, In y, Out dx))
SG_METHOD(logsumexp, (In x, Out y))  // y drops the last dimension

// ---- norm.cc; x is [.., C] (layer, rms) or [N, C, ...] (group, batch). mean and rstd are float32 (float64 for
// float64)
SG_METHOD(layerNorm, (In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double eps))
SG_METHOD(layerNormBackward, (In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight, MaybeOut dbias))
SG_METHOD(rmsNorm, (In x, MaybeIn weight, Out y, Out rstd, double eps))
SG_METHOD(rmsNormBackward, (In dy, In x, MaybeIn weight, In rstd, Out dx, MaybeOut dweight))
SG_METHOD(groupNorm, (In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double groups,
                      double eps))  // mean, rstd [N, groups]
SG_METHOD(groupNormBackward,
          (In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight, MaybeOut dbias, double groups))
// training: mean, rstd (over N and space) are computed, and the running statistics updated in place (unbiased
// variance); otherwise the running statistics are used and mean, rstd are filled from them
SG_METHOD(batchNorm, (In x, MaybeIn weight, MaybeIn bias, MaybeIn runningMean, MaybeIn runningVar, Out y, Out mean,
                      Out rstd, double training, double momentum, double eps))
SG_METHOD(batchNormBackward,
          (In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight, MaybeOut dbias, double training))

// ---- loss.cc; logits [M, V] float kinds, targets [M] class indices
// rowLoss [M], lse [M] and totals [2] (sum of weighted losses, sum of weights of valid rows) are float32 (float64 for
// float64). Rows whose target is ignoreIndex lose 0. smoothing as in PyTorch. Probabilities are never materialised.
// dlogits = d(sum of losses)/d(logits), made while a row is at hand; it may be the logits themselves. firstRow: what
// errors call the first row, where these are a part of more.
SG_METHOD(crossEntropy, (In logits, In targets, MaybeIn weight, Out rowLoss, Out lse, Out totals, MaybeOut dlogits,
                         double ignoreIndex, double smoothing, double firstRow))
// dlogits = scale * d(loss)/d(logits); scale is one element, or [M] for reduction 'none'. dlogits may be the logits
// themselves.
SG_METHOD(crossEntropyBackward,
          (In scale, In logits, In targets, MaybeIn weight, In lse, Out dlogits, double ignoreIndex, double smoothing))

// ---- attention.cc; q, out [B, H, Tq, D], k, v [B, Hkv, Tk, D], any strides with D contiguous; H a multiple of Hkv
// mask: additive (float kind) or boolean (true = attend), broadcast to [B, H, Tq, Tk]. causal aligns the last query
// with the last key. lse [B, H, Tq] float32 is the natural log-sum-exp of the scaled scores; fully masked rows give 0
// and -inf.
SG_METHOD(attention, (In q, In k, In v, MaybeIn mask, Out out, Out lse, double causal, double scale))
SG_METHOD(attentionBackward, (In dout, In q, In k, In v, MaybeIn mask, In out, In lse, Out dq, Out dk, Out dv,
                              double causal, double scale))
// x [B, T, H, D]; cos, sin [T, D/2] float32; interleaved: pairs (2i, 2i+1), else (i, i + D/2). inverse: the backward
// pass
SG_METHOD(rotaryEmbedding, (In x, In cos, In sin, Out y, double interleaved, double inverse))

// ---- matmul.cc; a [.., M, K], b [.., K, N] with equal batch dimensions (broadcast by zero strides), c [.., M, N];
// any strides Products are accumulated in float32 (float64 for float64) and rounded once, on the store of c (any
// float kind). bias [N] is added before the epilogue. columnSums [M] += nothing: it receives the sums over K of a's
// rows as [M] (a = dY^T gives the bias gradient while dY is packed). `extra` and `pre` have c's shape.
SG_METHOD(matmul, (In a, In b, MaybeIn bias, MaybeIn extra, Out c, MaybeOut pre, MaybeOut columnSums, double epilogue))

// ---- conv.cc; x [N, C, H, W], w [O, C/groups, KH, KW]; geometry = strideH, strideW, padH, padW, dilationH,
// dilationW, groups
SG_METHOD(conv2d, (In x, In w, MaybeIn bias, Out y, Rest geometry))
SG_METHOD(conv2dBackwardInput, (In dy, In w, Out dx, Rest geometry))
SG_METHOD(conv2dBackwardWeight, (In dy, In x, Out dw, MaybeOut dbias, Rest geometry))
// geometry = kernelH, kernelW, strideH, strideW, padH, padW; indices int64 into the H*W plane
SG_METHOD(maxPool2d, (In x, Out y, Out indices, Rest geometry))
SG_METHOD(maxPool2dBackward, (In dy, In indices, Out dx))
SG_METHOD(avgPool2d, (In x, Out y, Rest geometry))  // geometry also: countIncludePad
SG_METHOD(avgPool2dBackward, (In dy, Out dx, Rest geometry))

// ---- optim.cc; one call a step. `step` is the optimizer's device buffer (layout: csrc/ops/optim.h). tensors holds
// `lists` lists of equal length one after another (parameters, gradients, states..., masters last when present) and
// is updated in place. Parameters may be 16-bit with float32 masters and states.
SG_METHOD(sgdStep, (In step, double lists, Rest options, Ins tensors))
SG_METHOD(adamStep, (In step, double lists, Rest options, Ins tensors))
SG_METHOD(adagradStep, (In step, double lists, Rest options, Ins tensors))
SG_METHOD(rmspropStep, (In step, double lists, Rest options, Ins tensors))
SG_METHOD(lambStep, (In step, double lists, Rest options, Ins tensors))
SG_METHOD(lionStep, (In step, double lists, Rest options, Ins tensors))
// The part of a step that looks at all gradients, in one pass: found-inf, the loss scale (absent: 1) and the clip
// factor go to `step`, the norm of the gradients divided by the scale to `norm` (float32); maxNorm may be infinity.
SG_METHOD(prepareStep, (In step, MaybeIn scale, Out norm, double maxNorm, Ins gradients))
// in place: divides by the scale (absent: only looks); `found` becomes 1 if an element is not finite
SG_METHOD(unscaleMany, (MaybeIn scale, Out found, Ins gradients))
// what a loss scale (csrc/ops/loss_scale.h) becomes after a step; `scale` is its float32 copy
SG_METHOD(updateScale, (Out state, Out scale, double growthFactor, double backoffFactor, double growthInterval,
                        double minScale, Ins found))
// norm: one float32 element; order 2, 1, or infinity
SG_METHOD(globalNorm, (Out norm, double order, Ins tensors))
SG_METHOD(scaleMany, (In factor, Ins tensors))                // in place; factor is one float32 element
SG_METHOD(clampMany, (double low, double high, Ins tensors))  // in place
