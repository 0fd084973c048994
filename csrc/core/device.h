// Device: one backend. The operations are pure virtual, so a backend that forgets one does not compile. They run in
// stream order: on the CPU on the stream's worker thread, on a GPU they enqueue kernels. Every view is checked; outputs
// are allocated by the Node-API layer. Shapes, dtypes and broadcasting were decided in TypeScript and are not
// re-checked here; what only the data can show (an index out of range) is thrown as an Error and raised at the next
// host wait.
//
// Parameter order is the order in the block: tensors (inputs, then outputs), then numbers.
// "float kinds" = float32, float64, float16, bfloat16; sums are accumulated in float32 or wider.
#pragma once
#include "view.h"

namespace sg {

enum class PointwiseOp : int;  // csrc/ops/pointwise.h
enum class ReduceOp : int;     // csrc/ops/reduce.h

// What a matmul does to its result before the one store of it. Values cross the boundary.
enum class Epilogue : int {
  kNone = 0,
  kGelu = 1,          // c = gelu_tanh(x), and `pre` = x
  kResidual = 2,      // c = x + extra
  kGeluBackward = 3,  // c = x * gelu_tanh'(extra)
  kAccumulate = 4,    // c = c + x
};

class Device {
 public:
  virtual ~Device() = default;

  // ---- tables
  // inputs are broadcast to y's shape by zero strides; `compute` is the dtype of the arithmetic (float32, float64,
  // int64)
  virtual void pointwise(PointwiseOp op, Ins inputs, Out y, DType compute) = 0;
  // y has x's shape with 1 in every reduced dimension; bit i of `dims` marks dimension i as reduced
  virtual void reduce(ReduceOp op, In x, Out y, double dims) = 0;

  // ---- copy.cc
  virtual void copy(In x, Out y) = 0;  // any dtypes, any strides (x may have zero or negative ones)
  virtual void fill(Out y, double value) = 0;
  virtual void arange(Out y, double start,
                      double step) = 0;             // y[i] = start + i * step, in double (int64: exact below 2^53)
  virtual void cat(Out y, double dim, Ins xs) = 0;  // dtypes equal y's
  virtual void triangle(In x, Out y, double diagonal, double upper) = 0;  // tril / triu of the last two dimensions

  // ---- random.cc; key = seedLow, seedHigh, streamLow, streamHigh
  virtual void uniform(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) = 0;
  virtual void normal(Out y, double mean, double std, double seed0, double seed1, double stream0, double stream1) = 0;
  virtual void randint(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) = 0;
  // y = x / (1 - p) where kept, else 0. The counter of an element is base + sum(i_d * strides[d]) in the global tensor;
  // layout = base, strides... (one per dimension). Backward is the same call on dy.
  virtual void dropout(In x, Out y, double p, double seed0, double seed1, double stream0, double stream1,
                       Rest layout) = 0;

  // ---- index.cc; indices int32 or int64, negative ones count from the end; out of range throws, naming value and
  // position
  virtual void gather(In x, In index, Out y, double dim) = 0;
  virtual void scatter(Out y, In index, In src, double dim) = 0;     // y[..index..] = src, in place on y
  virtual void scatterAdd(Out y, In index, In src, double dim) = 0;  // deterministic
  virtual void indexSelect(In x, In index, Out y, double dim) = 0;   // index is 1-d
  virtual void indexAdd(Out y, In index, In src,
                        double dim) = 0;  // y[.., index[i], ..] += src[.., i, ..]; deterministic
  // indices (same shape I) replace the dimensions [first, first + count) of x: y = x.shape[:first] + I +
  // x.shape[first+count:]
  virtual void index(In x, Out y, double first, Ins indices) = 0;
  virtual void indexPut(Out y, In values, double first, double accumulate, Ins indices) = 0;  // in place on y
  virtual void nonzero(In x, Out indices) = 0;             // [count, ndim] int64, count known to the caller
  virtual void embedding(In weight, In index, Out y) = 0;  // y = weight[index]
  virtual void embeddingBackward(In dy, In index, Out dweight,
                                 double paddingIndex) = 0;  // sums in float32, writes all of dweight
  virtual void oneHot(In index, Out y) = 0;

  // ---- sort.cc, along the last dimension
  virtual void sort(In x, Out values, Out indices, double descending) = 0;  // stable; NaN is largest
  virtual void topk(In x, Out values, Out indices, double largest) = 0;     // k = values.size(-1); sorted
  virtual void cumsum(In x, Out y, double reverse) = 0;
  virtual void cumprod(In x, Out y) = 0;
  virtual void multinomial(In probabilities, Out indices, double replacement, double seed0, double seed1,
                           double stream0, double stream1) = 0;

  // ---- softmax.cc, along the last dimension
  virtual void softmax(In x, Out y) = 0;
  virtual void softmaxBackward(In dy, In y, Out dx) = 0;
  virtual void logSoftmax(In x, Out y) = 0;
  virtual void logSoftmaxBackward(In dy, In y, Out dx) = 0;
  virtual void logsumexp(In x, Out y) = 0;  // y drops the last dimension

  // ---- norm.cc; x is [.., C] (layer, rms) or [N, C, ...] (group, batch). mean and rstd are float32 (float64 for
  // float64)
  virtual void layerNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double eps) = 0;
  virtual void layerNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                 MaybeOut dbias) = 0;
  virtual void rmsNorm(In x, MaybeIn weight, Out y, Out rstd, double eps) = 0;
  virtual void rmsNormBackward(In dy, In x, MaybeIn weight, In rstd, Out dx, MaybeOut dweight) = 0;
  virtual void groupNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double groups,
                         double eps) = 0;  // mean, rstd [N, groups]
  virtual void groupNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                 MaybeOut dbias, double groups) = 0;
  // training: mean, rstd (over N and space) are computed, and the running statistics updated in place (unbiased
  // variance); otherwise the running statistics are used and mean, rstd are filled from them
  virtual void batchNorm(In x, MaybeIn weight, MaybeIn bias, MaybeIn runningMean, MaybeIn runningVar, Out y, Out mean,
                         Out rstd, double training, double momentum, double eps) = 0;
  virtual void batchNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                 MaybeOut dbias, double training) = 0;

  // ---- loss.cc; logits [M, V] float kinds, targets [M] class indices
  // rowLoss [M], lse [M] and totals [2] (sum of weighted losses, sum of weights of valid rows) are float32 (float64 for
  // float64). Rows whose target is ignoreIndex lose 0. smoothing as in PyTorch. Probabilities are never materialised.
  virtual void crossEntropy(In logits, In targets, MaybeIn weight, Out rowLoss, Out lse, Out totals, double ignoreIndex,
                            double smoothing) = 0;
  // dlogits = scale * d(loss)/d(logits); scale is one element, or [M] for reduction 'none'. dlogits may be the logits
  // themselves.
  virtual void crossEntropyBackward(In scale, In logits, In targets, MaybeIn weight, In lse, Out dlogits,
                                    double ignoreIndex, double smoothing) = 0;

  // ---- attention.cc; q, out [B, H, Tq, D], k, v [B, Hkv, Tk, D], any strides with D contiguous; H a multiple of Hkv
  // mask: additive (float kind) or boolean (true = attend), broadcast to [B, H, Tq, Tk]. causal aligns the last query
  // with the last key. lse [B, H, Tq] float32 is the natural log-sum-exp of the scaled scores; fully masked rows give 0
  // and -inf.
  virtual void attention(In q, In k, In v, MaybeIn mask, Out out, Out lse, double causal, double scale) = 0;
  virtual void attentionBackward(In dout, In q, In k, In v, MaybeIn mask, In out, In lse, Out dq, Out dk, Out dv,
                                 double causal, double scale) = 0;
  // x [B, T, H, D]; cos, sin [T, D/2] float32; interleaved: pairs (2i, 2i+1), else (i, i + D/2). inverse: the backward
  // pass
  virtual void rotaryEmbedding(In x, In cos, In sin, Out y, double interleaved, double inverse) = 0;

  // ---- matmul.cc; a [.., M, K], b [.., K, N] with equal batch dimensions (broadcast by zero strides), c [.., M, N];
  // any strides Products are accumulated in float32 (float64 for float64) and rounded once, on the store of c (any
  // float kind). bias [N] is added before the epilogue. columnSums [M] += nothing: it receives the sums over K of a's
  // rows as [M] (a = dY^T gives the bias gradient while dY is packed). `extra` and `pre` have c's shape.
  virtual void matmul(In a, In b, MaybeIn bias, MaybeIn extra, Out c, MaybeOut pre, MaybeOut columnSums,
                      double epilogue) = 0;

  // ---- conv.cc; x [N, C, H, W], w [O, C/groups, KH, KW]; geometry = strideH, strideW, padH, padW, dilationH,
  // dilationW, groups
  virtual void conv2d(In x, In w, MaybeIn bias, Out y, Rest geometry) = 0;
  virtual void conv2dBackwardInput(In dy, In w, Out dx, Rest geometry) = 0;
  virtual void conv2dBackwardWeight(In dy, In x, Out dw, MaybeOut dbias, Rest geometry) = 0;
  // geometry = kernelH, kernelW, strideH, strideW, padH, padW; indices int64 into the H*W plane
  virtual void maxPool2d(In x, Out y, Out indices, Rest geometry) = 0;
  virtual void maxPool2dBackward(In dy, In indices, Out dx) = 0;
  virtual void avgPool2d(In x, Out y, Rest geometry) = 0;  // geometry also: countIncludePad
  virtual void avgPool2dBackward(In dy, Out dx, Rest geometry) = 0;

  // ---- optim.cc; one call a step. `step` is the optimizer's device buffer (layout: csrc/ops/optim.h). tensors holds
  // `lists` lists of equal length one after another (parameters, gradients, states..., masters last when present) and
  // is updated in place. Parameters may be 16-bit with float32 masters and states.
  virtual void sgdStep(In step, double lists, Rest options, Ins tensors) = 0;
  virtual void adamStep(In step, double lists, Rest options, Ins tensors) = 0;
  virtual void adagradStep(In step, double lists, Rest options, Ins tensors) = 0;
  virtual void rmspropStep(In step, double lists, Rest options, Ins tensors) = 0;
  virtual void lambStep(In step, double lists, Rest options, Ins tensors) = 0;
  virtual void lionStep(In step, double lists, Rest options, Ins tensors) = 0;
  // norm: one float32 element; order 2, 1, or infinity
  virtual void globalNorm(Out norm, double order, Ins tensors) = 0;
  virtual void scaleMany(In factor, Ins tensors) = 0;                // in place; factor is one float32 element
  virtual void clampMany(double low, double high, Ins tensors) = 0;  // in place
};

}  // namespace sg
