// CudaQueue: a stream of CUDA, with what belongs to one: events, scratch memory, the fault record of its kernels, and
// the graph that is being captured on it.
#pragma once
#include <cuda_runtime_api.h>
#include <mutex>
#include <vector>

#include "../core/backend.h"
#include "../core/philox.h"
#include "device_fault.h"
#include "gpu_info.h"
#include "matmul_plans.h"

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
  MatmulPlans& matmul_plans();

  void attach() override;
  Event record() override;
  bool reached(Event event) override;
  void recycle(Event event) noexcept override;
  void wait(Event event) override;
  std::optional<Fault> take_fault() override;
  void begin_capture(const void* keys) override;
  std::unique_ptr<Graph> finish_capture() override;
  void launch(Graph& graph) override;
  bool capturing() const override { return capturing_; }
  void end_capture() override;
  // Where the kernels of the graph that is being captured read their keys.
  const PhiloxKey* captured_keys() const { return keys_; }

 private:
  friend class Scratch;
  char* take_scratch(size_t bytes);
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
  size_t scratch_used_ = 0;
  bool capturing_ = false;
  bool captured_ = false;  // there was a graph: it may use any piece of scratch memory there was
  const PhiloxKey* keys_ = nullptr;
  std::unique_ptr<MatmulPlans> matmul_plans_;
};

// The working memory of an op on the running stream: pieces are laid one after another, and are free for what the
// stream launches next when this goes out of scope. Ops that call others have theirs below the others'.
class Scratch {
 public:
  Scratch() : queue_(CudaQueue::current()), before_(queue_.scratch_used_) {}
  ~Scratch() { queue_.scratch_used_ = before_; }
  Scratch(const Scratch&) = delete;
  template <class T>
  T* take(size_t count) {
    return reinterpret_cast<T*>(queue_.take_scratch(count * sizeof(T)));
  }

 private:
  CudaQueue& queue_;
  const size_t before_;
};

}  // namespace sg
