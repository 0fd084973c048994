// Arenas: next fit over free ranges that are merged on release.
#include "memory.h"

#include <sys/mman.h>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>

#include "device_state.h"
#include "options.h"
#include "report.h"
#include "shadow.h"

namespace sg::emulation {

namespace {

constexpr size_t kAlignment = 512, kGap = 512;
constexpr size_t kPoisoned = size_t(64) << 20;  // filling more would cost more memory than it finds
constexpr size_t kReturned = size_t(1) << 20;   // freed ranges from here on go back to the system
constexpr size_t kHostBytes = size_t(16) << 30;

struct Arena {
  std::map<char*, size_t> free_ranges, allocations;
  char* next = nullptr;  // where the last search ended
  size_t allocated = 0;
};
Arena arenas[kMostDevices + 1];
std::map<char*, size_t> registered;
bool may_touch[kMostDevices][kMostDevices];

size_t padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment + kGap; }

char* all_arenas() {
  static char* const base = [] {
    const size_t bytes = kArenaSpan * (kMostDevices + 1);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      report("the system does not give %zu GiB of addresses", bytes >> 30);
      abort();
    }
    for (int i = 0; i <= kMostDevices; i++) {
      char* const start = static_cast<char*>(p) + size_t(i) * kArenaSpan + kAlignment;
      const size_t limit = i == kHostArena ? kHostBytes : options().device_bytes;
      arenas[i].free_ranges[start] = std::min(kArenaSpan - kAlignment, 4 * limit);
      arenas[i].next = start;
    }
    return static_cast<char*>(p);
  }();
  return base;
}

void add_free_range(Arena& arena, char* p, size_t bytes) {
  auto next = arena.free_ranges.lower_bound(p);
  if (next != arena.free_ranges.end() && p + bytes == next->first) {
    bytes += next->second;
    next = arena.free_ranges.erase(next);
  }
  if (next != arena.free_ranges.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == p) {
      before->second += bytes;
      return;
    }
  }
  arena.free_ranges[p] = bytes;
}

char* take_range(Arena& arena, size_t bytes) {
  const auto from = arena.free_ranges.lower_bound(arena.next);
  auto found = from;
  while (found != arena.free_ranges.end() && found->second < bytes) ++found;
  if (found == arena.free_ranges.end()) {
    // The range that the last search stopped within starts before `next`, so all of them are looked at once more.
    found = arena.free_ranges.begin();
    while (found != arena.free_ranges.end() && found->second < bytes) ++found;
    if (found == arena.free_ranges.end()) return nullptr;
  }
  char* const p = found->first;
  const size_t rest = found->second - bytes;
  arena.free_ranges.erase(found);
  if (rest) arena.free_ranges[p + bytes] = rest;
  arena.next = p + bytes;
  return p;
}

}  // namespace

int arena_of(const void* p) {
  const size_t offset = size_t(static_cast<const char*>(p) - all_arenas());
  return offset < kArenaSpan * (kMostDevices + 1) ? int(offset / kArenaSpan) : kNoArena;
}
size_t arena_offset(const void* p) { return size_t(static_cast<const char*>(p) - all_arenas()) % kArenaSpan; }
char* arena_base(int arena) { return all_arenas() + size_t(arena) * kArenaSpan; }

cudaError_t allocate(int index, size_t bytes, void** out) {
  arena_base(index);
  Arena& arena = arenas[index];
  const size_t limit = index == kHostArena ? kHostBytes : options().device_bytes;
  if (bytes > limit || arena.allocated + bytes > limit) return cudaErrorMemoryAllocation;
  char* const p = take_range(arena, padded(bytes));
  if (!p) return cudaErrorMemoryAllocation;
  arena.allocations[p] = bytes;
  arena.allocated += bytes;
  // As NaNs: nothing may rely on what memory holds at first.
  if (index != kHostArena) memset(p, 0xff, std::min(bytes, kPoisoned));
  shadow::allocated(p, bytes, padded(bytes));
  *out = p;
  return cudaSuccess;
}

bool release(int index, void* p) {
  Arena& arena = arenas[index];
  const auto found = arena.allocations.find(static_cast<char*>(p));
  if (found == arena.allocations.end()) return false;
  const size_t bytes = found->second;
  arena.allocations.erase(found);
  arena.allocated -= bytes;
  shadow::freed(p, bytes);
  if (bytes >= kReturned) madvise(p, bytes, MADV_DONTNEED);
  else memset(p, 0xff, bytes);
  add_free_range(arena, static_cast<char*>(p), padded(bytes));
  return true;
}

size_t bytes_from(const void* p) {
  const int index = arena_of(p);
  if (index == kNoArena) return 0;
  auto& allocations = arenas[index].allocations;
  auto after = allocations.upper_bound(const_cast<char*>(static_cast<const char*>(p)));
  if (after == allocations.begin()) return 0;
  --after;
  const size_t offset = size_t(static_cast<const char*>(p) - after->first);
  return offset < after->second ? after->second - offset : 0;
}
size_t allocated_bytes(int arena) { return arenas[arena].allocated; }

bool register_host(void* p, size_t bytes) {
  char* const start = static_cast<char*>(p);
  const auto after = registered.lower_bound(start + bytes);
  if (after != registered.begin() && std::prev(after)->first + std::prev(after)->second > start) return false;
  registered[start] = bytes;
  return true;
}
bool unregister_host(void* p) { return registered.erase(static_cast<char*>(p)) == 1; }
bool is_registered(const void* p, size_t bytes) {
  char* const start = const_cast<char*>(static_cast<const char*>(p));
  const auto after = registered.upper_bound(start);
  return after != registered.begin() && start + bytes <= std::prev(after)->first + std::prev(after)->second;
}
bool is_pinned(const void* p) { return arena_of(p) == kHostArena || is_registered(p, 1); }

bool may_access(const void* p, size_t bytes, const char* who) {
  const int arena = arena_of(p);
  if (arena == kNoArena || bytes == 0) return true;
  const size_t there = bytes_from(p);
  if (there < bytes) {
    if (there == 0) report("%s: %p is not in any allocation", who, p);
    else report("%s: %zu bytes at %p, whose allocation ends after %zu", who, bytes, p, there);
    return false;
  }
  if (arena != kHostArena && !peers(running_device(), arena)) {
    report("%s: device %d touches memory of device %d at %p without peer access", who, running_device(), arena, p);
    return false;
  }
  return true;
}

bool peers(int device, int other) { return device == other || may_touch[device][other]; }
void set_peers(int device, int other, bool may) { may_touch[device][other] = may; }

}  // namespace sg::emulation
