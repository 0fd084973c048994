// Streams, lazily: what is enqueued runs when somebody waits for it or asks, on the thread that does. So whoever reads
// without waiting, or forgets an event between two streams, finds the work undone, every time.
#pragma once
#include <cstdint>
#include <cuda_runtime_api.h>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "clocks.h"

namespace sg::emulation {

// Held by every call into the runtime; kernels run under it. Whatever waits below lets go of it meanwhile.
extern std::mutex runtime_mutex;
using Lock = std::lock_guard<std::mutex>;

// How far a stream has come; events and other streams that wait hold on to it after the stream's end.
struct Progress {
  uint64_t enqueued = 0, done = 0;
};
struct Position {
  std::shared_ptr<Progress> stream;
  uint64_t count = 0;
  bool reached() const { return !stream || stream->done >= count; }
};

struct Operation {
  std::function<void()> run;
  std::function<bool()> ready;  // polled; empty means at once
  bool unlocked = false;        // a host function: other threads may call the runtime meanwhile
  std::vector<Position> after;  // of other streams
  Clock clock;                  // what happened before, for the race checker
};

struct Capture;

}  // namespace sg::emulation

struct CUstream_st {
  int device = 0;
  bool blocking = true;  // synchronises with the default stream
  bool busy = false;     // a host function of it runs
  unsigned flags = 0;
  int priority = 0;
  uint64_t id = 0;
  int lane = 0;  // its place in clocks
  std::shared_ptr<sg::emulation::Progress> progress = std::make_shared<sg::emulation::Progress>();
  std::deque<sg::emulation::Operation> queue;
  std::vector<sg::emulation::Position> awaited;  // by the next operation, on top of the order within the stream
  sg::emulation::Clock clock;
  std::shared_ptr<sg::emulation::Capture> capture;
  std::vector<int> capture_ends;  // nodes that the next captured operation follows
};

struct CUevent_st {
  int device = 0;
  bool timing = true;
  sg::emulation::Position position;
  std::shared_ptr<double> milliseconds;  // when the last record ran
  sg::emulation::Clock clock;
  std::shared_ptr<sg::emulation::Capture> capture;
  std::vector<int> capture_ends;
};

namespace sg::emulation {

// The stream behind a handle, the default stream of the chosen device for null; nullptr for a dead handle.
CUstream_st* find_stream(cudaStream_t handle);
CUstream_st* create_stream(int device, unsigned flags, int priority);
void destroy_stream(CUstream_st* stream);
bool is_default(const CUstream_st* stream);
const std::vector<CUstream_st*>& all_streams();

// Appends to the stream, or to its capture. `stream` may be nullptr: an invalid handle.
cudaError_t enqueue(CUstream_st* stream, Operation operation);
void enqueue_uncaptured(CUstream_st* stream, Operation operation);
// Runs whatever it takes until `done`; other threads get the lock while nothing can run.
void run_until(CUstream_st* wanted, const std::function<bool()>& done);
void finish(CUstream_st* stream);
void finish_device(int device);
// Runs for about a millisecond at most: for queries, whose callers do other things in between.
void run_a_little(CUstream_st* wanted, const std::function<bool()>& done);

}  // namespace sg::emulation
