// How kernels read parameter rows.
#pragma once
#include "lanes.cuh"
#include "parameter_rows.h"

namespace sg::gpu {

// Elements [i, i + kCount), `absent` for those of a row that is not there; i is a multiple of kCount, which is a
// Pack<T>'s.
template <class T, int kCount>
SG_DEVICE void load_parameters(const ParameterRow<T>& row, int64_t i, accumulate_t<T> absent,
                               accumulate_t<T> (&to)[kCount]) {
  using A = accumulate_t<T>;
  if (row.wide) {
    Packs<A, kCount> packs;
    packs.load(row.wide + i);
#pragma unroll
    for (int k = 0; k < kCount; k++) to[k] = packs.get(k);
  } else if (row.narrow) {
    Packs<T, kCount> packs;
    packs.load(row.narrow + i);
#pragma unroll
    for (int k = 0; k < kCount; k++) to[k] = A(packs.get(k));
  } else {
#pragma unroll
    for (int k = 0; k < kCount; k++) to[k] = absent;
  }
}

template <class T>
SG_DEVICE accumulate_t<T> load_parameter(const ParameterRow<T>& row, int64_t i, accumulate_t<T> absent) {
  if (row.wide) return row.wide[i];
  return row.narrow ? accumulate_t<T>(row.narrow[i]) : absent;
}

}  // namespace sg::gpu
