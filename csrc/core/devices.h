// A device as one JavaScript environment has it: kernels, streams and an allocator of its own. That is what makes a
// queue single-producer and the allocator free of locks. cpu:0, cpu:1, ... are virtual devices: cpu:0 is the CPU of
// every thread, so each has one of its own; the others exist once in the process, and a second thread is refused.
// cuda:0, ... are the GPUs; threads that share one have streams and memory of their own on it.
#pragma once
#include <memory>
#include <string>

#include "backend.h"
#include "caching_allocator.h"
#include "stream.h"

namespace sg {

inline constexpr int kMaxDevices = 256;

class DeviceContext final : public MemorySource {
 public:
  // Throws when there is no such device, or when it belongs to another thread.
  static std::unique_ptr<DeviceContext> open(const std::string& kind, int index);
  ~DeviceContext() override;  // halts the streams and gives the memory back

  const std::string& name() const { return name_; }
  Backend& backend() { return *backend_; }
  Device& kernels() { return backend_->kernels(); }
  Stream& stream(int which) { return *streams_[which]; }
  CachingAllocator& allocator() { return *allocator_; }
  // In two steps, since the streams of an environment's devices wait for each other: all are halted, then all joined,
  // and only then may one go.
  void halt();
  void join();

  void* map(size_t bytes) override { return backend_->map(bytes); }
  void unmap(void* p, size_t bytes) override { backend_->unmap(p, bytes); }
  size_t limit() const override { return backend_->limit(); }
  bool unmaps_at_once() const override { return backend_->in_host_memory(); }
  uint64_t issued(int stream) const override { return streams_[stream]->issued(); }
  bool passed(int stream, uint64_t seq) const override { return streams_[stream]->passed(seq); }
  bool wait(int stream, uint64_t seq) override { return streams_[stream]->host_wait_unless_waiting(seq); }

 private:
  DeviceContext(std::string name, std::unique_ptr<Backend> backend);
  const std::string name_;
  const std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> streams_[kStreamsPerDevice];
  std::unique_ptr<CachingAllocator> allocator_;
};

}  // namespace sg
