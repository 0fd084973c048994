// Handles of storages: generation (28 bits) * 2^24 + slot, exact in a double. Looking one up is two compares, and a
// handle of freed memory, or a number that never was a handle, is an error and not a crash. One table an environment.
#pragma once
#include <cstdint>
#include <vector>

#include "devices.h"

namespace sg {

struct Storage {
  Block* block = nullptr;  // null: the slot is free
  DeviceContext* device = nullptr;
  uint32_t generation = 1;
  size_t bytes() const { return block->requested; }
};

class StorageTable {
 public:
  static constexpr uint32_t kMaxSlots = 1u << 24;
  static constexpr uint32_t kGenerations = 1u << 28;

  double add(DeviceContext& device, Block* block) {
    uint32_t slot;
    if (free_.empty()) {
      slot = uint32_t(slots_.size());
      if (slot == kMaxSlots) fail(ErrorCode::OutOfMemory, "out of memory: ", kMaxSlots, " storages are alive");
      slots_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    Storage& s = slots_[slot];
    s.block = block;
    s.device = &device;
    return double(uint64_t(s.generation) << 24 | slot);
  }
  // Null when the handle is dead or never was one.
  Storage* find(double handle) {
    if (!(handle >= kMaxSlots && handle < 0x1p52)) return nullptr;
    const uint64_t bits = uint64_t(handle);
    const uint32_t slot = uint32_t(bits & (kMaxSlots - 1));
    if (slot >= slots_.size()) return nullptr;
    Storage& s = slots_[slot];
    return s.block && s.generation == bits >> 24 && double(bits) == handle ? &s : nullptr;
  }
  void remove(Storage& s) {
    s.device->allocator().free(s.block);
    s.block = nullptr;
    s.generation = s.generation + 1 == kGenerations ? 1 : s.generation + 1;
    free_.push_back(uint32_t(slot(s)));
  }
  size_t slot(const Storage& s) const { return size_t(&s - slots_.data()); }
  Storage& at(uint32_t slot) { return slots_[slot]; }
  size_t alive() const { return slots_.size() - free_.size(); }

 private:
  std::vector<Storage> slots_;
  std::vector<uint32_t> free_;
};

}  // namespace sg
