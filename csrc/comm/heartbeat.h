// One thread of the process that keeps the hearts of its groups beating, so that a process that was stopped differs
// from one that is busy: JavaScript's own loop may not turn for minutes.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

namespace sg {

class Group;

class Heartbeat {
 public:
  static Heartbeat& instance();  // never destroyed
  void add(const std::shared_ptr<Group>& group);

 private:
  [[noreturn]] void run();
  std::mutex mutex_;
  std::vector<std::weak_ptr<Group>> groups_;
  bool running_ = false;
};

}  // namespace sg
