// Happens-before within a launch and between launches: the part of the race checker that knows barriers, fences and
// streams, and nothing of memory.
#pragma once
#include <cstdint>

namespace sg::emulation {

// An access that lies back.
struct Past {
  uint32_t block;
  uint16_t thread;  // kNoThread: several, of the warps in the mask
  uint32_t warps;
  uint32_t time;
  uint16_t epoch;
};

uint32_t current_block();
uint32_t current_time();
uint16_t current_epoch();  // of the current thread's warp
// Whether it happened before what the current thread does now. Shared memory of another block is other memory.
bool happened_before(const Past& past, bool shared_memory);
// Whether the launch or operation of that block happened before the running operation.
bool launch_happened_before(uint32_t block);
bool in_current_launch(uint32_t block);
uint32_t place_in_grid(uint32_t block);
uint32_t new_operation();  // the number of an operation that is no kernel, for the running moment

}  // namespace sg::emulation
