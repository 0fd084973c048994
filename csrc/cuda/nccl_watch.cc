#include "nccl_watch.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "../core/platform.h"
#include "nccl_communicator.h"

namespace sg {

NcclWatch& NcclWatch::instance() {
  static NcclWatch* const watch = new NcclWatch;
  return *watch;
}

NcclWatch::NcclWatch() {
  std::atexit([] {
    NcclWatch& watch = instance();
    std::lock_guard lock(watch.turn_);
    watch.over_ = true;
  });
  std::thread([this] {
    name_thread("shardgrad nccl");
    for (;; std::this_thread::sleep_for(std::chrono::milliseconds(20))) turn();
  }).detach();
}

void NcclWatch::add(std::shared_ptr<Communicator> communicator) {
  std::lock_guard lock(mutex_);
  watched_.push_back(std::move(communicator));
}

void NcclWatch::retire(const std::shared_ptr<Communicator>& communicator) {
  std::lock_guard lock(mutex_);
  std::erase(watched_, communicator);
  retiring_.push_back(communicator);
}

// Without the lists' lock: it may be this turn that lets go of a group last, and so retires its communicator.
void NcclWatch::turn() {
  std::lock_guard lock(turn_);
  if (over_) return;
  std::vector<std::shared_ptr<Communicator>> watched, retiring;
  {
    std::lock_guard lists(mutex_);
    watched = watched_;
    retiring.swap(retiring_);
  }
  for (const auto& communicator : watched) communicator->look();
  std::erase_if(retiring, [](const auto& communicator) { return communicator->retire(); });
  std::lock_guard lists(mutex_);
  retiring_.insert(retiring_.end(), retiring.begin(), retiring.end());
}

}  // namespace sg
