// Words: what kernels that only move elements work in, 1 to 16 bytes, so that five instances serve all dtypes and
// neighbouring elements move together.
#pragma once
#include "lanes.cuh"
#include "walk.cuh"

namespace sg::gpu {

// Calls f(TypeTag<Word>{}) for words of 1 to 16 bytes.
template <class F>
void dispatch_word(size_t bytes, F&& f) {
  switch (bytes) {
    case 1: f(TypeTag<uint8_t>{}); return;
    case 2: f(TypeTag<uint16_t>{}); return;
    case 4: f(TypeTag<uint32_t>{}); return;
    case 8: f(TypeTag<uint64_t>{}); return;
    default: f(TypeTag<Pack<uint64_t>>{}); return;
  }
}

// Goes over to the widest words that the addresses, all of them taken together in `addresses`, and the walk allow.
template <int kOperands>
size_t widest_word(Walk<kOperands>& walk, uintptr_t addresses, size_t size) {
  for (size_t bytes = 16; bytes > size; bytes /= 2) {
    if (addresses % bytes == 0 && walk.widen(int64_t(bytes / size))) return bytes;
  }
  return size;
}

}  // namespace sg::gpu
