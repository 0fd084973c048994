// What the norms share: what is true of their operands.
#pragma once
#include "../core/view.h"
#include "rows.cuh"
#include "vectors.cuh"

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

// Moments of a row of n elements: x = shift + m + deviation, and the sum of the squared deviations.
template <class A>
struct RowMoments {
  A shift, m;
  double squares;
};

// By a team, in two passes over elements that the first has left in the cache; this thread's begin at `first`. Taken
// from the row's first element, so that a mean that is large against the deviation costs no digits.
template <int kTeam, int kCount, class T>
SG_DEVICE RowMoments<accumulate_t<T>> row_moments(const T* x, int64_t n, int64_t first) {
  using A = accumulate_t<T>;
  const A shift = n > 0 ? A(x[0]) : A(0);
  double total = 0, squares = 0;
  for (int64_t i = first; i < n; i += kTeam * kCount) {
    const auto v = load_vector<kCount>(x + i);
    A sum(0);
#pragma unroll
    for (int k = 0; k < kCount; k++) sum += A(v.at[k]) - shift;
    total += double(sum);
  }
  const A m(team_sum<kTeam>(total) / double(n));
  for (int64_t i = first; i < n; i += kTeam * kCount) {
    const auto v = load_vector<kCount>(x + i);
    A sum(0);
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      const A d = (A(v.at[k]) - shift) - m;
      sum += d * d;
    }
    squares += double(sum);
  }
  return {shift, m, team_sum<kTeam>(squares)};
}

}  // namespace sg::gpu
