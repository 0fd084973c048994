// Launching kernels, and what can be asked about them.
#include <cstring>
#include <new>
#include <unordered_map>

#include "block.h"
#include "device.h"
#include "runtime.h"

using namespace sg::emulation;

namespace {

constexpr size_t kSharedByDefault = 48 << 10;
std::unordered_map<const void*, size_t> shared_limits;  // by cudaFuncSetAttribute

size_t shared_limit(const void* kernel) {
  const auto found = shared_limits.find(kernel);
  return found == shared_limits.end() ? kSharedByDefault : found->second;
}

std::shared_ptr<void> copy_of(const void* arguments, size_t bytes, size_t alignment) {
  const std::align_val_t align{alignment};
  void* const p = ::operator new(bytes, align);
  memcpy(p, arguments, bytes);
  return {p, [align](void* q) { ::operator delete(q, align); }};
}

}  // namespace

namespace sg::emulation {

cudaError_t enqueue_kernel(const void* kernel, dim3 grid, dim3 block_size, size_t shared_bytes, cudaStream_t handle,
                           Invoke invoke, const void* arguments, size_t bytes, size_t alignment) {
  const Lock lock(runtime_mutex);
  const uint64_t threads = uint64_t(block_size.x) * block_size.y * block_size.z;
  if (threads == 0 || threads > uint64_t(kMaxThreads) || block_size.z > 64 || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
    return result(cudaErrorInvalidConfiguration);
  if (shared_bytes > shared_limit(kernel)) return result(cudaErrorInvalidValue);
  CUstream_st* const stream = find_stream(handle);
  if (stream && stream->device != chosen_device()) return result(cudaErrorInvalidResourceHandle);
  const Launch launch{kernel, grid, block_size, shared_bytes, invoke, copy_of(arguments, bytes, alignment), bytes};
  Operation operation;
  operation.run = [launch] { run_kernel(launch); };
  return result(enqueue(stream, std::move(operation)));
}

}  // namespace sg::emulation

SG_CUDART cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Lock lock(runtime_mutex);
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      if (value < 0 || size_t(value) > options().shared_bytes) return result(cudaErrorInvalidValue);
      shared_limits[kernel] = size_t(value);
      return fault_or();
    case cudaFuncAttributePreferredSharedMemoryCarveout: return fault_or();
    default: return result(cudaErrorInvalidValue);
  }
}
// Registers and static shared memory are not known here; the figures are those of a plain kernel.
SG_CUDART cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  const Lock lock(runtime_mutex);
  *attributes = {};
  attributes->maxThreadsPerBlock = kMaxThreads;
  attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = 90;
  attributes->maxDynamicSharedSizeBytes = int(shared_limit(kernel));
  return fault_or();
}
SG_CUDART cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads,
                                                                    size_t shared_bytes) {
  if (threads < 1 || threads > kMaxThreads) return result(cudaErrorInvalidValue);
  const int by_threads = 2048 / ((threads + 31) / 32 * 32);
  const int by_memory = int((options().shared_bytes + 1024) / (shared_bytes + 1024));
  *blocks = std::min({32, by_threads, by_memory});
  return fault_or();
}
SG_CUDART cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* kernel,
                                                                             int threads, size_t shared_bytes,
                                                                             unsigned) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, threads, shared_bytes);
}
