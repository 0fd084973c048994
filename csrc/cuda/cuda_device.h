// The CUDA backend: the operations of Device as kernels, launched on the stream whose command runs. The families have
// the files of the CPU backend's names. What the data alone can show goes into the stream's fault record
// (device_fault.h).
#pragma once
#include "../core/device.h"

namespace sg {

inline constexpr int kMaxGpus = 64;

class CudaDevice final : public Device {
 public:
  // tables
  void pointwise(PointwiseOp op, Ins inputs, Out y, DType compute) override;
  void reduce(ReduceOp op, In x, Out y, double dims) override;
  // copy.cu
  void copy(In x, Out y) override;
  void fill(Out y, double value) override;
  void arange(Out y, double start, double step) override;
  void cat(Out y, double dim, Ins xs) override;
  void triangle(In x, Out y, double diagonal, double upper) override;
  // random.cu
  void uniform(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) override;
  void normal(Out y, double mean, double std, double seed0, double seed1, double stream0, double stream1) override;
  void randint(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) override;
  void dropout(In x, Out y, double p, double seed0, double seed1, double stream0, double stream1, Rest layout) override;
  // index.cu
  void gather(In x, In index, Out y, double dim) override;
  void scatter(Out y, In index, In src, double dim) override;
  void scatterAdd(Out y, In index, In src, double dim) override;
  void indexSelect(In x, In index, Out y, double dim) override;
  void indexAdd(Out y, In index, In src, double dim) override;
  void index(In x, Out y, double first, Ins indices) override;
  void indexPut(Out y, In values, double first, double accumulate, Ins indices) override;
  void nonzero(In x, Out indices) override;
  void embedding(In weight, In index, Out y) override;
  void embeddingBackward(In dy, In index, Out dweight, double paddingIndex) override;
  void oneHot(In index, Out y) override;
  // sort.cu
  void sort(In x, Out values, Out indices, double descending) override;
  void topk(In x, Out values, Out indices, double largest) override;
  void cumsum(In x, Out y, double reverse) override;
  void cumprod(In x, Out y) override;
  void multinomial(In probabilities, Out indices, double replacement, double seed0, double seed1, double stream0,
                   double stream1) override;
  // softmax.cu
  void softmax(In x, Out y) override;
  void softmaxBackward(In dy, In y, Out dx) override;
  void logSoftmax(In x, Out y) override;
  void logSoftmaxBackward(In dy, In y, Out dx) override;
  void logsumexp(In x, Out y) override;
  // norm.cu
  void layerNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double eps) override;
  void layerNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                         MaybeOut dbias) override;
  void rmsNorm(In x, MaybeIn weight, Out y, Out rstd, double eps) override;
  void rmsNormBackward(In dy, In x, MaybeIn weight, In rstd, Out dx, MaybeOut dweight) override;
  void groupNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double groups, double eps) override;
  void groupNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight, MaybeOut dbias,
                         double groups) override;
  void batchNorm(In x, MaybeIn weight, MaybeIn bias, MaybeIn runningMean, MaybeIn runningVar, Out y, Out mean, Out rstd,
                 double training, double momentum, double eps) override;
  void batchNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight, MaybeOut dbias,
                         double training) override;
  // loss.cu
  void crossEntropy(In logits, In targets, MaybeIn weight, Out rowLoss, Out lse, Out totals, double ignoreIndex,
                    double smoothing) override;
  void crossEntropyBackward(In scale, In logits, In targets, MaybeIn weight, In lse, Out dlogits, double ignoreIndex,
                            double smoothing) override;
  // attention.cu
  void attention(In q, In k, In v, MaybeIn mask, Out out, Out lse, double causal, double scale) override;
  void attentionBackward(In dout, In q, In k, In v, MaybeIn mask, In out, In lse, Out dq, Out dk, Out dv, double causal,
                         double scale) override;
  void rotaryEmbedding(In x, In cos, In sin, Out y, double interleaved, double inverse) override;
  // matmul.cu
  void matmul(In a, In b, MaybeIn bias, MaybeIn extra, Out c, MaybeOut pre, MaybeOut columnSums,
              double epilogue) override;
  // conv.cu
  void conv2d(In x, In w, MaybeIn bias, Out y, Rest geometry) override;
  void conv2dBackwardInput(In dy, In w, Out dx, Rest geometry) override;
  void conv2dBackwardWeight(In dy, In x, Out dw, MaybeOut dbias, Rest geometry) override;
  void maxPool2d(In x, Out y, Out indices, Rest geometry) override;
  void maxPool2dBackward(In dy, In indices, Out dx) override;
  void avgPool2d(In x, Out y, Rest geometry) override;
  void avgPool2dBackward(In dy, Out dx, Rest geometry) override;
  // optim.cu
  void sgdStep(In step, double lists, Rest options, Ins tensors) override;
  void adamStep(In step, double lists, Rest options, Ins tensors) override;
  void adagradStep(In step, double lists, Rest options, Ins tensors) override;
  void rmspropStep(In step, double lists, Rest options, Ins tensors) override;
  void lambStep(In step, double lists, Rest options, Ins tensors) override;
  void lionStep(In step, double lists, Rest options, Ins tensors) override;
  void globalNorm(Out norm, double order, Ins tensors) override;
  void scaleMany(In factor, Ins tensors) override;
  void clampMany(double low, double high, Ins tensors) override;
};

// Writes the seconds of the GPU's clock (clock.cu).
void write_clock(double* to);

}  // namespace sg
