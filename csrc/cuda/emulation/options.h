// What the environment chooses, read once.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg::emulation {

enum class Schedule { InOrder, Reverse, Random };

struct Options {
  Schedule schedule;  // SHARDGRAD_EMULATION_SCHEDULE: order, reverse or the seed of a random one
  uint64_t seed;
  uint32_t preempt;      // SHARDGRAD_EMULATION_PREEMPT=n: another thread goes on at 1 of n accesses (check build)
  bool lazy;             // SHARDGRAD_EMULATION_LAZY=0: streams run their work at once
  bool abort_on_report;  // SHARDGRAD_EMULATION_ABORT=1: for a debugger
  int devices;           // SHARDGRAD_EMULATED_GPUS
  size_t device_bytes;   // SHARDGRAD_EMULATED_GPU_BYTES
  size_t shared_bytes;   // SHARDGRAD_EMULATED_SHARED_BYTES: what a block may ask for
};
// Tests change the schedule between launches; everything else is fixed by the first use.
Options& options();

void set_schedule(const char* text);  // as the environment variable
uint32_t random_number();             // of the schedule's generator

}  // namespace sg::emulation
