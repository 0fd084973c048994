// Data races, in the manner of FastTrack (Flanagan and Freund, PLDI 2009): the last write of four bytes, and their last
// reader, or the warps of several readers that none of them ordered. Bytes of the same four that different threads
// touch keep the last writer and the last reader only: a race may be missed there, and none is invented.
#include <cstdlib>
#include <string>

#include "../block.h"
#include "../report.h"
#include "cells.h"
#include "order.h"

namespace sg::emulation {

namespace {

const char* kind(bool writes, bool atomic) { return atomic ? "atomic" : writes ? "write" : "read"; }

uintptr_t kernels_code;  // somewhere in the code of kernels

// The upper half of an address in the same or a neighbouring 4 GiB.
uintptr_t whole_address(uint32_t lower, uintptr_t near) {
  const uintptr_t address = (near & ~uintptr_t(0xffffffff)) | lower;
  const intptr_t distance = intptr_t(address - near);
  if (distance > intptr_t(1) << 31) return address - (uintptr_t(1) << 32);
  if (distance < -(intptr_t(1) << 31)) return address + (uintptr_t(1) << 32);
  return address;
}

std::string describe_past(const Cell& cell, bool was_write) {
  const uint32_t lower = was_write ? cell.write_code : cell.read_code;
  const uint16_t thread = was_write ? cell.write_thread : cell.read_thread;
  const uint32_t number = was_write ? cell.write_block : cell.read_block;
  if (thread == kNoThread) {
    static const char in_this_library = 0;
    return reinterpret_cast<const char*>(whole_address(lower, reinterpret_cast<uintptr_t>(&in_this_library)));
  }
  std::string text =
      std::string(kind(was_write, was_write && cell.write_atomic)) + " by thread " + std::to_string(thread);
  if (!in_current_launch(number)) text += " of a kernel before it";
  else if (number != current_block()) text += " of block " + std::to_string(place_in_grid(number));
  return text + " at " + describe_code(whole_address(lower, kernels_code));
}

const char* what_is_missing(const Cell& cell, bool was_write) {
  const uint32_t number = was_write ? cell.write_block : cell.read_block;
  if (!in_current_launch(number)) return "no event or synchronisation between the streams";
  return number == current_block() ? "no barrier between" : "no fence with an atomic operation between";
}

void race(const Cell& cell, bool was_write, uintptr_t address, const Accessor& accessor) {
  if (fault_is_new(accessor.code, was_write ? cell.write_code : cell.read_code))
    tell("data race on %s memory %p: %s by thread %d at %s; earlier %s; %s",
         accessor.shared_memory ? "shared" : "global", reinterpret_cast<void*>(address),
         kind(accessor.writes, accessor.atomic), block.current, describe_code(accessor.code).c_str(),
         describe_past(cell, was_write).c_str(), what_is_missing(cell, was_write));
}

Past past_write(const Cell& cell) {
  return {cell.write_block, cell.write_thread, 1u << (cell.write_thread / 32 % 32), cell.write_time, cell.write_epoch};
}
Past past_read(const Cell& cell) {
  return {cell.read_block, cell.many_readers ? kNoThread : cell.read_thread, cell.read_warps, cell.read_time,
          cell.read_epoch};
}

void note_write(Cell& cell, uint8_t mask, const Accessor& accessor, uint32_t number, uint16_t thread) {
  cell.write_block = number;
  cell.write_thread = thread;
  cell.write_code = uint32_t(accessor.code);
  cell.write_mask = mask;
  cell.write_atomic = accessor.atomic;
  cell.read_mask &= uint8_t(~mask);
}

}  // namespace

void access_cells(Cell* cells, size_t offset, uintptr_t address, size_t bytes, const Accessor& accessor) {
  const auto self = uint16_t(block.current);
  kernels_code = accessor.code;
  for (size_t at = offset & ~size_t(3); at < offset + bytes; at += 4) {
    Cell& cell = cells[at / 4];
    const size_t low = at < offset ? offset - at : 0, high = at + 4 > offset + bytes ? offset + bytes - at : 4;
    const auto mask = uint8_t(((1u << high) - 1) & ~((1u << low) - 1));
    if ((cell.write_mask & mask) && !(accessor.atomic && cell.write_atomic && in_current_launch(cell.write_block)) &&
        !happened_before(past_write(cell), accessor.shared_memory))
      race(cell, true, address, accessor);
    if (accessor.writes) {
      if ((cell.read_mask & mask) && !happened_before(past_read(cell), accessor.shared_memory))
        race(cell, false, address, accessor);
      note_write(cell, mask, accessor, current_block(), self);
      cell.write_time = current_time();
      cell.write_epoch = current_epoch();
      continue;
    }
    const bool concurrent = (cell.read_mask & mask) && !happened_before(past_read(cell), accessor.shared_memory);
    if (concurrent && cell.read_block != current_block()) continue;  // the older reader is further from what follows
    cell.many_readers = concurrent;
    cell.read_warps = (concurrent ? cell.read_warps : 0) | 1u << self / 32;
    cell.read_mask = uint8_t((concurrent ? cell.read_mask : 0) | mask);
    cell.read_block = current_block();
    cell.read_thread = self;
    cell.read_time = current_time();
    cell.read_epoch = current_epoch();
    cell.read_code = uint32_t(accessor.code);
  }
}

void operation_touches(Cell* cells, size_t offset, uintptr_t address, size_t bytes, bool writes, const char* who) {
  const uint32_t number = new_operation();
  const Accessor accessor{false, writes, false, reinterpret_cast<uintptr_t>(who)};
  const auto race_with = [&](const Cell& cell, bool was_write) {
    if (fault_is_new(accessor.code, was_write ? cell.write_code : cell.read_code))
      tell("data race on global memory %p: %s; earlier %s; no event or synchronisation between the streams",
           reinterpret_cast<void*>(address), who, describe_past(cell, was_write).c_str());
  };
  for (size_t at = offset & ~size_t(3); at < offset + bytes; at += 4) {
    Cell& cell = cells[at / 4];
    const size_t low = at < offset ? offset - at : 0, high = at + 4 > offset + bytes ? offset + bytes - at : 4;
    const auto mask = uint8_t(((1u << high) - 1) & ~((1u << low) - 1));
    if ((cell.write_mask & mask) && !launch_happened_before(cell.write_block)) race_with(cell, true);
    const bool read_before = !cell.read_mask || launch_happened_before(cell.read_block);
    if (writes) {
      if ((cell.read_mask & mask) && !read_before) race_with(cell, false);
      note_write(cell, mask, accessor, number, kNoThread);
    } else if (read_before) {
      cell.many_readers = false;
      cell.read_mask = mask;
      cell.read_block = number;
      cell.read_thread = kNoThread;
      cell.read_code = uint32_t(accessor.code);
    }
  }
}

}  // namespace sg::emulation
