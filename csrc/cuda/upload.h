// Small tables that the host makes for kernels.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

namespace sg::gpu {

// Writes `bytes`, a multiple of 8, to device memory when the stream gets there. They travel as parameters of kernels:
// the host's copy is free as soon as this returns, and a graph that captures it has them for good.
void upload(void* to, const void* from, size_t bytes, cudaStream_t stream);

}  // namespace sg::gpu
