// Ownership and memory of the CPU's virtual devices. They share the machine's memory, so the limit counts them
// together.
#include "devices.h"

#include <atomic>
#include <cstdlib>

#include "../cpu/cpu_device.h"
#include "platform.h"
#include "thread_pool.h"

namespace sg {

namespace {

std::atomic<bool> taken[kMaxDevices];
std::atomic<size_t> mapped{0};

size_t memory_limit() {
  static const size_t limit = size_t(number_from_environment("SHARDGRAD_MEMORY_LIMIT").value_or(usable_memory()));
  return limit;
}

}  // namespace

std::unique_ptr<DeviceContext> DeviceContext::open(const std::string& kind, int index) {
  if (kind != "cpu") fail(ErrorCode::Device, "unknown kind of device '", kind, "': this build has cpu");
  if (index < 0 || index >= kMaxDevices) {
    fail(ErrorCode::Device, "no device cpu:", index, ": there are cpu:0 to cpu:", kMaxDevices - 1);
  }
  memory_limit();  // a wrong setting is said here, and not in the middle of some op
  ThreadPool::instance();
  const std::string name = "cpu:" + std::to_string(index);
  if (index > 0 && taken[index].exchange(true)) fail(ErrorCode::Device, "device ", name, " belongs to another thread");
  try {
    return std::unique_ptr<DeviceContext>(new DeviceContext(name, index));
  } catch (...) {  // no more threads
    taken[index] = false;
    throw;
  }
}

DeviceContext::DeviceContext(std::string name, int index)
    : name_(std::move(name)), index_(index), kernels_(std::make_unique<CpuDevice>()) {
  streams_[kComputeStream] = std::make_unique<Stream>(name_ + " compute");
  streams_[kCommunicationStream] = std::make_unique<Stream>(name_ + " communication");
  allocator_ = std::make_unique<CachingAllocator>(*this, name_.c_str());
}

DeviceContext::~DeviceContext() {
  halt();
  join();
  allocator_.reset();
  taken[index_] = false;
}

void DeviceContext::halt() {
  for (auto& s : streams_) s->halt();
}

void DeviceContext::join() {
  for (auto& s : streams_) s->join();
}

void* DeviceContext::map(size_t bytes) {
  const size_t before = mapped.fetch_add(bytes);
  void* p = before + bytes <= memory_limit() ? map_pages(bytes) : nullptr;
  if (!p) mapped -= bytes;
  return p;
}

void DeviceContext::unmap(void* p, size_t bytes) {
  unmap_pages(p, bytes);
  mapped -= bytes;
}

size_t DeviceContext::limit() const { return memory_limit(); }

bool DeviceContext::wait(int stream, uint64_t seq) { return streams_[stream]->host_wait_unless_waiting(seq); }

}  // namespace sg
