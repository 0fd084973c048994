// Streams, events, host functions.
#include <algorithm>
#include <chrono>
#include <set>

#include "runtime.h"

using namespace sg::emulation;

namespace {

std::set<cudaEvent_t> events;

double milliseconds_now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
bool alive(cudaEvent_t event) { return events.count(event) != 0; }

}  // namespace

SG_CUDART cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  const Lock lock(runtime_mutex);
  if (!stream || flags & ~unsigned(cudaStreamNonBlocking)) return result(cudaErrorInvalidValue);
  *stream = create_stream(chosen_device(), flags, priority);
  return fault_or();
}
SG_CUDART cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}
SG_CUDART cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
SG_CUDART cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream || is_default(stream)) return result(cudaErrorInvalidResourceHandle);
  if (stream->capture) {
    invalidate(stream->capture);
    return result(cudaErrorStreamCaptureUnsupported);
  }
  destroy_stream(stream);
  return fault_or();
}
SG_CUDART cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  const Lock lock(runtime_mutex);
  const CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  *priority = stream->priority;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  const Lock lock(runtime_mutex);
  const CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  *flags = stream->flags;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  const Lock lock(runtime_mutex);
  const CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  *device = stream->device;
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  if (stream->capture) {
    invalidate(stream->capture);
    return result(cudaErrorStreamCaptureUnsupported);
  }
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  if (const cudaError_t refused = refuse_implicit_dependency(stream)) return result(refused);
  finish(stream);
  return result(device_fault(stream->device));
}
SG_CUDART cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  if (stream->capture) {
    invalidate(stream->capture);
    return result(cudaErrorStreamCaptureUnsupported);
  }
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  const Position end{stream->progress, stream->progress->enqueued};
  const Clock clock = stream->clock;
  const int device = stream->device;
  run_a_little(stream, [&] { return end.reached(); });
  if (const cudaError_t fault = device_fault(device)) return result(fault);
  if (!end.reached()) return result(cudaErrorNotReady);
  host_knows(clock);
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream || !alive(event)) return result(cudaErrorInvalidResourceHandle);
  if (stream->capture || event->capture) return result(capture_wait(stream, event));
  Operation operation;
  operation.after = {event->position};
  operation.clock = event->clock;
  return result(enqueue(stream, std::move(operation)));
}

SG_CUDART cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  const Lock lock(runtime_mutex);
  if (!function) return result(cudaErrorInvalidValue);
  Operation operation;
  operation.run = [=] { function(data); };
  operation.unlocked = true;
  return result(enqueue(find_stream(handle), std::move(operation)));
}
SG_CUDART cudaError_t cudaStreamAddCallback(cudaStream_t handle, cudaStreamCallback_t callback, void* data, unsigned) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!callback) return result(cudaErrorInvalidValue);
  if (stream && stream->capture) {
    invalidate(stream->capture);
    return result(cudaErrorStreamCaptureUnsupported);
  }
  Operation operation;
  operation.run = [=] { callback(handle, cudaSuccess, data); };
  operation.unlocked = true;
  return result(enqueue(stream, std::move(operation)));
}

// ---- events
SG_CUDART cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const Lock lock(runtime_mutex);
  if (!event) return result(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->device = chosen_device();
  (*event)->timing = !(flags & cudaEventDisableTiming);
  events.insert(*event);
  return fault_or();
}
SG_CUDART cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
SG_CUDART cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(runtime_mutex);
  if (!events.erase(event)) return result(cudaErrorInvalidResourceHandle);
  delete event;  // operations that wait for it hold its position
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t handle, unsigned) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream || !alive(event) || event->device != stream->device) return result(cudaErrorInvalidResourceHandle);
  if (stream->capture) return result(capture_record(stream, event));
  const auto time = std::make_shared<double>(0);
  Operation operation;
  operation.run = [time] { *time = milliseconds_now(); };
  if (const cudaError_t error = enqueue(stream, std::move(operation))) return result(error);
  event->capture = nullptr;
  event->position = {stream->progress, stream->progress->enqueued};
  event->clock = stream->clock;
  event->milliseconds = time;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, 0);
}

static cudaError_t ask_event(cudaEvent_t event, bool wait) {
  if (!alive(event)) return result(cudaErrorInvalidResourceHandle);
  if (event->capture) {
    invalidate(event->capture);
    return result(cudaErrorCapturedEvent);
  }
  if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  const Position position = event->position;
  const Clock clock = event->clock;
  const int device = event->device;
  const auto reached = [&] { return position.reached(); };
  CUstream_st* wanted = nullptr;
  for (CUstream_st* stream : all_streams())
    if (stream->progress == position.stream) wanted = stream;
  if (wait) run_until(wanted, reached);
  else run_a_little(wanted, reached);
  if (const cudaError_t fault = device_fault(device)) return result(fault);
  if (!reached()) return result(cudaErrorNotReady);
  host_knows(clock);
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Lock lock(runtime_mutex);
  return ask_event(event, false);
}
SG_CUDART cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Lock lock(runtime_mutex);
  return ask_event(event, true);
}
SG_CUDART cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const Lock lock(runtime_mutex);
  if (!milliseconds) return result(cudaErrorInvalidValue);
  if (!alive(start) || !alive(end)) return result(cudaErrorInvalidResourceHandle);
  if (!start->timing || !end->timing || !start->milliseconds || !end->milliseconds)
    return result(cudaErrorInvalidResourceHandle);
  if (!start->position.reached() || !end->position.reached()) return result(cudaErrorNotReady);
  *milliseconds = float(*end->milliseconds - *start->milliseconds);
  return fault_or();
}
