// Turns what CUDA's runtime returns into our errors.
#pragma once
#include <cuda_runtime_api.h>

#include "../core/error.h"

namespace sg {

// "copy_in: an illegal memory access was encountered (cudaErrorIllegalAddress)"
[[noreturn]] inline void fail_cuda(cudaError_t error, const char* what) {
  const ErrorCode code = error == cudaErrorMemoryAllocation ? ErrorCode::OutOfMemory : ErrorCode::Device;
  fail(code, what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // ours to report, not of whoever calls next
  fail_cuda(error, what);
}

}  // namespace sg
