// Running folds (of sums, of products) within a warp, within a block and over the rows of a table. An operation has a
// value, its identity and combine(earlier, later). Nothing here spins on another block: what is longer than a block is
// folded in three launches, tiles, then the rows of their totals, then tiles again.
#pragma once
#include "gpu.cuh"

namespace sg::gpu {

template <class T>
struct Sum {
  using value = T;
  static SG_DEVICE T identity() { return T(0); }
  static SG_DEVICE T combine(T earlier, T later) { return earlier + later; }
};

// The value that the lane `delta` below, or lane `from`, has.
template <class T>
SG_DEVICE T shuffle_up(T v, int delta) {
  return __shfl_up_sync(kFullWarp, v, unsigned(delta));
}
template <class T>
SG_DEVICE T shuffle_from(T v, int from) {
  return __shfl_sync(kFullWarp, v, from);
}

SG_DEVICE int lane_id() { return int(threadIdx.x) % kWarpSize; }
SG_DEVICE int warp_id() { return int(threadIdx.x) / kWarpSize; }

// The fold of the values of the lanes up to this one.
template <class Op>
SG_DEVICE typename Op::value warp_inclusive(typename Op::value v) {
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const typename Op::value earlier = shuffle_up(v, delta);
    if (lane_id() >= delta) v = Op::combine(earlier, v);
  }
  return v;
}

// The fold of the values of all warps before this one; `total` is that of all. Every lane passes its warp's value.
template <class Op, int kWarps>
SG_DEVICE typename Op::value fold_of_warps_before(typename Op::value of_warp, typename Op::value& total) {
  SG_SHARED(typename Op::value, of_warps, [kWarps]);
  if (lane_id() == 0) of_warps[warp_id()] = of_warp;
  __syncthreads();
  typename Op::value before = Op::identity();
  total = Op::identity();
  for (int w = 0; w < kWarps; w++) {
    if (w == warp_id()) before = total;
    total = Op::combine(total, of_warps[w]);
  }
  __syncthreads();
  return before;
}

// The fold of the values of all threads before this one; `total` is that of all.
template <class Op, int kWarps>
SG_DEVICE typename Op::value block_exclusive(typename Op::value v, typename Op::value& total) {
  const typename Op::value up_to = warp_inclusive<Op>(v);
  const typename Op::value below = shuffle_up(up_to, 1);
  const typename Op::value before = fold_of_warps_before<Op, kWarps>(shuffle_from(up_to, kWarpSize - 1), total);
  return lane_id() == 0 ? before : Op::combine(before, below);
}

// Each value of a row of n becomes the fold of those before it; the fold of the whole row goes to totals, if that is
// there. A warp a row.
template <class Op>
__global__ void __launch_bounds__(256)
    scan_rows_kernel(typename Op::value* values, int64_t rows, int64_t n, typename Op::value* totals) {
  using T = typename Op::value;
  constexpr int kAhead = 4;  // loads under way
  const int64_t row = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kWarpSize;
  if (row >= rows) return;
  values += row * n;
  T carry = Op::identity();
  for (int64_t start = lane_id(); start - lane_id() < n; start += kAhead * kWarpSize) {
    T v[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; j++) {
      const int64_t i = start + j * kWarpSize;
      v[j] = i < n ? values[i] : Op::identity();
    }
#pragma unroll
    for (int j = 0; j < kAhead; j++) {
      const int64_t i = start + j * kWarpSize;
      const T up_to = warp_inclusive<Op>(v[j]), below = shuffle_up(up_to, 1);
      if (i < n) values[i] = lane_id() == 0 ? carry : Op::combine(carry, below);
      carry = Op::combine(carry, shuffle_from(up_to, kWarpSize - 1));
    }
  }
  if (totals && lane_id() == 0) totals[row] = carry;
}

template <class Op>
void scan_rows(typename Op::value* values, int64_t rows, int64_t n, typename Op::value* totals, cudaStream_t stream) {
  constexpr int kThreads = 256, kRows = kThreads / kWarpSize;
  launch(scan_rows_kernel<Op>, dim3(unsigned((rows + kRows - 1) / kRows)), kThreads, 0, stream, values, rows, n,
         totals);
}

}  // namespace sg::gpu
