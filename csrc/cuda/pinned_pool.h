// Pinned host memory, which the copy engines read and write by themselves. Getting it from the driver takes longer than
// most copies, so it is kept: in size classes of powers of two, small ones cut from slabs.
#pragma once
#include <cstddef>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace sg {

class PinnedPool {
 public:
  static PinnedPool& instance();  // of the process
  // ---- any thread
  void* allocate(size_t bytes);  // null when there is none
  void free(void* p);

 private:
  static constexpr int kClasses = 48;
  static int class_of(size_t bytes);
  std::mutex mutex_;
  std::vector<void*> free_[kClasses];
  std::unordered_map<void*, int> given_;  // to their class
  size_t kept_ = 0;                       // bytes of free large ones
};

}  // namespace sg
