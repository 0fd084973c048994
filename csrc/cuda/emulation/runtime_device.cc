// Devices: how many, which one, what they are like. The model is a small Hopper GPU.
#include <cstdio>
#include <cstring>

#include "runtime.h"

using namespace sg::emulation;

namespace {
constexpr int kMultiprocessors = 4, kVersion = 13000;
bool valid(int device) { return device >= 0 && device < options().devices; }
}  // namespace

SG_CUDART cudaError_t cudaGetDeviceCount(int* count) {
  *count = options().devices;
  return result(*count ? cudaSuccess : cudaErrorNoDevice);
}
SG_CUDART cudaError_t cudaSetDevice(int device) {
  if (!valid(device)) return result(cudaErrorInvalidDevice);
  choose_device(device);
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaInitDevice(int device, unsigned, unsigned) {
  return result(valid(device) ? cudaSuccess : cudaErrorInvalidDevice);
}
SG_CUDART cudaError_t cudaGetDevice(int* device) {
  *device = chosen_device();
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!valid(device)) return result(cudaErrorInvalidDevice);
  cudaDeviceProp p{};
  snprintf(p.name, sizeof p.name, "CUDA emulation");
  p.uuid.bytes[0] = char(device + 1);
  p.totalGlobalMem = options().device_bytes;
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerBlockOptin = options().shared_bytes;
  p.sharedMemPerMultiprocessor = options().shared_bytes + 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 2147483647;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.totalConstMem = 64 << 10;
  p.major = 9;
  p.multiProcessorCount = kMultiprocessors;
  p.l2CacheSize = 1 << 20;
  p.memoryBusWidth = 64;
  p.unifiedAddressing = p.canMapHostMemory = p.concurrentKernels = p.asyncEngineCount = 1;
  p.streamPrioritiesSupported = p.hostRegisterSupported = p.memoryPoolsSupported = 1;
  p.pciDeviceID = device;
  *properties = p;
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX: *value = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY: *value = p.maxGridSize[1]; break;
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[2]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(p.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = int(p.reservedSharedMemPerBlock); break;
    case cudaDevAttrMaxRegistersPerBlock: *value = p.regsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrPciDeviceId: *value = p.pciDeviceID; break;
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    default: *value = 0;
  }
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (!valid(device)) return result(cudaErrorInvalidDevice);
  if (length < 13) return result(cudaErrorInvalidValue);
  snprintf(text, size_t(length), "0000:00:%02X.0", device);
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!valid(device) || !valid(peer)) return result(cudaErrorInvalidDevice);
  *can = device != peer;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  const Lock lock(runtime_mutex);
  if (!valid(peer) || peer == chosen_device()) return result(cudaErrorInvalidDevice);
  if (peers(chosen_device(), peer)) return result(cudaErrorPeerAccessAlreadyEnabled);
  set_peers(chosen_device(), peer, true);
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaDeviceDisablePeerAccess(int peer) {
  const Lock lock(runtime_mutex);
  if (!valid(peer) || peer == chosen_device()) return result(cudaErrorInvalidDevice);
  if (!peers(chosen_device(), peer)) return result(cudaErrorPeerAccessNotEnabled);
  set_peers(chosen_device(), peer, false);
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaDeviceSynchronize() {
  const Lock lock(runtime_mutex);
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  finish_device(chosen_device());
  return fault_or();
}
// Forgets the fault of the device. Its memory and streams stay, unlike CUDA's: a test that plants faults goes on.
SG_CUDART cudaError_t cudaDeviceReset() {
  const Lock lock(runtime_mutex);
  finish_device(chosen_device());
  clear_faults();
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const Lock lock(runtime_mutex);
  *total = options().device_bytes;
  *free = *total - allocated_bytes(chosen_device());
  return fault_or();
}
SG_CUDART cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaDriverGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaGetLastError() { return last_error(true); }
SG_CUDART cudaError_t cudaPeekAtLastError() { return last_error(false); }
