// A producer that waits right after every few commands (small collectives, values that are read at once) runs them
// itself: the stream's thread sleeps, commands wake nobody, and two changes of threads are saved, which take longer
// than such commands do. The thread looks now and then, and takes over where the producer gave something and went on.
#include "stream.h"

#include <chrono>

#include "platform.h"

namespace sg {

namespace {

// A producer helps after so many waits for so few commands, until the stream has looked in vain for it so often.
constexpr int kPromptWaits = 8;
constexpr size_t kStreamsOfOneDevice = 2;
constexpr uint64_t kFewCommands = 4;
constexpr auto kHelpNap = std::chrono::microseconds(100);
constexpr int kHelpNaps = 100;

}  // namespace

void Stream::wake() {
  if (helped_.load() && issued_ - done_.load() <= kFewCommands) return;
  rouse();
}

void Stream::rouse() {
  {
    std::lock_guard lock(mutex_);
    helped_ = false;
    asleep_ = false;  // so that only the first enqueue pays
  }
  work_.notify_one();
}

// Runs what is left on the thread of the producer, if that has made a habit of waiting at once. Not where the thread
// has other devices, whose ranks may be what a command waits for.
bool Stream::help(uint64_t seq) {
  if (producer_ != std::this_thread::get_id() || queue_ || inline_ || seq != issued_ || passed(seq)) return false;
  prompt_waits_ = issued_ - done_.load() <= kFewCommands ? prompt_waits_ + 1 : 0;
  if (prompt_waits_ < kPromptWaits || count_of_this_thread() > kStreamsOfOneDevice) return false;
  if (!helped_.exchange(true)) {
    std::lock_guard lock(mutex_);
    work_.notify_one();  // from a sleep without end, as nobody will wake it, to naps
  }
  if (consuming_.exchange(true)) {
    rouse();
    return false;
  }
  Stream* const outer = std::exchange(current_, this);
  while (has_work()) execute_next(ran_.load(std::memory_order_relaxed) + 1);
  current_ = outer;
  consuming_ = false;
  return true;
}

void Stream::run_all() {
  if (!has_work() || consuming_.exchange(true)) return;
  while (has_work()) execute_next(ran_.load(std::memory_order_relaxed) + 1);
  consuming_ = false;
}

// Work that lies there for a whole nap is left to nobody: the producer does not wait for it after all.
void Stream::nap(std::unique_lock<std::mutex>& lock) {
  asleep_ = true;
  bool lying = false;
  uint64_t ran = ran_.load();
  for (int naps = 0; naps < kHelpNaps && helped_ && !halting(); naps++) {
    work_.wait_for(lock, kHelpNap);
    const uint64_t before = std::exchange(ran, ran_.load());
    if (ran != before || consuming_) naps = 0, lying = false;
    else if (has_work() && std::exchange(lying, true)) break;
  }
  helped_ = false;
}

}  // namespace sg
