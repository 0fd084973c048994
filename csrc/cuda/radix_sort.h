// A stable radix sort of rows of unsigned keys, and where each key came from. Short rows are sorted by a block each in
// shared memory; long ones by eight bits a pass over global memory.
#pragma once
#include "cuda_queue.h"

namespace sg::gpu {

template <class Key>
struct Ordered {
  const Key* keys;            // [rows, n], ascending in each row
  const uint32_t* positions;  // in the row
};

// Key: uint32_t or uint64_t. Sorts any number of times up to `rows` rows of n keys.
template <class Key>
class RadixSort {
 public:
  RadixSort(Scratch& scratch, int64_t rows, int64_t n);
  Key* keys() const { return keys_[0]; }  // [rows, n]: what to sort, and afterwards no longer that
  // By the lowest `bits` of the keys; the others are 0.
  Ordered<Key> sort(int64_t rows, int bits, cudaStream_t stream);

 private:
  bool in_blocks() const;
  const int64_t n_;
  int64_t tiles_ = 0;  // of a row
  Key* keys_[2] = {};
  uint32_t* positions_[2] = {};
  uint32_t *counts_ = nullptr, *totals_ = nullptr;
};

extern template class RadixSort<uint32_t>;
extern template class RadixSort<uint64_t>;

}  // namespace sg::gpu
