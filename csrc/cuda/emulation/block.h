// The block that runs. Blocks run one after another and their threads take turns on one thread of the system, which
// holds the runtime's lock, so all of this exists once per process and needs no synchronisation.
#pragma once
#include <cstdint>
#include <cuda_runtime_api.h>
#include <memory>
#include <source_location>
#include <vector>

#include "fiber.h"
#include "report.h"

namespace sg::emulation {

using Site = std::source_location;
inline bool same_place(const Site& a, const Site& b) {
  return a.line() == b.line() && (a.file_name() == b.file_name() || !__builtin_strcmp(a.file_name(), b.file_name()));
}
enum class Collective;
enum class Predicate;

struct Launch {
  const void* kernel;
  dim3 grid, block;
  size_t shared_bytes;
  void (*invoke)(const void* arguments);
  std::shared_ptr<void> arguments;
  size_t argument_bytes;
};

struct PendingCopy {
  char* to;
  const char* from;
  uint8_t bytes, source_bytes;
  uint32_t group;
  uintptr_t code;  // where it was issued
};

enum class ThreadState : uint8_t { Unstarted, Ready, AtBarrier, InCollective, Done };

struct Thread {
  Fiber* fiber = nullptr;
  ThreadState state = ThreadState::Unstarted;
  uint8_t barrier = 0;
  Site site;  // where it waits
  uint32_t copy_group = 0;
  std::vector<PendingCopy> copies;
};

struct Barrier {
  int arrived = 0, expected = 0;
  Site site;
  int count = 0;
  bool all = true;
  int results[4] = {};                      // of the last completion, by Predicate
  std::vector<uint16_t> waiting, arrivals;  // threads; those that only arrived go on
};

// Lanes that wait for the rest of their mask.
struct Gathering {
  unsigned mask, arrived;
  Collective kind;
  Site site;
  void* lanes[32];
};

struct Warp {
  unsigned alive = 0;
  std::vector<Gathering> gatherings;
};

struct Block {
  const Launch* launch = nullptr;
  uint64_t index = 0;  // within the grid
  int threads = 0, live = 0, current = 0;
  bool running = false;
  Thread thread[kMaxThreads];
  Warp warp[kMaxThreads / 32];
  Barrier barrier[16];

  Thread& self() { return thread[current]; }
  unsigned lanes_of(int w) const {
    const int count = threads - w * 32;
    return count >= 32 ? ~0u : (1u << count) - 1;
  }
};
extern Block block;

// ---- scheduler.cc
void run_kernel(const Launch& launch);
void make_ready(int thread);
void wait_here();                   // the current thread has noted what it waits for
void yield_here();                  // the current thread could go on, but another one does first
[[noreturn]] void abandon_block();  // after a report that the kernel cannot survive

// ---- barriers.cc, copies.cc, shared_memory.cc
void reset_barriers();
void leave_barriers();  // the current thread has ended
void land_copies(Thread& thread, uint32_t before_group);
void reset_shared_memory(size_t dynamic_bytes);

}  // namespace sg::emulation
