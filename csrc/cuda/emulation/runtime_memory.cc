// Allocation and registration of memory.
#include "runtime.h"
#include "report.h"

using namespace sg::emulation;

namespace {

cudaError_t allocate_here(void** out, size_t bytes) {
  if (!out) return cudaErrorInvalidValue;
  *out = nullptr;
  if (const cudaError_t fault = device_fault(chosen_device())) return fault;
  return bytes ? allocate(chosen_device(), bytes, out) : cudaSuccess;
}

cudaError_t allocate_host(void** out, size_t bytes) {
  const Lock lock(runtime_mutex);
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  *out = nullptr;
  return result(bytes ? allocate(kHostArena, bytes, out) : cudaSuccess);
}

}  // namespace

SG_CUDART cudaError_t cudaMalloc(void** out, size_t bytes) {
  const Lock lock(runtime_mutex);
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  return result(allocate_here(out, bytes));
}

// Waits for the device first, as CUDA's does in effect.
SG_CUDART cudaError_t cudaFree(void* p) {
  const Lock lock(runtime_mutex);
  if (!p) return fault_or();
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  const int device = arena_of(p);
  if (device == kNoArena || device == kHostArena) return result(cudaErrorInvalidValue);
  finish_device(device);
  return release(device, p) ? fault_or() : result(cudaErrorInvalidValue);
}

// Memory of the device's pool. It is there at once; only that it comes back follows the stream's order.
SG_CUDART cudaError_t cudaMallocAsync(void** out, size_t bytes, cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  if (stream->capture) {  // allocation nodes of graphs are not modelled
    invalidate(stream->capture);
    return result(cudaErrorNotSupported);
  }
  return result(allocate_here(out, bytes));
}
SG_CUDART cudaError_t cudaFreeAsync(void* p, cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  if (!p) return fault_or();
  if (bytes_from(p) == 0) return result(cudaErrorInvalidValue);
  Operation operation;
  operation.run = [p] {
    if (!release(arena_of(p), p)) report("cudaFreeAsync: %p is not the start of an allocation", p);
  };
  return result(enqueue(find_stream(handle), std::move(operation)));
}

SG_CUDART cudaError_t cudaMallocHost(void** out, size_t bytes) { return allocate_host(out, bytes); }
SG_CUDART cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) { return allocate_host(out, bytes); }
SG_CUDART cudaError_t cudaFreeHost(void* p) {
  const Lock lock(runtime_mutex);
  if (!p) return cudaSuccess;
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  for (int device = 0; device < options().devices; device++) finish_device(device);
  return result(arena_of(p) == kHostArena && release(kHostArena, p) ? cudaSuccess : cudaErrorInvalidValue);
}
SG_CUDART cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
  const Lock lock(runtime_mutex);
  if (!p || !bytes) return result(cudaErrorInvalidValue);
  return result(register_host(p, bytes) ? cudaSuccess : cudaErrorHostMemoryAlreadyRegistered);
}
SG_CUDART cudaError_t cudaHostUnregister(void* p) {
  const Lock lock(runtime_mutex);
  for (int device = 0; device < options().devices; device++) finish_device(device);
  return result(unregister_host(p) ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
}
SG_CUDART cudaError_t cudaHostGetDevicePointer(void** out, void* p, unsigned) {
  const Lock lock(runtime_mutex);
  if (!is_pinned(p)) return result(cudaErrorInvalidValue);
  *out = p;
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  const Lock lock(runtime_mutex);
  *attributes = {};
  const int arena = arena_of(p);
  if (is_pinned(p)) {
    attributes->type = cudaMemoryTypeHost;
    attributes->device = chosen_device();
    attributes->devicePointer = attributes->hostPointer = const_cast<void*>(p);
  } else if (arena != kNoArena && bytes_from(p)) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->device = arena;
    attributes->devicePointer = const_cast<void*>(p);
  } else attributes->hostPointer = const_cast<void*>(p);
  return cudaSuccess;
}
