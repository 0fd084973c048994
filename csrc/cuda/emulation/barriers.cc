// Barriers of a block: barrier 0 for all threads that have not ended, the others for as many as each call says.
#include "device.h"
#include "block.h"
#include "checker.h"

namespace sg::emulation {

void reset_barriers() {
  for (Barrier& barrier : block.barrier) {
    barrier.arrived = 0;
    barrier.waiting.clear();
    barrier.arrivals.clear();
  }
}

// Everybody is there. `last` is the thread that completes the barrier and goes on without waiting, or -1 if one that
// ended did.
static void complete(Barrier& barrier, int last) {
  barrier.results[int(Predicate::Count)] = barrier.count;
  barrier.results[int(Predicate::And)] = barrier.all;
  barrier.results[int(Predicate::Or)] = barrier.count > 0;
  checker::barrier_completes(barrier, last);
  for (const uint16_t thread : barrier.waiting) make_ready(thread);
  barrier.arrived = 0;
  barrier.waiting.clear();
  barrier.arrivals.clear();
}

static int arrive(int id, int expected, bool wait, Predicate predicate, int value, const Site& site) {
  Barrier& barrier = block.barrier[id];
  if (barrier.arrived == 0) {
    barrier.site = site;
    barrier.expected = expected;
    barrier.count = 0;
    barrier.all = true;
  } else if (id == 0 && !same_place(barrier.site, site)) {
    report("divergent barrier: this thread is at %s, others wait at %s", describe(site).c_str(),
           describe(barrier.site).c_str());
    abandon_block();
  } else if (barrier.expected != expected) {
    report("barrier %d is for %d threads at %s and for %d at %s", id, expected, describe(site).c_str(),
           barrier.expected, describe(barrier.site).c_str());
    abandon_block();
  }
  barrier.count += value != 0;
  barrier.all &= value != 0;
  Thread& self = block.self();
  self.site = site;
  self.barrier = uint8_t(id);
  if (++barrier.arrived >= (expected ? expected : block.live)) complete(barrier, block.current);
  else if (wait) {
    barrier.waiting.push_back(uint16_t(block.current));
    self.state = ThreadState::AtBarrier;
    wait_here();
  } else barrier.arrivals.push_back(uint16_t(block.current));
  return barrier.results[int(predicate)];
}

// A thread that has ended counts no longer, as on every GPU since Volta.
void leave_barriers() {
  Barrier& barrier = block.barrier[0];
  if (barrier.arrived && barrier.arrived >= block.live) complete(barrier, -1);
}

int block_barrier(Predicate predicate, int value, Site site) { return arrive(0, 0, true, predicate, value, site); }

void named_barrier(int id, int threads, bool wait, Site site) {
  if (id < 1 || id > 15 || threads < 32 || threads > kMaxThreads || threads % 32) {
    report("named barrier %d for %d threads at %s: ids are 1 to 15 (0 is __syncthreads), counts multiples of 32", id,
           threads, describe(site).c_str());
    abandon_block();
  }
  arrive(id, threads, wait, Predicate::None, 0, site);
}

}  // namespace sg::emulation
