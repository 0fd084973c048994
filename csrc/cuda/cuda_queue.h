// CudaQueue: a stream of CUDA, with what belongs to one: events, scratch memory, the fault record of its kernels, and
// the graph that is being captured on it.
#pragma once
#include <cuda_runtime_api.h>
#include <mutex>
#include <vector>

#include "../core/backend.h"
#include "device_fault.h"
#include "gpu_info.h"

namespace sg {

class CudaQueue final : public DeviceQueue {
 public:
  CudaQueue(Backend& memory, const GpuInfo& gpu, bool urgent);
  ~CudaQueue() override;
  // The queue of the command that this thread runs.
  static CudaQueue& current();

  cudaStream_t stream() const { return stream_; }
  const GpuInfo& gpu() const { return gpu_; }
  DeviceFault* fault_record() const { return fault_; }

  void attach() override;
  Event record() override;
  bool reached(Event event) override;
  void recycle(Event event) noexcept override;
  void wait(Event event) override;
  std::optional<Fault> take_fault() override;
  bool capturing() const override { return capturing_; }
  void end_capture() override;

  // Device memory for the length of an op; the next op of the stream has the same. Scratch(), not this, is how ops
  // ask for it.
  char* scratch(size_t at, size_t bytes);

 private:
  Event new_event();
  void let_go_of_scratch();
  Backend& memory_;
  const GpuInfo& gpu_;
  cudaStream_t stream_ = nullptr;
  DeviceFault* fault_ = nullptr;
  std::mutex mutex_;  // guards free_events_
  std::vector<Event> free_events_;
  struct Piece {
    char* data;
    size_t size;
  };
  std::vector<Piece> pieces_;  // the last one is in use, the others are until the stream is through with them
  bool capturing_ = false, captured_ = false;
};

// The working memory of one op: pieces are laid one after another, and all are free when it goes out of scope.
class Scratch {
 public:
  Scratch() : queue_(CudaQueue::current()) {}
  Scratch(const Scratch&) = delete;
  template <class T>
  T* take(size_t count) {
    constexpr size_t kAlignment = 256;
    const size_t bytes = (count * sizeof(T) + kAlignment - 1) & ~(kAlignment - 1);
    char* const p = queue_.scratch(used_, bytes);
    used_ += bytes;
    return reinterpret_cast<T*>(p);
  }

 private:
  CudaQueue& queue_;
  size_t used_ = 0;
};

}  // namespace sg
