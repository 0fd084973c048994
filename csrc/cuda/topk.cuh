// The first k of a row by selection: a block finds the k-th pair of key and position digit by digit, each time counting
// the digits of those that share the digits found so far, then collects all pairs up to it and orders them by counting.
// A row is read once a digit, mostly from the cache; as soon as a digit leaves exactly what is wanted, the rest is
// decided.
#pragma once
#include "../ops/sort_key.h"

#include "gpu.cuh"
#include "prefix.cuh"
#include "walk.cuh"

namespace sg::gpu {

// Rows of x, and where their order goes. Operands of `walk` and `step`: x, values, indices.
template <class U>
struct SortRows {
  const U* x;
  U* values;  // null: not wanted
  int64_t* indices;
  int64_t n, k;
  int64_t step[3];
  Walk<3> walk;

  SG_DEVICE void put(const int64_t (&at)[3], int64_t place, U value, int64_t index) const {
    if (values) values[at[1] + place * step[1]] = value;
    indices[at[2] + place * step[2]] = index;
  }
};

inline constexpr int kSelectThreads = 256, kMostSelected = kSelectThreads;
// Beyond this all blocks together sort faster than one selects.
inline constexpr int64_t kLongestToSelectFrom = int64_t(1) << 20;

namespace {

// What is known of the k-th pair: digits of the key, then of the position, from the highest.
template <class U>
struct Threshold {
  U key, key_mask;  // the mask has ones where digits are known
  uint32_t position, position_mask;
  uint32_t wanted;  // among the pairs with these digits
  SG_DEVICE bool shares(U k, uint32_t p) const { return (k & key_mask) == key && (p & position_mask) == position; }
  // Known or below: what is not known yet is taken whole.
  SG_DEVICE bool covers(U k, uint32_t p) const {
    const U high = k & key_mask;
    return high < key || (high == key && (p & position_mask) <= position);
  }
};

// Counts the next digit (of the key, or of the position) of all pairs that share what is known, and settles it. True if
// the pairs that then share all digits are exactly those wanted.
template <class U, bool kOfKey>
SG_DEVICE bool next_digit(const SortRows<U>& rows, const KeyMap<U>& map, int64_t from, int shift, Threshold<U>& known,
                          Threshold<U>* shared, uint32_t* found) {
  constexpr int kDigits = kSelectThreads, kUnused = kDigits;
  found[threadIdx.x] = 0;
  __syncthreads();
  for (int64_t start = 0; start < rows.n; start += kSelectThreads) {
    const int64_t i = start + threadIdx.x;
    int digit = kUnused;
    if (i < rows.n) {
      const U key = map(rows.x[from + i * rows.step[0]]);
      if (known.shares(key, uint32_t(i))) {
        digit = int((kOfKey ? uint64_t(key) : uint64_t(i)) >> shift) & (kDigits - 1);
      }
    }
    // Neighbours often agree: one addition for all of a warp.
    const unsigned equal = __match_any_sync(kFullWarp, digit);
    if (digit != kUnused && lane_id() == __ffs(equal) - 1) atomicAdd(&found[digit], uint32_t(__popc(equal)));
  }
  __syncthreads();
  uint32_t all;
  const uint32_t count = found[threadIdx.x];
  const uint32_t smaller = block_exclusive<Sum<uint32_t>, kSelectThreads / kWarpSize>(count, all);
  if (smaller < known.wanted && known.wanted <= smaller + count) {
    Threshold<U> next = known;
    if constexpr (kOfKey) {
      next.key = U(next.key | U(U(threadIdx.x) << shift));
      next.key_mask = U(next.key_mask | U(U(kDigits - 1) << shift));
    } else {
      next.position |= threadIdx.x << shift;
      next.position_mask |= uint32_t(kDigits - 1) << shift;
    }
    next.wanted -= smaller;
    *shared = next;
    found[0] = count;  // everybody has read what was here, in block_exclusive
  }
  __syncthreads();
  known = *shared;
  const bool settled = found[0] == known.wanted;
  __syncthreads();
  return settled;
}

template <class U>
__global__ void __launch_bounds__(kSelectThreads) select_kernel(SortRows<U> rows, KeyMap<U> map) {
  SG_SHARED(Threshold<U>, shared, [1]);
  SG_SHARED(uint32_t, found, [kSelectThreads]);
  SG_SHARED(U, keys, [kMostSelected]);
  SG_SHARED(uint32_t, positions, [kMostSelected]);
  SG_SHARED(int, collected, [1]);
  int64_t at[3];
  rows.walk.locate(blockIdx.x, at);
  Threshold<U> known{0, 0, 0, 0, uint32_t(rows.k)};
  bool settled = false;
  for (int shift = 8 * int(sizeof(U)) - 8; shift >= 0 && !settled; shift -= 8) {
    settled = next_digit<U, true>(rows, map, at[0], shift, known, shared, found);
  }
  int position_shift = 0;
  while (rows.n > int64_t(256) << position_shift) position_shift += 8;
  for (; position_shift >= 0 && !settled; position_shift -= 8) {
    settled = next_digit<U, false>(rows, map, at[0], position_shift, known, shared, found);
  }

  if (threadIdx.x == 0) collected[0] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < rows.n; i += kSelectThreads) {
    const U key = map(rows.x[at[0] + i * rows.step[0]]);
    if (!known.covers(key, uint32_t(i))) continue;
    const int slot = atomicAdd(&collected[0], 1);
    keys[slot] = key;
    positions[slot] = uint32_t(i);
  }
  __syncthreads();
  const int k = int(rows.k);
  for (int mine = int(threadIdx.x); mine < k; mine += kSelectThreads) {
    const U key = keys[mine];
    const uint32_t position = positions[mine];
    int place = 0;
    for (int j = 0; j < k; j++) place += keys[j] < key || (keys[j] == key && positions[j] < position);
    rows.put(at, place, rows.values ? rows.x[at[0] + position * rows.step[0]] : U{}, position);
  }
}

}  // namespace

}  // namespace sg::gpu
