// Queues and the loop that runs them.
#include "stream.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>

#include "capture.h"
#include "device_state.h"
#include "memory.h"
#include "options.h"
#include "report.h"

namespace sg::emulation {

std::mutex runtime_mutex;

namespace {

constexpr size_t kMostQueued = 4096;  // a GPU's queue is bounded too, and staged copies hold memory

std::condition_variable_any progress_made;
int waiting_threads;
std::vector<CUstream_st*> streams;           // the default streams too
CUstream_st* default_streams[kMostDevices];  // made when first asked for
Clock host_clock;
std::vector<uint32_t> lane_counts;
std::vector<int> free_lanes;

CUstream_st* default_stream(int device) {
  if (!default_streams[device]) default_streams[device] = create_stream(device, cudaStreamDefault, 0);
  return default_streams[device];
}

bool all_reached(const std::vector<Position>& positions) {
  return std::all_of(positions.begin(), positions.end(), [](const Position& p) { return p.reached(); });
}

enum class Step { Ran, Blocked, Polled };

Step step(CUstream_st* stream) {
  if (stream->busy) return Step::Polled;  // another thread runs its host function
  if (stream->queue.empty() || !all_reached(stream->queue.front().after)) return Step::Blocked;
  const bool broken = device_fault(stream->device) != cudaSuccess;
  if (!broken && stream->queue.front().ready && !stream->queue.front().ready()) return Step::Polled;
  const Operation operation = std::move(stream->queue.front());
  stream->queue.pop_front();
  if (!broken && operation.unlocked) {
    stream->busy = true;
    runtime_mutex.unlock();
    operation.run();
    runtime_mutex.lock();
    stream->busy = false;
  } else if (!broken && operation.run) {
    set_running_device(stream->device);
    running_moment = {operation.clock, stream->lane};
    operation.run();
    set_running_device(-1);
  }
  stream->progress->done++;
  if (waiting_threads) progress_made.notify_all();
  return Step::Ran;
}

// One operation of the wanted stream, or of any other when that one cannot go on.
Step step_any(CUstream_st* wanted) {
  bool polled = false;
  if (wanted) {
    const Step own = step(wanted);
    if (own == Step::Ran) return own;
    polled = own == Step::Polled;
  }
  const size_t count = streams.size();
  const Schedule schedule = options().schedule;
  const size_t start = schedule == Schedule::Random && count ? random_number() % count : 0;
  for (size_t i = 0; i < count; i++) {
    CUstream_st* const stream = streams[schedule == Schedule::Reverse ? count - 1 - i : (start + i) % count];
    if (stream == wanted) continue;
    const Step other = step(stream);  // may have let go of the lock: `streams` is not looked at again
    if (other == Step::Ran) return other;
    polled |= other == Step::Polled;
  }
  return polled ? Step::Polled : Step::Blocked;
}

void wait_for_others() {
  waiting_threads++;
  progress_made.wait_for(runtime_mutex, std::chrono::microseconds(100));
  waiting_threads--;
}

}  // namespace

Moment running_moment;

int new_lane() {
  if (!free_lanes.empty()) {
    const int lane = free_lanes.back();
    free_lanes.pop_back();
    return lane;
  }
  lane_counts.push_back(0);
  return int(lane_counts.size()) - 1;
}
void recycle_lane(int lane) { free_lanes.push_back(lane); }
void host_knows(const Clock& clock) { host_clock.join(clock); }

CUstream_st* create_stream(int device, unsigned flags, int priority) {
  static uint64_t ids;
  auto* const stream = new CUstream_st;
  stream->device = device;
  stream->flags = flags;
  stream->blocking = !(flags & cudaStreamNonBlocking);
  stream->priority = priority;
  stream->id = ++ids;
  stream->lane = new_lane();
  streams.push_back(stream);
  return stream;
}

void destroy_stream(CUstream_st* stream) {
  finish(stream);
  streams.erase(std::find(streams.begin(), streams.end(), stream));
  recycle_lane(stream->lane);
  delete stream;
}

CUstream_st* find_stream(cudaStream_t handle) {
  if (!handle || handle == cudaStreamLegacy || handle == cudaStreamPerThread) return default_stream(chosen_device());
  return std::find(streams.begin(), streams.end(), handle) == streams.end() ? nullptr : handle;
}
bool is_default(const CUstream_st* stream) { return stream == default_streams[stream->device]; }
const std::vector<CUstream_st*>& all_streams() { return streams; }

void enqueue_uncaptured(CUstream_st* stream, Operation operation) {
  if (is_default(stream)) {
    for (const CUstream_st* other : streams) {
      if (other == stream || other->device != stream->device || !other->blocking) continue;
      operation.after.push_back({other->progress, other->progress->enqueued});
      stream->clock.join(other->clock);
    }
  } else if (stream->blocking) {
    const CUstream_st* const first = default_stream(stream->device);
    operation.after.push_back({first->progress, first->progress->enqueued});
    stream->clock.join(first->clock);
  }
  stream->clock.join(host_clock);
  stream->clock.join(operation.clock);
  stream->clock.raise(stream->lane, ++lane_counts[size_t(stream->lane)]);
  operation.clock = stream->clock;
  stream->queue.push_back(std::move(operation));
  stream->progress->enqueued++;
  if (!options().lazy) {
    const Position end{stream->progress, stream->progress->enqueued};
    run_until(stream, [&] { return end.reached(); });  // the host does not know, for the race checker
  } else if (stream->queue.size() > kMostQueued) step(stream);
}

cudaError_t enqueue(CUstream_st* stream, Operation operation) {
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t fault = device_fault(stream->device)) return fault;
  if (const cudaError_t refused = refuse_implicit_dependency(stream)) return refused;
  if (stream->capture) return capture_operation(stream, std::move(operation));
  enqueue_uncaptured(stream, std::move(operation));
  return cudaSuccess;
}

void run_until(CUstream_st* wanted, const std::function<bool()>& done) {
  while (!done()) {
    switch (step_any(wanted)) {
      case Step::Ran: break;
      case Step::Polled: wait_for_others(); break;
      case Step::Blocked:
        if (done()) return;
        report("stream deadlock: what is waited for can never happen");
        return;
    }
  }
}

void finish(CUstream_st* stream) {
  const Position end{stream->progress, stream->progress->enqueued};
  const Clock clock = stream->clock;
  run_until(stream, [&] { return end.reached(); });
  host_knows(clock);
}

void finish_device(int device) {
  std::vector<Position> ends;
  Clock clock;
  for (const CUstream_st* stream : streams) {
    if (stream->device != device || stream->capture) continue;
    ends.push_back({stream->progress, stream->progress->enqueued});
    clock.join(stream->clock);
  }
  run_until(nullptr, [&] { return all_reached(ends); });
  host_knows(clock);
}

void run_a_little(CUstream_st* wanted, const std::function<bool()>& done) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(1);
  while (!done() && step_any(wanted) == Step::Ran && std::chrono::steady_clock::now() < end) {}
}

}  // namespace sg::emulation
