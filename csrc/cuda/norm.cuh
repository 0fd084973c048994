// What the norms share: what is true of their operands, and how many threads work on a row.
#pragma once
#include "../core/view.h"
#include "lanes.cuh"
#include "teams.cuh"

namespace sg::gpu {

inline void check_same(const View& a, const View& b) { SG_ASSERT(a.dtype == b.dtype && a.numel() == b.numel()); }
inline void check_output(const View& x, const View& y) {
  check_same(x, y);
  SG_ASSERT(y.contiguous());
}

template <class A>
A* statistics(const View& v, int64_t count) {
  SG_ASSERT(v.dtype == DTypeOf<A>::value && v.contiguous() && v.numel() == count);
  return v.ptr<A>();
}

// The last dimension is the row.
inline int64_t rows_of(const View& x) {
  SG_ASSERT(x.ndim > 0);
  int64_t rows = 1;
  for (int d = 0; d < x.ndim - 1; d++) rows *= x.shape[d];
  return rows;
}

inline unsigned blocks_for(int64_t items, int per_block) { return unsigned((items + per_block - 1) / per_block); }

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// f(threads, vectors): how a row of n elements of T is held in registers, in vectors of 16 bytes. False where it is too
// long, or not made of vectors; double, which is nobody's type for speed, never is.
template <class T, class F>
bool for_row_shape(int64_t n, bool aligned, F&& f) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int64_t kCount = Pack<T>::kCount;
    const int64_t vectors = n / kCount;
    if (!aligned || n % kCount != 0 || n == 0) return false;
    if (vectors <= 64) return f(Constant<32>{}, Constant<2>{}), true;
    if (vectors <= 128) return f(Constant<32>{}, Constant<4>{}), true;
    if (vectors <= 512) return f(Constant<128>{}, Constant<4>{}), true;
    if (vectors <= 1024) return f(Constant<256>{}, Constant<4>{}), true;
  }
  return false;
}

// f(threads) for rows that are walked through.
template <class F>
void for_team(int64_t n, F&& f) {
  if (n <= 512) f(Constant<32>{});
  else f(Constant<256>{});
}

}  // namespace sg::gpu
