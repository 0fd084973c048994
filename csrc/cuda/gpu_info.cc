#include "gpu_info.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include "cuda_error.h"

namespace sg {

namespace {

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

// CUDA's runtime says "insufficient driver" for three different things.
std::string explain(cudaError_t error, int driver, int runtime) {
  if (error == cudaErrorNoDevice || error == cudaSuccess) return "the driver sees no GPU (CUDA_VISIBLE_DEVICES?)";
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::string("there is no NVIDIA driver here (") + dlerror() + ")";
  dlclose(library);
  if (driver < runtime) {
    return "the driver is for CUDA " + version(driver) + ", this binary needs " + version(runtime) +
           " (a driver of version 580 or newer)";
  }
  return std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
}

GpuInfo describe(int ordinal) {
  cudaDeviceProp p{};
  check(cudaGetDeviceProperties(&p, ordinal), "cudaGetDeviceProperties");
  char bus[32] = "";
  check(cudaDeviceGetPCIBusId(bus, sizeof bus, ordinal), "cudaDeviceGetPCIBusId");
  return {ordinal, p.name, p.major, p.minor, p.multiProcessorCount, p.sharedMemPerBlockOptin, p.totalGlobalMem, bus};
}

GpuSurvey survey() {
  GpuSurvey found;
  (void)cudaRuntimeGetVersion(&found.runtime);
  (void)cudaDriverGetVersion(&found.driver);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (error != cudaSuccess || count == 0) {
    found.problem = explain(error, found.driver, found.runtime);
    return found;
  }
  try {
    for (int i = 0; i < count; i++) found.gpus.push_back(describe(i));
  } catch (const Error& e) {
    found.gpus.clear();
    found.problem = e.what();
  }
  return found;
}

}  // namespace

const GpuSurvey& gpus() {
  static const auto* found = new GpuSurvey(survey());
  return *found;
}

}  // namespace sg
