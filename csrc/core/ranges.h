// Named ranges on the timelines of threads, for a profiler. The sink is null unless one listens (cuda/nvtx.cc), so that
// a range costs a load and a branch.
#pragma once
#include <atomic>

namespace sg {

struct RangeSink {
  void (*push)(const char* name);
  void (*pop)();
  void (*mark)(const char* name);
};
inline std::atomic<const RangeSink*> range_sink{nullptr};

// A range of this thread, for as long as it lives; without a name it is none.
class Range {
 public:
  explicit Range(const char* name) : sink_(name ? range_sink.load(std::memory_order_acquire) : nullptr) {
    if (sink_) sink_->push(name);
  }
  ~Range() {
    if (sink_) sink_->pop();
  }
  Range(const Range&) = delete;

 private:
  const RangeSink* const sink_;
};

}  // namespace sg
