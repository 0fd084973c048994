// Walk: the elements of several tensors of one shape, by a flat index. Dimensions that merge for every operand are
// merged, in the order of the first operand's (the output's) memory, so that neighbouring threads write neighbouring
// elements. Below 2^31 elements an index is taken apart by multiplications in place of divisions.
#pragma once
#include <algorithm>

#include "../core/view.h"
#include "gpu.cuh"

namespace sg::gpu {

// n / d for n < 2^31 as a multiplication and a shift (Granlund and Montgomery, "Division by invariant integers using
// multiplication", PLDI 1994).
struct Divisor {
  uint32_t d = 1, factor = 0, shift = 0;
  Divisor() = default;
  explicit Divisor(uint32_t by) : d(by) {
    while ((uint64_t(1) << shift) < d) shift++;
    factor = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - d)) / d + 1);
  }
  SG_DEVICE uint32_t quotient(uint32_t n) const { return (uint32_t((uint64_t(n) * factor) >> 32) + n) >> shift; }
};

// Which dimensions are innermost: those of the first operand's memory, or the last ones, so that an index is a position
// in row-major order.
enum class Order { kMemory, kLogical };

template <int kOperands>
struct Walk {
  static constexpr int kMax = kMaxDims;
  int ndim = 0;
  bool narrow = true;
  int64_t count = 1;
  int64_t shape[kMax];
  Divisor divisor[kMax];
  int64_t strides[kOperands][kMax];

  Walk() = default;
  // strides_of[k] are operand k's, in elements; null: all 0.
  Walk(int dims, const int64_t* sizes, const int64_t* const (&strides_of)[kOperands], Order order = Order::kMemory) {
    for (int d = 0; d < dims; d++) {
      count *= sizes[d];
      if (sizes[d] == 1) continue;
      shape[ndim] = sizes[d];
      for (int k = 0; k < kOperands; k++) strides[k][ndim] = strides_of[k] ? strides_of[k][d] : 0;
      ndim++;
    }
    if (count == 0) return;
    if (order == Order::kMemory) sort();
    merge();
    prepare();
  }

  // Goes over to units of `by` neighbouring elements, in which places then count, too: if every operand has its
  // innermost elements side by side and all else is a multiple. What the operands' addresses are divisible by is the
  // caller's to see. Operands from kWide on are none of elements, but constant along the innermost dimension.
  template <int kWide = kOperands>
  bool widen(int64_t by) {
    const int last = ndim - 1;
    if (ndim == 0 || count == 0 || shape[last] % by != 0) return false;
    for (int k = kWide; k < kOperands; k++)
      if (strides[k][last] != 0) return false;
    for (int k = 0; k < kWide; k++) {
      if (strides[k][last] != 1) return false;
      for (int d = 0; d < last; d++)
        if (strides[k][d] % by != 0) return false;
    }
    shape[last] /= by;
    count /= by;
    for (int k = 0; k < kWide; k++)
      for (int d = 0; d < last; d++) strides[k][d] /= by;
    prepare();
    return true;
  }

  // Where element `index` of each operand lies, of the first few where no more are wanted.
  template <int kWanted>
  SG_DEVICE void locate(int64_t index, int64_t (&at)[kWanted]) const {
    static_assert(kWanted <= kOperands);
    for (int k = 0; k < kWanted; k++) at[k] = 0;
    if (narrow) {
      uint32_t rest = uint32_t(index);
      for (int d = ndim - 1; d > 0; d--) {
        const uint32_t quotient = divisor[d].quotient(rest), i = rest - quotient * divisor[d].d;
        rest = quotient;
        for (int k = 0; k < kWanted; k++) at[k] += i * strides[k][d];
      }
      index = rest;
    } else {
#pragma unroll 1  // rare, and a division of 64 bits is long
      for (int d = ndim - 1; d > 0; d--) {
        const int64_t quotient = index / shape[d], i = index - quotient * shape[d];
        index = quotient;
        for (int k = 0; k < kWanted; k++) at[k] += i * strides[k][d];
      }
    }
    for (int k = 0; k < kWanted && ndim > 0; k++) at[k] += index * strides[k][0];
  }

 private:
  void prepare() {
    narrow = count < (int64_t(1) << 31);
    for (int d = 0; d < ndim && narrow; d++) divisor[d] = Divisor(uint32_t(shape[d]));
  }
  static int64_t magnitude(int64_t stride) { return stride < 0 ? -stride : stride; }
  void sort() {
    for (int i = 1; i < ndim; i++) {
      for (int d = i; d > 0 && magnitude(strides[0][d - 1]) < magnitude(strides[0][d]); d--) {
        std::swap(shape[d - 1], shape[d]);
        for (int k = 0; k < kOperands; k++) std::swap(strides[k][d - 1], strides[k][d]);
      }
    }
  }
  void merge() {
    int kept = 0;
    for (int d = 1; d < ndim; d++) {
      bool merges = true;
      for (int k = 0; k < kOperands; k++) merges &= strides[k][kept] == strides[k][d] * shape[d];
      if (!merges) kept++;
      shape[kept] = merges ? shape[kept] * shape[d] : shape[d];
      for (int k = 0; k < kOperands; k++) strides[k][kept] = strides[k][d];
    }
    if (ndim > 0) ndim = kept + 1;
  }
};

// Threads and blocks for `work` items, one a thread; each thread goes on in steps of the whole grid beyond the limit.
inline dim3 grid_for(int64_t work, int threads) {
  constexpr int64_t kMostBlocks = 1 << 20;
  return dim3(unsigned(std::clamp<int64_t>((work + threads - 1) / threads, 1, kMostBlocks)));
}

}  // namespace sg::gpu
