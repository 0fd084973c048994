// Teams: the threads that work on one row together, a warp (32) or a whole block. What they work out is added up in one
// order, so the same launch gives the same bits, and every thread of the team gets it. A team of a warp meets no
// barrier: its block may hold other teams, and warps that have left.
#pragma once
#include "gpu.cuh"

namespace sg::gpu {

template <class T>
SG_DEVICE T warp_sum(T v) {
#pragma unroll
  for (int lanes = kWarpSize / 2; lanes; lanes /= 2) v += __shfl_xor_sync(kFullWarp, v, lanes);
  return v;
}

// What the threads of a team wrote before is seen by all of them after.
template <int kTeam>
SG_DEVICE void team_sync() {
  if constexpr (kTeam > kWarpSize) __syncthreads();
  else __syncwarp();
}

// Replaces each of the values by its fold over the team. fold(a, b) must not depend on which of the two comes first, or
// threads would get different bits.
template <int kTeam, class T, int kValues, class Fold>
SG_DEVICE void team_fold(T (&values)[kValues], const Fold& fold) {
#pragma unroll
  for (int k = 0; k < kValues; k++) {
#pragma unroll
    for (int lanes = kWarpSize / 2; lanes; lanes /= 2) {
      values[k] = fold(values[k], __shfl_xor_sync(kFullWarp, values[k], lanes));
    }
  }
  if constexpr (kTeam > kWarpSize) {
    constexpr int kWarps = kTeam / kWarpSize;
    SG_SHARED(T, of_warp, [kValues][kWarps]);
    __syncthreads();  // everybody has read what was here before
    if (threadIdx.x % kWarpSize == 0) {
#pragma unroll
      for (int k = 0; k < kValues; k++) of_warp[k][threadIdx.x / kWarpSize] = values[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kValues; k++) {
      values[k] = of_warp[k][0];
#pragma unroll
      for (int w = 1; w < kWarps; w++) values[k] = fold(values[k], of_warp[k][w]);
    }
  }
}

template <int kTeam, class T, int kValues>
SG_DEVICE void team_sums(T (&values)[kValues]) {
  team_fold<kTeam>(values, [](T a, T b) { return a + b; });
}
template <int kTeam, class T>
SG_DEVICE T team_sum(T v) {
  T values[1] = {v};
  team_sums<kTeam>(values);
  return values[0];
}

// Threads of a block of teams: a warp alone would leave most of a multiprocessor's places for blocks' threads empty.
template <int kTeam>
inline constexpr int kTeamBlock = kTeam < 128 ? 128 : kTeam;
template <int kTeam>
inline constexpr int kTeamsInBlock = kTeamBlock<kTeam> / kTeam;

}  // namespace sg::gpu
