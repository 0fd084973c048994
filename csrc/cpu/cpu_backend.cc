// The CPU's virtual devices: kernels on the stream's own thread, memory from the system. They share the machine's
// memory, so the limit counts them together.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../core/backend.h"
#include "../core/devices.h"
#include "../core/platform.h"
#include "../core/thread_pool.h"
#include "cpu_device.h"

namespace sg {

namespace {

std::atomic<bool> taken[kMaxDevices];
std::atomic<size_t> mapped{0};

size_t memory_limit() {
  static const size_t limit = size_t(number_from_environment("SHARDGRAD_MEMORY_LIMIT").value_or(usable_memory()));
  return limit;
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int index) : index_(index) {}
  ~CpuBackend() override { taken[index_] = false; }
  Device& kernels() override { return kernels_; }

  void* map(size_t bytes) override {
    const size_t before = mapped.fetch_add(bytes);
    void* p = before + bytes <= memory_limit() ? map_pages(bytes) : nullptr;
    if (!p) mapped -= bytes;
    return p;
  }
  void unmap(void* p, size_t bytes) override {
    unmap_pages(p, bytes);
    mapped -= bytes;
  }
  size_t limit() const override { return memory_limit(); }
  std::unique_ptr<DeviceQueue> make_queue(bool) override { return nullptr; }

  bool in_host_memory() const override { return true; }
  void* allocate_staging(size_t bytes) override { return std::malloc(bytes ? bytes : 1); }
  void free_staging(void* p) override { std::free(p); }
  std::shared_ptr<void> allocate_pinned(size_t) override { return nullptr; }
  void copy_in(void* to, const void* host, size_t bytes) override { std::memcpy(to, host, bytes); }
  void copy_out(void* host, const void* from, size_t bytes) override { std::memcpy(host, from, bytes); }
  void mark_time(double* to) override {
    const double seconds = double(now_ns()) / 1e9;
    std::memcpy(to, &seconds, sizeof seconds);
  }

 private:
  const int index_;
  CpuDevice kernels_;
};

}  // namespace

std::unique_ptr<Backend> open_cpu(int index) {
  if (index < 0 || index >= kMaxDevices) {
    fail(ErrorCode::Device, "no device cpu:", index, ": there are cpu:0 to cpu:", kMaxDevices - 1);
  }
  memory_limit();  // a wrong setting is said here, and not in the middle of some op
  ThreadPool::instance();
  if (index > 0 && taken[index].exchange(true))
    fail(ErrorCode::Device, "device cpu:", index, " belongs to another thread");
  return std::make_unique<CpuBackend>(index);
}

}  // namespace sg
