// The state of every byte of the arenas, and the cells of the race checker beside it. Both are mapped when an arena is
// first used and cost memory only for what is touched.
#include "shadow.h"

#include <sys/mman.h>
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../memory.h"
#include "../report.h"
#include "../shadow.h"

namespace sg::emulation {

static void* map_zeros(size_t bytes) {
  void* const p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    report("the system does not give %zu GiB of addresses for the checker", bytes >> 30);
    abort();
  }
  return p;
}

const Shadow& shadow_of(int arena) {
  static Shadow shadows[kMostDevices + 1];
  Shadow& shadow = shadows[arena];
  if (!shadow.states) {
    shadow.states = static_cast<uint8_t*>(map_zeros(kArenaSpan));
    shadow.cells = static_cast<Cell*>(map_zeros(kArenaSpan / 4 * sizeof(Cell)));
  }
  return shadow;
}

namespace shadow {

namespace {

constexpr size_t kPage = 4096;

void clear_cells(Cell* cells, size_t offset, size_t bytes) {
  char* const begin = reinterpret_cast<char*>(cells + offset / 4);
  char* const end = reinterpret_cast<char*>(cells + (offset + bytes + 3) / 4);
  const auto up = [](char* p) {
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + kPage - 1) & ~(kPage - 1));
  };
  char* const first_page = std::min(up(begin), end);
  char* const last_page = std::max(first_page, up(end) - kPage);
  memset(begin, 0, size_t(first_page - begin));
  if (last_page > first_page) madvise(first_page, size_t(last_page - first_page), MADV_DONTNEED);
  memset(last_page, 0, size_t(end - last_page));
}

// False: some of it is not in use.
bool in_use(const Shadow& shadow, size_t offset, size_t bytes, const void* p, const char* who) {
  for (size_t i = 0; i < bytes; i++) {
    const uint8_t state = shadow.states[offset + i];
    if (state == kAllocated || state == kWritten) continue;
    report("%s: byte %zu of %zu at %p %s", who, i, bytes, p,
           state == kFreed ? "has been freed" : "is not in any allocation");
    return false;
  }
  return true;
}

}  // namespace

void allocated(const void* p, size_t bytes, size_t with_gap) {
  const Shadow& shadow = shadow_of(arena_of(p));
  const size_t offset = arena_offset(p);
  memset(shadow.states + offset, arena_of(p) == kHostArena ? kWritten : kAllocated, bytes);
  memset(shadow.states + offset + bytes, kNothing, with_gap - bytes);
  clear_cells(shadow.cells, offset, bytes);
}
void freed(const void* p, size_t bytes) { memset(shadow_of(arena_of(p)).states + arena_offset(p), kFreed, bytes); }
void mark(const void* p, size_t bytes, bool in_use) {
  if (arena_of(p) != kNoArena)
    memset(shadow_of(arena_of(p)).states + arena_offset(p), in_use ? kAllocated : kFreed, bytes);
}

bool touched(const void* p, size_t bytes, bool writes, const char* who) {
  const int arena = arena_of(p);
  if (arena == kNoArena) return true;
  const Shadow& shadow = shadow_of(arena);
  const size_t offset = arena_offset(p);
  if (!in_use(shadow, offset, bytes, p, who)) return false;
  const void* const fresh = writes ? nullptr : memchr(shadow.states + offset, kAllocated, bytes);
  if (fresh) {
    report("%s: byte %zu of %zu at %p was never written", who,
           size_t(static_cast<const uint8_t*>(fresh) - (shadow.states + offset)), bytes, p);
    return false;
  }
  if (writes) memset(shadow.states + offset, kWritten, bytes);
  if (arena != kHostArena) operation_touches(shadow.cells, offset, reinterpret_cast<uintptr_t>(p), bytes, writes, who);
  return true;
}

bool copied(const void* to, const void* from, size_t bytes, const char* who) {
  const int source = arena_of(from), target = arena_of(to);
  if (source != kNoArena) {
    const Shadow& shadow = shadow_of(source);
    if (!in_use(shadow, arena_offset(from), bytes, from, who)) return false;
    if (source != kHostArena)
      operation_touches(shadow.cells, arena_offset(from), reinterpret_cast<uintptr_t>(from), bytes, false, who);
  }
  if (target != kNoArena) {
    const Shadow& shadow = shadow_of(target);
    uint8_t* const states = shadow.states + arena_offset(to);
    if (!in_use(shadow, arena_offset(to), bytes, to, who)) return false;
    if (source == kNoArena || target == kHostArena) memset(states, kWritten, bytes);
    else memmove(states, shadow_of(source).states + arena_offset(from), bytes);
    if (target != kHostArena)
      operation_touches(shadow.cells, arena_offset(to), reinterpret_cast<uintptr_t>(to), bytes, true, who);
  }
  return true;
}

}  // namespace shadow
}  // namespace sg::emulation
