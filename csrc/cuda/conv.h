// The direct kernels of depthwise convolutions: every channel has a few filters of its own, too thin for a product of
// matrices. T is float, double, bfloat16 or float16 (conv_depthwise.cu).
#pragma once
#include <cuda_runtime_api.h>

#include "../ops/conv.h"

namespace sg::gpu {

template <class T>
void depthwise_forward(const Conv& s, In x, In w, MaybeIn bias, Out y, cudaStream_t stream);
template <class T>
void depthwise_backward_input(const Conv& s, In dy, In w, Out dx, cudaStream_t stream);
template <class T>
void depthwise_backward_weight(const Conv& s, In dy, In x, Out dw, cudaStream_t stream);

}  // namespace sg::gpu
