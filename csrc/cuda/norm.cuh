// What the norms share: what is true of their operands.
#pragma once
#include "../core/view.h"
#include "rows.cuh"

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

}  // namespace sg::gpu
