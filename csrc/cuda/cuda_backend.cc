// The CUDA backend's side of a device context: memory of the GPU, pinned staging memory, copies.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../core/backend.h"
#include "../core/platform.h"
#include "command_times.h"
#include "cuda_device.h"
#include "cuda_error.h"
#include "cuda_queue.h"
#include "kernel_image.h"
#include "nvtx.h"
#include "pinned_pool.h"

namespace sg {

namespace {

std::atomic<size_t> mapped[kMaxGpus];

size_t memory_limit(const GpuInfo& gpu) {
  static const std::optional<uint64_t> wanted = number_from_environment("SHARDGRAD_CUDA_MEMORY_LIMIT");
  return wanted ? std::min<size_t>(*wanted, gpu.total_bytes) : gpu.total_bytes;
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const GpuInfo& gpu) : gpu_(gpu) {}
  Device& kernels() override { return kernels_; }

  void* map(size_t bytes) override {
    std::atomic<size_t>& sum = mapped[gpu_.ordinal];
    void* p = nullptr;
    if (sum.fetch_add(bytes) + bytes <= memory_limit(gpu_)) {
      check(cudaSetDevice(gpu_.ordinal), "cudaSetDevice");
      const cudaError_t error = cudaMalloc(&p, bytes);
      (void)cudaGetLastError();
      if (error != cudaSuccess) p = nullptr;
      if (error != cudaSuccess && error != cudaErrorMemoryAllocation) {
        sum -= bytes;
        fail_cuda(error, "cudaMalloc");
      }
    }
    if (!p) sum -= bytes;
    return p;
  }
  void unmap(void* p, size_t bytes) override {
    (void)cudaSetDevice(gpu_.ordinal);
    (void)cudaFree(p);
    (void)cudaGetLastError();
    mapped[gpu_.ordinal] -= bytes;
  }
  size_t limit() const override { return memory_limit(gpu_); }
  std::unique_ptr<DeviceQueue> make_queue(bool communication) override {
    return std::make_unique<CudaQueue>(*this, gpu_, communication);
  }

  bool in_host_memory() const override { return false; }
  void* allocate_staging(size_t bytes) override { return PinnedPool::instance().allocate(bytes); }
  void free_staging(void* p) override { PinnedPool::instance().free(p); }
  std::shared_ptr<void> allocate_pinned(size_t bytes) override {
    void* const p = PinnedPool::instance().allocate(bytes);
    return {p, [](void* given) {
              if (given) PinnedPool::instance().free(given);
            }};
  }
  void copy_in(void* to, const void* host, size_t bytes) override { copy(to, host, bytes, cudaMemcpyHostToDevice); }
  void copy_out(void* host, const void* from, size_t bytes) override {
    copy(host, from, bytes, cudaMemcpyDeviceToHost);
  }
  void mark_time(double* to) override { write_clock(to); }

 private:
  static void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (bytes) check(cudaMemcpyAsync(to, from, bytes, kind, CudaQueue::current().stream()), "cudaMemcpyAsync");
  }
  const GpuInfo& gpu_;
  CudaDevice kernels_;
};

// Several device contexts on one GPU, for tests of more ranks than there are GPUs.
bool gpus_are_shared() {
  const char* const text = std::getenv("SHARDGRAD_SHARE_GPUS");
  return text && *text && std::strcmp(text, "0") != 0;
}

// Otherwise the first launch would fail, and without saying what to do.
void require_kernels(const GpuInfo& gpu, int index) {
  check(cudaSetDevice(gpu.ordinal), "cudaSetDevice");
  const cudaError_t error = look_for_kernels();
  if (error == cudaSuccess) return;
  const bool other = error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction;
  if (!other || gpu.major < 8) {
    fail(ErrorCode::Device, "no device cuda:", index, ": ", gpu.name, " cannot run the kernels of this binary",
         gpu.major < 8 ? ", which take compute capability 8.0 or newer" : "", ": ", cudaGetErrorString(error));
  }
  fail(ErrorCode::Device, "no device cuda:", index, ": this binary was not compiled for ", gpu.name,
       ", of compute capability ", gpu.major, ".", gpu.minor,
       "; build it with SHARDGRAD_CUDA_ARCHITECTURES=", gpu.major, gpu.minor, ", or =release for every GPU");
}

}  // namespace

std::unique_ptr<Backend> open_cuda(int index) {
  const GpuSurvey& survey = gpus();
  const int count = int(survey.gpus.size());
  if (count == 0) fail(ErrorCode::Device, "no device cuda:", index, ": ", survey.problem);
  const int ordinal = gpus_are_shared() ? index % count : index;
  if (ordinal < 0 || ordinal >= count) {
    fail(ErrorCode::Device, "no device cuda:", index, ": this machine has ", count, count == 1 ? " GPU" : " GPUs",
         ", cuda:0", count > 1 ? " to cuda:" + std::to_string(count - 1) : std::string());
  }
  look_for_profiler();
  offer_command_times();
  require_kernels(survey.gpus[size_t(ordinal)], index);
  return std::make_unique<CudaBackend>(survey.gpus[size_t(ordinal)]);
}

}  // namespace sg
