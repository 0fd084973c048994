#pragma once
#include <cuda_runtime_api.h>

namespace sg {

// Whether this binary has kernels for the thread's GPU, or ones that its driver can translate for it (clock.cu).
cudaError_t look_for_kernels();

}  // namespace sg
