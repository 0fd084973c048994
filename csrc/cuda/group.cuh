// Folds over the threads that work on one row: 1, 2, 4, ... 32 neighbouring lanes, or the whole block. Every thread of
// the block takes part, whether it has a row or not, and the order of the fold depends on the group's size alone.
#pragma once
#include "lanes.cuh"

namespace sg::gpu {

template <class T>
  requires std::is_arithmetic_v<T>
SG_DEVICE T shuffle_xor(T x, int lanes) {
  return __shfl_xor_sync(kFullWarp, x, lanes);
}
template <class T>
SG_DEVICE Lane<T> shuffle_xor(Lane<T> x, int lanes) {
  return shuffle_xor(x.v, lanes);
}
SG_DEVICE Int shuffle_xor(Int x, int lanes) { return Int(int64_t(shuffle_xor((long long)(x.v), lanes))); }

// The fold of all values of a group, for each of its threads. A group beyond a warp is the whole block; then `shared`
// is room for a value a warp, and barriers keep it from being used twice.
template <class V, class Fold>
SG_DEVICE V fold_group(V value, int group, V* shared, const Fold& fold) {
  for (int lanes = (group < kWarpSize ? group : kWarpSize) / 2; lanes > 0; lanes /= 2) {
    value = fold(value, shuffle_xor(value, lanes));
  }
  if (group <= kWarpSize) return value;
  const int warps = group / kWarpSize, warp = threadIdx.x / kWarpSize;
  __syncthreads();
  if (threadIdx.x % kWarpSize == 0) shared[warp] = value;
  __syncthreads();
  V total = shared[0];
  for (int w = 1; w < warps; w++) total = fold(total, shared[w]);
  return total;
}

}  // namespace sg::gpu
