#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#include <time.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "../core/error.h"

namespace sg {

namespace {

[[noreturn]] void fail_system(const char* what, const std::string& name, int error) {
  if (error == ENOSPC || error == ENOMEM) {
    fail(ErrorCode::OutOfMemory, "shared memory: the system has no room to ", what, " ", name,
         " (a container often has a small /dev/shm: raise it, for example with --shm-size)");
  }
  fail(ErrorCode::Distributed, "shared memory: cannot ", what, " ", name, ": ", std::strerror(error));
}

int reserve(int file, size_t bytes) {
  if (ftruncate(file, off_t(bytes)) != 0) return errno;
#ifdef __linux__
  int error;
  do error = posix_fallocate(file, 0, off_t(bytes));
  while (error == EINTR);
  return error;
#else
  return 0;
#endif
}

}  // namespace

SharedSegment::SharedSegment(std::string name, int file, bool owner, size_t bytes)
    : name_(std::move(name)), file_(file), owner_(owner), size_(bytes) {}

SharedSegment::SharedSegment(SharedSegment&& o) noexcept
    : name_(std::move(o.name_)),
      file_(std::exchange(o.file_, -1)),
      owner_(std::exchange(o.owner_, false)),
      named_(std::exchange(o.named_, false)),
      mapping_(std::move(o.mapping_)),
      size_(o.size_) {}

SharedSegment::~SharedSegment() {
  if (owner_) unlink();
  if (file_ >= 0) close(file_);
}

SharedSegment SharedSegment::mapped(std::string name, int file, bool owner, size_t bytes) {
  SharedSegment segment(std::move(name), file, owner, bytes);
  if (owner) {
    if (const int error = reserve(file, bytes)) fail_system("reserve", segment.name_, error);
  } else {
    struct stat info;
    if (fstat(file, &info) != 0) fail_system("open", segment.name_, errno);
    segment.size_ = size_t(info.st_size);
  }
  segment.mapping_ = map(file, segment.size_);
  if (!segment.mapping_) fail_system("map", segment.name_, errno);
  return segment;
}

SharedSegment::Mapping::~Mapping() { munmap(data, size); }

// A file that is mapped keeps its number, so the number says which mapping is of which file.
std::shared_ptr<SharedSegment::Mapping> SharedSegment::map(int file, size_t bytes) {
  static std::mutex mutex;
  static auto* const mappings = new std::map<std::pair<dev_t, ino_t>, std::weak_ptr<Mapping>>;
  struct stat info;
  if (fstat(file, &info) != 0) return nullptr;
  std::lock_guard lock(mutex);
  std::erase_if(*mappings, [](const auto& entry) { return entry.second.expired(); });
  auto& known = (*mappings)[{info.st_dev, info.st_ino}];
  if (auto mapping = known.lock()) return mapping;
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  madvise(data, bytes, MADV_HUGEPAGE);  // where the system allows it for shared memory
#endif
  const std::shared_ptr<Mapping> made(new Mapping{static_cast<char*>(data), bytes});
  known = made;
  return made;
}

SharedSegment SharedSegment::create(const std::string& name, size_t bytes) {
  const int file = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) fail_system("make", name, errno);
  return mapped(name, file, true, bytes);
}

SharedSegment SharedSegment::open(const std::string& name) {
  const int file = shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) fail_system("open", name, errno);
  return mapped(name, file, false, 0);
}

SharedSegment SharedSegment::create_anonymous(size_t bytes) {
  const std::string name = "a block of " + std::to_string(bytes) + " bytes";
#ifdef __linux__
  const int file = memfd_create("shardgrad", MFD_CLOEXEC);
  if (file < 0) fail_system("make", name, errno);
  SharedSegment segment = mapped(name, file, true, bytes);
  segment.named_ = false;
  return segment;
#else
  fail_system("make", name, ENOSYS);
#endif
}

SharedSegment SharedSegment::open_of(int process, int file) {
  const std::string path = "/proc/" + std::to_string(process) + "/fd/" + std::to_string(file);
  const int mine = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (mine < 0) fail_system("open", path, errno);
  SharedSegment segment = mapped(path, mine, false, 0);
  segment.named_ = false;
  return segment;
}

void SharedSegment::unlink() {
  if (std::exchange(named_, false)) shm_unlink(name_.c_str());
}

#ifdef F_OFD_SETLK
// Locks of the open file description, not of the process: the threads of one process are ranks of their own.
bool SharedSegment::claim(int place) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = place;
  lock.l_len = 1;
  return fcntl(file_, F_OFD_SETLK, &lock) == 0;
}

bool SharedSegment::claimed(int place) const {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = place;
  lock.l_len = 1;
  return fcntl(file_, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}
#else
// Without such locks only the heartbeat tells.
bool SharedSegment::claim(int) { return true; }
bool SharedSegment::claimed(int) const { return true; }
#endif

#ifdef __linux__
void wait_while_equal(std::atomic<uint32_t>& word, uint32_t value, int64_t timeout_ns) {
  const timespec timeout = {timeout_ns / 1'000'000'000, timeout_ns % 1'000'000'000};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT, value, &timeout, nullptr, 0);
}

void wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}
#else
void wait_while_equal(std::atomic<uint32_t>& word, uint32_t value, int64_t timeout_ns) {
  const timespec nap = {0, std::min<int64_t>(timeout_ns, 100'000)};
  if (word.load() == value) nanosleep(&nap, nullptr);
}

void wake_all(std::atomic<uint32_t>&) {}
#endif

}  // namespace sg
