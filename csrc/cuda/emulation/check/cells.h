// Who touched four bytes last, and what happened before what. Blocks have numbers that go on from launch to launch;
// copies and library calls count as launches of one block.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg::emulation {

struct Cell {
  uint32_t write_block, read_block;
  uint32_t write_code, read_code;  // lower halves of addresses
  uint32_t write_time, read_time;  // barriers that had completed in the block
  uint32_t read_warps;
  uint16_t write_thread, read_thread;
  uint16_t write_epoch, read_epoch;  // __syncwarps of the warp
  uint8_t write_mask, read_mask;     // which of the four bytes
  bool write_atomic, many_readers;
};
inline constexpr uint16_t kNoThread = 0xffff;  // a copy or a library; the code is the address of its name

struct Accessor {
  bool shared_memory;
  bool writes, atomic;
  uintptr_t code;
};

// Looks for races of the current thread's access with those before it and notes the access. `cells` belong to the
// memory at `address - offset`.
void access_cells(Cell* cells, size_t offset, uintptr_t address, size_t bytes, const Accessor& accessor);
// The same for an operation that is no kernel.
void operation_touches(Cell* cells, size_t offset, uintptr_t address, size_t bytes, bool writes, const char* who);
// An atomic operation hands on what its block has released by a fence, and takes over what others have.
void meet_at(uintptr_t address);

}  // namespace sg::emulation
