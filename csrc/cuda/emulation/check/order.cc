// Clocks inside a block are kept per pair of warps: known[w][v] is the last barrier up to which warp w knows all that
// warp v did. Between blocks of a launch only a fence followed by an atomic operation orders, with another atomic
// operation on the same place by the block that looks. Partial masks of __syncwarp count as the whole warp, and a fence
// counts for later accesses until the next barrier too: races may be missed there, none is invented.
#include "order.h"

#include <algorithm>
#include <bitset>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "../block.h"
#include "../checker.h"
#include "../clocks.h"
#include "cells.h"

namespace sg::emulation {

namespace {

constexpr int kWarps = kMaxThreads / 32;

uint32_t block_number = 1, launch_start = 1, next_number = 1;
uint32_t time_of_block;
uint32_t known[kWarps][kWarps];
uint16_t epochs[kWarps];

// What a block has released by fences.
struct Release {
  uint32_t known[kWarps] = {};
  uint32_t warp_time[kWarps] = {};
  uint16_t warp_epoch[kWarps] = {};
  std::vector<uint32_t> thread_until;  // own accesses of a thread, times below this
};
std::vector<std::unique_ptr<Release>> releases;  // by place in the grid
using Blocks = std::vector<uint64_t>;            // a bit each
std::unordered_map<uintptr_t, Blocks> released_at;
Blocks acquired;                        // by the block that runs
std::bitset<kMaxThreads> acquired_own;  // its threads that met what others of it have released

struct LaunchEntry {
  uint32_t first_block;
  int lane;
  uint32_t count;
};
std::vector<LaunchEntry> launches;

void add(Blocks& blocks, const Blocks& more) {
  if (blocks.size() < more.size()) blocks.resize(more.size());
  for (size_t i = 0; i < more.size(); i++) blocks[i] |= more[i];
}
void add(Blocks& blocks, uint32_t block) {
  if (blocks.size() <= block / 64) blocks.resize(block / 64 + 1);
  blocks[block / 64] |= uint64_t(1) << block % 64;
}
bool has(const Blocks& blocks, uint32_t block) {
  return block / 64 < blocks.size() && (blocks[block / 64] >> block % 64 & 1);
}

uint32_t note_launch(uint32_t blocks) {
  const uint32_t first = next_number;
  next_number += blocks;
  launches.push_back({first, running_moment.lane, running_moment.clock.at(running_moment.lane)});
  return first;
}

bool released(const Past& past) {
  const uint32_t place = place_in_grid(past.block);
  const Release* const release = releases[place].get();
  const bool met = past.block == block_number ? acquired_own[size_t(block.current)] : has(acquired, place);
  if (!release || !met) return false;
  if (past.thread != kNoThread && !release->thread_until.empty() && past.time < release->thread_until[past.thread])
    return true;
  for (uint32_t left = past.warps; left; left &= left - 1) {
    const int w = __builtin_ctz(left);
    const bool synced = past.time == release->warp_time[w] && past.epoch != release->warp_epoch[w];
    if (past.time > release->known[w] && !synced) return false;
  }
  return true;
}

}  // namespace

uint32_t current_block() { return block_number; }
uint32_t current_time() { return time_of_block; }
uint16_t current_epoch() { return epochs[block.current / 32]; }
bool in_current_launch(uint32_t number) { return number >= launch_start; }
uint32_t place_in_grid(uint32_t number) { return number - launch_start; }
uint32_t new_operation() { return note_launch(1); }

bool launch_happened_before(uint32_t number) {
  // Neighbouring accesses come from the same launch nearly always.
  static struct {
    uint32_t first = 1, end = 1, moment = 0;
    bool before = false;
  } last;
  const uint32_t moment = uint32_t(launches.size());
  if (last.moment == moment && number >= last.first && number < last.end) return last.before;
  const auto next = std::upper_bound(launches.begin(), launches.end(), number,
                                     [](uint32_t n, const LaunchEntry& entry) { return n < entry.first_block; });
  const LaunchEntry& entry = *std::prev(next);
  last.first = entry.first_block;
  last.end = next == launches.end() ? next_number : next->first_block;
  last.moment = moment;
  last.before = running_moment.clock.at(entry.lane) >= entry.count;
  return last.before;
}

bool happened_before(const Past& past, bool shared_memory) {
  if (!in_current_launch(past.block)) return shared_memory || launch_happened_before(past.block);
  if (past.block != block_number) return shared_memory || released(past);
  if (past.thread == block.current) return true;
  const int self = block.current / 32;
  for (uint32_t left = past.warps; left; left &= left - 1) {
    const int w = __builtin_ctz(left);
    if (past.time > known[self][w] && (w != self || past.epoch == epochs[self])) return released(past);
  }
  return true;
}

void meet_at(uintptr_t address) {
  Blocks& there = released_at[address];
  add(acquired, there);
  const uint32_t place = place_in_grid(block_number);
  if (has(there, place)) acquired_own.set(size_t(block.current));
  if (!releases[place]) return;
  add(there, acquired);
  add(there, place);
}

namespace checker {

void kernel_starts(const Launch&, uint64_t blocks) {
  launch_start = note_launch(uint32_t(blocks));
  releases.clear();
  releases.resize(blocks);
  released_at.clear();
}
void kernel_ends() { launch_start = next_number; }

void block_starts(uint64_t index) {
  block_number = launch_start + uint32_t(index);
  time_of_block = 1;
  memset(known, 0, sizeof known);
  memset(epochs, 0, sizeof epochs);
  acquired.clear();
  acquired_own.reset();
}

void barrier_completes(const Barrier& barrier, int last) {
  uint32_t waiting = 0, all = 0;
  for (const uint16_t thread : barrier.waiting) waiting |= 1u << thread / 32;
  if (last >= 0) waiting |= 1u << last / 32;
  all = waiting;
  for (const uint16_t thread : barrier.arrivals) all |= 1u << thread / 32;
  uint32_t joined[kWarps] = {};
  for (uint32_t left = all; left; left &= left - 1) {
    const int w = __builtin_ctz(left);
    for (int v = 0; v < kWarps; v++) joined[v] = std::max(joined[v], known[w][v]);
    joined[w] = time_of_block;
  }
  // Those that only arrived hand on what they know and learn nothing.
  for (uint32_t left = waiting; left; left &= left - 1) memcpy(known[__builtin_ctz(left)], joined, sizeof joined);
  time_of_block++;
  if (acquired_own.any()) acquired_own.set();
}

void warp_syncs(int warp) { epochs[warp]++; }

void fence() {
  std::unique_ptr<Release>& slot = releases[place_in_grid(block_number)];
  if (!slot) slot = std::make_unique<Release>();
  Release& release = *slot;
  const int self = block.current / 32;
  for (int w = 0; w < kWarps; w++) release.known[w] = std::max(release.known[w], known[self][w]);
  release.warp_time[self] = time_of_block;
  release.warp_epoch[self] = epochs[self];
  release.thread_until.resize(kMaxThreads);
  release.thread_until[size_t(block.current)] = time_of_block + 1;
}

}  // namespace checker
}  // namespace sg::emulation
