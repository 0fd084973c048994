// A piece of memory that the ranks of one host share, processes and threads alike. It has a random name for as long as
// ranks still have to find it, mode 0600, and its pages are reserved when it is made: a full /dev/shm is an error there
// and not a SIGBUS in a kernel later. A rank claims its place by a lock that the system drops when its process ends,
// however it ends: that is how the others learn of a death.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace sg {

class SharedSegment {
 public:
  static SharedSegment create(const std::string& name, size_t bytes);
  static SharedSegment open(const std::string& name);
  // Without a name and without a place in /dev/shm: it goes when the last process that maps it does. Others open it by
  // the process and the file number. Throws where the system has no such thing.
  static SharedSegment create_anonymous(size_t bytes);
  static SharedSegment open_of(int process, int file);
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&&) = delete;
  ~SharedSegment();

  char* data() const { return mapping_ ? mapping_->data : nullptr; }
  size_t size() const { return size_; }
  int file() const { return file_; }
  // No further rank can find it; those that have it keep it. Any of them may say so; the creator does when it goes.
  void unlink();
  bool claim(int place);          // false: somebody has it
  bool claimed(int place) const;  // by another holder that is alive

 private:
  // Ranks that are threads of one process have one mapping, as ThreadSanitizer must see what they share.
  struct Mapping {
    char* data;
    size_t size;
    ~Mapping();
  };
  static std::shared_ptr<Mapping> map(int file, size_t bytes);
  SharedSegment(std::string name, int file, bool owner, size_t bytes);
  static SharedSegment mapped(std::string name, int file, bool owner, size_t bytes);
  std::string name_;
  int file_;
  bool owner_;         // takes the name away when it goes
  bool named_ = true;  // others may look for it
  std::shared_ptr<Mapping> mapping_;
  size_t size_;
};

// Sleeping on a word of shared memory. Spurious wake-ups are allowed.
void wait_while_equal(std::atomic<uint32_t>& word, uint32_t value, int64_t timeout_ns);
void wake_all(std::atomic<uint32_t>& word);

}  // namespace sg
