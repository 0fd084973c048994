// Operations that the CUDA backend does not have yet; weak, so that one that is written replaces its line here.
#include "cuda_device.h"

namespace sg {

#define SG_MISSING(name, ...) \
  __attribute__((weak)) void CudaDevice::name(__VA_ARGS__) { fail(ErrorCode::Device, #name, ": not available on cuda yet"); }
SG_MISSING(gather, In, In, Out, double)
SG_MISSING(scatter, Out, In, In, double)
SG_MISSING(scatterAdd, Out, In, In, double)
SG_MISSING(indexSelect, In, In, Out, double)
SG_MISSING(indexAdd, Out, In, In, double)
SG_MISSING(index, In, Out, double, Ins)
SG_MISSING(indexPut, Out, In, double, double, Ins)
SG_MISSING(nonzero, In, Out)
SG_MISSING(embedding, In, In, Out)
SG_MISSING(embeddingBackward, In, In, Out, double)
SG_MISSING(oneHot, In, Out)
SG_MISSING(sort, In, Out, Out, double)
SG_MISSING(topk, In, Out, Out, double)
SG_MISSING(cumsum, In, Out, double)
SG_MISSING(cumprod, In, Out)
SG_MISSING(multinomial, In, Out, double, double, double, double, double)
SG_MISSING(softmax, In, Out)
SG_MISSING(softmaxBackward, In, In, Out)
SG_MISSING(logSoftmax, In, Out)
SG_MISSING(logSoftmaxBackward, In, In, Out)
SG_MISSING(logsumexp, In, Out)
SG_MISSING(crossEntropy, In, In, MaybeIn, Out, Out, Out, double, double)
SG_MISSING(crossEntropyBackward, In, In, In, MaybeIn, In, Out, double, double)
SG_MISSING(sgdStep, In, double, Rest, Ins)
SG_MISSING(adamStep, In, double, Rest, Ins)
SG_MISSING(adagradStep, In, double, Rest, Ins)
SG_MISSING(rmspropStep, In, double, Rest, Ins)
SG_MISSING(lambStep, In, double, Rest, Ins)
SG_MISSING(lionStep, In, double, Rest, Ins)
SG_MISSING(globalNorm, Out, double, Ins)
SG_MISSING(scaleMany, In, Ins)
SG_MISSING(clampMany, double, double, Ins)
#undef SG_MISSING

}  // namespace sg
