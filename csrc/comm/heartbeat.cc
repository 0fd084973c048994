#include "heartbeat.h"

#include <chrono>
#include <thread>

#include "../core/platform.h"
#include "group.h"

namespace sg {

Heartbeat& Heartbeat::instance() {
  static Heartbeat* heart = new Heartbeat;
  return *heart;
}

void Heartbeat::add(const std::shared_ptr<Group>& group) {
  std::lock_guard lock(mutex_);
  groups_.push_back(group);
  if (std::exchange(running_, true)) return;
  std::thread([this] { run(); }).detach();
}

void Heartbeat::run() {
  name_thread("shardgrad heart");
  for (;;) {
    {
      std::lock_guard lock(mutex_);
      std::erase_if(groups_, [](const std::weak_ptr<Group>& g) {
        const auto group = g.lock();
        if (group) group->beat();
        return !group;
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }
}

}  // namespace sg
