// The thread that watches the communicators of this process, and takes down those that were left: neither may hold up
// JavaScript or a stream.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

namespace sg {

class Communicator;

class NcclWatch {
 public:
  static NcclWatch& instance();  // never destroyed
  void add(std::shared_ptr<Communicator> communicator);
  void retire(const std::shared_ptr<Communicator>& communicator);

 private:
  NcclWatch();
  void turn();
  std::mutex turn_;    // held while it looks
  bool over_ = false;  // the process ends, and CUDA with it; guarded by turn_
  std::mutex mutex_;   // guards the lists
  std::vector<std::shared_ptr<Communicator>> watched_, retiring_;
};

}  // namespace sg
