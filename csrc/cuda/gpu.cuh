// The one prelude of every .cu: what kernels are written with beyond plain CUDA C++. The same source is compiled by
// nvcc for a GPU and, with SG_CUDA_EMULATION, by a C++ compiler for the emulator in emulation/. Therefore all PTX, all
// shared memory and all launches go through this file: `<<<>>>`, `__shared__` and `asm` elsewhere break the second
// build.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../core/error.h"
#include "../core/half.h"

#ifdef SG_CUDA_EMULATION
#include "emulation/device.h"
#include "emulation/ptx.h"
#else
#include <cuda_runtime.h>
#include "ptx.cuh"

#define SG_DEVICE __device__ __forceinline__
// SG_SHARED(float, tile, [32][33]); declares an array of the block, SG_DYNAMIC_SHARED(float, memory); a pointer to what
// the launch asked for.
#define SG_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
#define SG_DYNAMIC_SHARED(T, name)                                    \
  extern __shared__ __align__(128) unsigned char sg_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(sg_dynamic_shared)

namespace sg::gpu {
template <class... Parameters>
cudaError_t start_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                         std::type_identity_t<Parameters>... arguments) {
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  // clang-format on
  return cudaGetLastError();
}
}  // namespace sg::gpu
#endif

namespace sg::gpu {

inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr int kWarpSize = 32;
inline constexpr size_t kSharedWithoutAsking = 48 << 10;

// As `launch`, for callers that look at the result themselves.
template <class... Parameters>
cudaError_t try_launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                       std::type_identity_t<Parameters>... arguments) {
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "a kernel's parameters are copied byte by byte");
  if (shared_bytes > kSharedWithoutAsking) {
    const cudaError_t allowed = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                     cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (allowed != cudaSuccess) return allowed;
  }
  return start_kernel(kernel, grid, block, shared_bytes, stream, arguments...);
}

// The only way to start a kernel. The arguments are converted to the kernel's parameters; more than 48 KiB of shared
// memory is asked for by itself. Throws what the launch itself reports; faults of the kernel come with a later wait.
template <class... Parameters>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            std::type_identity_t<Parameters>... arguments) {
  const cudaError_t error = try_launch(kernel, grid, block, shared_bytes, stream, arguments...);
  if (error == cudaSuccess) return;
  fail(ErrorCode::Internal, "gpu::launch: ", cudaGetErrorString(error), " (grid ", grid.x, "x", grid.y, "x", grid.z,
       ", block ", block.x, "x", block.y, "x", block.z, ", ", shared_bytes, " bytes of shared memory)");
}

}  // namespace sg::gpu
