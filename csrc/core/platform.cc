#include "platform.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>

#include <cstdio>
#endif

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>

#include "error.h"

namespace sg {

namespace {

constexpr size_t kHugePage = size_t(2) << 20;

#ifdef __linux__
// A container is often given two cores of sixty-four by a quota that the affinity mask does not show.
int container_cores() {
  std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "re");
  if (!f) return 0;
  long long quota = 0, period = 0;
  const bool limited = std::fscanf(f, "%lld %lld", &quota, &period) == 2 && quota > 0 && period > 0;
  std::fclose(f);
  return limited ? int((quota + period - 1) / period) : 0;
}

size_t container_memory() {
  std::FILE* f = std::fopen("/sys/fs/cgroup/memory.max", "re");
  if (!f) return 0;
  unsigned long long bytes = 0;
  const bool limited = std::fscanf(f, "%llu", &bytes) == 1;
  std::fclose(f);
  return limited ? size_t(bytes) : 0;
}
#endif

}  // namespace

int usable_cores() {
  int cores = int(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  if (const int quota = container_cores(); quota > 0) cores = std::min(cores, quota);
#endif
  return std::max(1, cores);
}

size_t usable_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  size_t bytes = pages > 0 && page > 0 ? size_t(pages) * size_t(page) : SIZE_MAX;
#ifdef __linux__
  if (const size_t limit = container_memory(); limit > 0) bytes = std::min(bytes, limit);
#endif
  return bytes;
}

void name_thread(const char* name) {
#ifdef __linux__
  pthread_setname_np(pthread_self(), name);
#elif defined(__APPLE__)
  pthread_setname_np(name);
#endif
}

std::optional<uint64_t> number_from_environment(const char* name) {
  const char* const text = std::getenv(name);
  if (!text || !*text) return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const unsigned long long n = std::strtoull(text, &end, 10);
  if (*end || errno || n < 1 || !std::isdigit(static_cast<unsigned char>(*text))) {
    fail(ErrorCode::Value, name, " must be a whole number from 1, got \"", text, "\"");
  }
  return n;
}

void* map_pages(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  const size_t span = huge ? bytes + kHugePage : bytes;
  if (span < bytes) return nullptr;
  void* p = mmap(nullptr, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  if (!huge) return p;
  // mmap aligns to small pages only: map too much and cut both ends off.
  char* const begin = static_cast<char*>(p);
  char* const aligned = begin + (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  const size_t before = size_t(aligned - begin), after = span - before - bytes;
  if (before) munmap(begin, before);
  if (after) munmap(aligned + bytes, after);
#ifdef MADV_HUGEPAGE
  madvise(aligned, bytes, MADV_HUGEPAGE);
#endif
  return aligned;
}

void unmap_pages(void* p, size_t bytes) { munmap(p, bytes); }

}  // namespace sg
