#include "cuda_queue.h"

#include <algorithm>
#include <cstring>

#include "../core/stream.h"
#include "cuda_error.h"

namespace sg {

namespace {

// To allocate and to ask for events is forbidden to a thread that captures, for fear that it waits; ours does not.
class AllowedWhileCapturing {
 public:
  explicit AllowedWhileCapturing(bool capturing) : capturing_(capturing) {
    if (capturing_) (void)cudaThreadExchangeStreamCaptureMode(&mode_);
  }
  ~AllowedWhileCapturing() {
    if (capturing_) (void)cudaThreadExchangeStreamCaptureMode(&mode_);
  }

 private:
  const bool capturing_;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace

CudaQueue::CudaQueue(Backend& memory, const GpuInfo& gpu, bool urgent) : memory_(memory), gpu_(gpu) {
  attach();
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, urgent ? greatest : least), "cudaStreamCreate");
  void* record = nullptr;
  check(cudaHostAlloc(&record, sizeof(DeviceFault), cudaHostAllocMapped | cudaHostAllocPortable), "cudaHostAlloc");
  fault_ = static_cast<DeviceFault*>(record);
  std::memset(record, 0, sizeof(DeviceFault));
}

// The stream's thread has ended and was the last to use any of it.
CudaQueue::~CudaQueue() {
  (void)cudaSetDevice(gpu_.ordinal);
  end_capture();
  (void)cudaStreamSynchronize(stream_);
  matmul_plans_.reset();
  for (Event e : free_events_) (void)cudaEventDestroy(static_cast<cudaEvent_t>(e));
  for (const Piece& p : pieces_) memory_.unmap(p.data, p.size);
  (void)cudaStreamDestroy(stream_);
  (void)cudaFreeHost(fault_);
  (void)cudaGetLastError();
}

CudaQueue& CudaQueue::current() { return static_cast<CudaQueue&>(*Stream::current()->queue()); }

void CudaQueue::attach() { check(cudaSetDevice(gpu_.ordinal), "cudaSetDevice"); }

DeviceQueue::Event CudaQueue::new_event() {
  {
    std::lock_guard lock(mutex_);
    if (!free_events_.empty()) {
      const Event event = free_events_.back();
      free_events_.pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  return event;
}

DeviceQueue::Event CudaQueue::record() {
  const Event event = new_event();
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), stream_), "cudaEventRecord");
  return event;
}

bool CudaQueue::reached(Event event) {
  const AllowedWhileCapturing allowed(capturing_);
  const cudaError_t state = cudaEventQuery(static_cast<cudaEvent_t>(event));
  if (state == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return false;
  }
  check(state, "a kernel failed");
  return true;
}

void CudaQueue::recycle(Event event) noexcept {
  std::lock_guard lock(mutex_);
  free_events_.push_back(event);
}

void CudaQueue::wait(Event event) {
  check(cudaStreamWaitEvent(stream_, static_cast<cudaEvent_t>(event), 0), "cudaStreamWaitEvent");
}

std::optional<Fault> CudaQueue::take_fault() { return take(*fault_); }

namespace {

struct CudaGraph final : DeviceQueue::Graph {
  cudaGraphExec_t executable = nullptr;
  ~CudaGraph() override { (void)cudaGraphExecDestroy(executable); }
};

}  // namespace

// Thread-local: what other threads do meanwhile, JavaScript's allocations among it, is none of the graph's business.
void CudaQueue::begin_capture(const void* keys) {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  capturing_ = captured_ = true;
  keys_ = static_cast<const PhiloxKey*>(keys);
}

std::unique_ptr<DeviceQueue::Graph> CudaQueue::finish_capture() {
  if (!capturing_) fail(ErrorCode::Device, "no graph is being captured");
  capturing_ = false;
  keys_ = nullptr;
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  auto captured = std::make_unique<CudaGraph>();
  const cudaError_t error = cudaGraphInstantiate(&captured->executable, graph, 0);
  (void)cudaGraphDestroy(graph);
  check(error, "cudaGraphInstantiate");
  return captured;
}

void CudaQueue::launch(Graph& graph) {
  check(cudaGraphLaunch(static_cast<CudaGraph&>(graph).executable, stream_), "cudaGraphLaunch");
}

void CudaQueue::end_capture() {
  if (!capturing_) return;
  capturing_ = false;
  keys_ = nullptr;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph) (void)cudaGraphDestroy(graph);
  (void)cudaGetLastError();
}

MatmulPlans& CudaQueue::matmul_plans() {
  if (!matmul_plans_) matmul_plans_ = std::make_unique<MatmulPlans>();
  return *matmul_plans_;
}

char* CudaQueue::take_scratch(size_t bytes) {
  constexpr size_t kSmallest = size_t(1) << 20, kAlignment = 256;
  bytes = (bytes + kAlignment - 1) & ~(kAlignment - 1);
  if (scratch_used_ == 0 && pieces_.size() > 1 && !captured_) let_go_of_scratch();
  if (pieces_.empty() || scratch_used_ + bytes > pieces_.back().size) {
    const size_t size = std::max(kSmallest, scratch_used_ + bytes + (scratch_used_ + bytes) / 2);
    const AllowedWhileCapturing allowed(capturing_);
    char* const data = static_cast<char*>(memory_.map(size));
    if (!data) fail(ErrorCode::OutOfMemory, "out of memory for the kernel's own working memory, ", size, " bytes");
    pieces_.push_back({data, size});
  }
  char* const taken = pieces_.back().data + scratch_used_;
  scratch_used_ += bytes;
  return taken;
}

// All but the last piece. A graph keeps the addresses it was captured with, so where there is one nothing goes.
void CudaQueue::let_go_of_scratch() {
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  for (size_t i = 0; i + 1 < pieces_.size(); i++) memory_.unmap(pieces_[i].data, pieces_[i].size);
  pieces_.erase(pieces_.begin(), pieces_.end() - 1);
}

}  // namespace sg
