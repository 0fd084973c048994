// Which operations of streams happened before which others: vector clocks with a lane a stream. Races between streams
// are found by them whatever order the work ran in. The host is one clock: what it has waited for happened before all
// that it enqueues later.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace sg::emulation {

class Clock {
 public:
  uint32_t at(int lane) const { return size_t(lane) < counts_.size() ? counts_[size_t(lane)] : 0; }
  void raise(int lane, uint32_t count) {
    if (counts_.size() <= size_t(lane)) counts_.resize(size_t(lane) + 1);
    counts_[size_t(lane)] = std::max(counts_[size_t(lane)], count);
  }
  void join(const Clock& other) {
    for (size_t lane = 0; lane < other.counts_.size(); lane++) raise(int(lane), other.counts_[lane]);
  }

 private:
  std::vector<uint32_t> counts_;
};

// The clock of the operation that runs, its own count included, and its lane.
struct Moment {
  Clock clock;
  int lane = 0;
};
extern Moment running_moment;
void host_knows(const Clock& clock);  // the host has seen that these operations are done

int new_lane();
void recycle_lane(int lane);  // its count goes on where it ended, so nothing old seems new

}  // namespace sg::emulation
