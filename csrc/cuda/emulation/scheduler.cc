// Runs kernels: block after block, the threads of a block taking turns. A thread runs until it has to wait; one that
// ends without ever waiting leaves its stack to the next, so kernels without barriers run as a plain loop. Running
// ahead like this breaks every assumption about threads that "run together" at once.
#include <algorithm>
#include <deque>
#include <numeric>
#include <vector>

#include "block.h"
#include "checker.h"
#include "device_state.h"
#include "options.h"

extern "C" {
__attribute__((visibility("default"))) uint3 threadIdx, blockIdx;
__attribute__((visibility("default"))) dim3 blockDim, gridDim;
}

namespace sg::emulation {

Block block;

static Fiber main_fiber, *active = &main_fiber;
static std::deque<Fiber> fibers;         // all that were ever needed
static std::vector<Fiber*> free_fibers;  // at the point in run_threads where they look for a thread
static bool abandoned;

// Threads that could run. In order it is a queue; else the last one, or any one, is taken.
static std::vector<uint16_t> ready;
static size_t ready_head;

void make_ready(int thread) {
  block.thread[thread].state = ThreadState::Ready;
  ready.push_back(uint16_t(thread));
}

static int take_ready() {
  if (ready_head == ready.size()) return -1;
  switch (options().schedule) {
    case Schedule::InOrder: {
      const int thread = ready[ready_head++];
      if (ready_head == ready.size()) {
        ready.clear();
        ready_head = 0;
      }
      return thread;
    }
    case Schedule::Random: std::swap(ready[random_number() % ready.size()], ready.back()); break;
    case Schedule::Reverse: break;
  }
  const int thread = ready.back();
  ready.pop_back();
  return thread;
}

static void become(int thread) {
  block.current = thread;
  const unsigned x = blockDim.x, y = blockDim.y, t = unsigned(thread);
  threadIdx = y * blockDim.z == 1 ? uint3{t, 0, 0} : uint3{t % x, t / x % y, t / (x * y)};
}
static void go_to(Fiber& fiber) {
  Fiber& from = *active;
  active = &fiber;
  Fiber::switch_to(from, fiber);
}

static void end_thread() {
  Thread& thread = block.self();
  land_copies(thread, UINT32_MAX);
  thread.state = ThreadState::Done;
  block.live--;
  block.warp[block.current / 32].alive &= ~(1u << (block.current % 32));
  leave_barriers();
}

// What every fiber does for ever: it runs threads from their start to their end.
static void run_threads() {
  Fiber& self = *active;
  for (;;) {
    block.self().fiber = &self;
    block.launch->invoke(block.launch->arguments.get());
    end_thread();
    const int next = take_ready();
    if (next >= 0 && block.thread[next].fiber == nullptr) {
      become(next);
      continue;
    }
    free_fibers.push_back(&self);
    if (next < 0) go_to(main_fiber);
    else {
      become(next);
      go_to(*block.thread[next].fiber);
    }
  }
}

static Fiber& fresh_fiber() {
  if (free_fibers.empty()) {
    Fiber& fiber = fibers.emplace_back();
    const int number = int(fibers.size()) - 1;
    fiber.reset(stack_of(number), stack_bytes(number), run_threads);
    return fiber;
  }
  Fiber& fiber = *free_fibers.back();
  free_fibers.pop_back();
  return fiber;
}

void wait_here() {
  const int self = block.current, next = take_ready();
  if (next == self) return become(self);
  if (next < 0) go_to(main_fiber);
  else {
    become(next);
    Fiber* fiber = block.thread[next].fiber;
    go_to(fiber ? *fiber : fresh_fiber());
  }
}

void yield_here() {
  make_ready(block.current);
  wait_here();
}

void abandon_block() {
  abandoned = true;
  go_to(main_fiber);
  __builtin_unreachable();  // the fiber is reset before its next use
}

static void report_deadlock() {
  int first = 0;
  while (block.thread[first].state == ThreadState::Done) first++;
  int other = first;
  const Site& site = block.thread[first].site;
  for (int i = first; i < block.threads; i++)
    if (block.thread[i].state != ThreadState::Done && block.thread[i].site.line() != site.line()) other = i;
  become(first);
  if (other == first)
    report("deadlock: %d of %d threads never go on; they wait at %s", block.live, block.threads,
           describe(site).c_str());
  else
    report("deadlock: %d of %d threads never go on; thread %d waits at %s, thread %d at %s", block.live, block.threads,
           first, describe(site).c_str(), other, describe(block.thread[other].site).c_str());
}

static void run_block(uint64_t index) {
  const Launch& launch = *block.launch;
  block.index = index;
  blockIdx = {unsigned(index % launch.grid.x), unsigned(index / launch.grid.x % launch.grid.y),
              unsigned(index / (uint64_t(launch.grid.x) * launch.grid.y))};
  block.live = block.threads;
  reset_barriers();
  reset_shared_memory(launch.shared_bytes);
  checker::block_starts(index);
  for (int w = 0; w * 32 < block.threads; w++) {
    block.warp[w].alive = block.lanes_of(w);
    block.warp[w].gatherings.clear();
  }
  ready.resize(size_t(block.threads));
  ready_head = 0;
  std::iota(ready.begin(), ready.end(), uint16_t(0));
  for (int i = 0; i < block.threads; i++) {
    block.thread[i].fiber = nullptr;
    block.thread[i].state = ThreadState::Unstarted;
    block.thread[i].copies.clear();
    block.thread[i].copy_group = 0;
  }
  become(take_ready());
  block.running = true;
  go_to(fresh_fiber());
  active = &main_fiber;
  if (!abandoned && block.live) {
    report_deadlock();
    abandoned = true;
  }
  block.running = false;
  if (abandoned) {  // some fibers stand in the middle of threads that will not go on
    free_fibers.clear();
    for (int i = int(fibers.size()); i-- > 0;) {
      fibers[size_t(i)].reset(stack_of(i), stack_bytes(i), run_threads);
      free_fibers.push_back(&fibers[size_t(i)]);
    }
    abandoned = false;
  }
}

void run_kernel(const Launch& launch) {
  if (device_fault(running_device()) != cudaSuccess) return;
  block.launch = &launch;
  block.threads = int(launch.block.x * launch.block.y * launch.block.z);
  blockDim = launch.block;
  gridDim = launch.grid;
  const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  checker::kernel_starts(launch, blocks);
  std::vector<uint32_t> order;
  if (options().schedule == Schedule::Random && blocks > 1) {
    order.resize(blocks);
    std::iota(order.begin(), order.end(), 0u);
    for (uint64_t i = blocks - 1; i > 0; i--) std::swap(order[i], order[random_number() % (i + 1)]);
  }
  for (uint64_t i = 0; i < blocks && device_fault(running_device()) == cudaSuccess; i++)
    run_block(!order.empty() ? order[i] : options().schedule == Schedule::Reverse ? blocks - 1 - i : i);
  checker::kernel_ends();
}

}  // namespace sg::emulation
