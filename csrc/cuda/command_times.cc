// Marks for profiles: events that, unlike those that streams wait by, have a time.
#include "command_times.h"

#include "../core/command_log.h"
#include "../core/platform.h"
#include "cuda_error.h"
#include "cuda_queue.h"

namespace sg {

namespace {

cudaEvent_t event_of(void* mark) { return static_cast<cudaEvent_t>(mark); }

void forget(void* mark) {
  (void)cudaEventDestroy(event_of(mark));
  (void)cudaGetLastError();
}

void* mark() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDefault), "cudaEventCreate");
  const cudaError_t error = cudaEventRecord(event, CudaQueue::current().stream());
  if (error != cudaSuccess) forget(event);
  check(error, "cudaEventRecord");
  return event;
}

int64_t reached_ns(void* mark) {
  check(cudaEventSynchronize(event_of(mark)), "cudaEventSynchronize");
  return now_ns();
}

double elapsed_ms(void* from, void* to) {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, event_of(from), event_of(to)), "cudaEventElapsedTime");
  return double(ms);
}

constexpr DeviceTimer kTimer = {mark, reached_ns, elapsed_ms, forget};

}  // namespace

void offer_command_times() { device_timer.store(&kTimer, std::memory_order_release); }

}  // namespace sg
