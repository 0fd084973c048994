// Flash attention on the tensor cores, forward (Dao, "FlashAttention-2", 2023). 16-bit in and out; scores, statistics
// and accumulators are float32. A warp owns 32 queries and not 16: what is read of keys and values from shared memory
// then feeds two matrix instructions, or shared memory, and not the tensor cores, would be the limit.
#pragma once
#include "attention_scores.cuh"
#include "attention_tile.cuh"

namespace sg::gpu {

// kRescaled: scores are scaled and masked before the softmax; without it the softmax scales them, which needs scale >
// 0.
template <int D, bool kRescaled>
struct ForwardTiles {
  static constexpr int kQueries = 128, kKeys = 64, kWarps = 4, kM = 2, kThreads = kWarpSize * kWarps;
  static constexpr int kWarpRows = 16 * kM;
  // Beyond 64 features the accumulators leave room for the scores of 32 keys at a time, and queries are read again.
  static constexpr int kChunk = D == 64 ? 64 : 32;
  static constexpr bool kHoldsQueries = D == 64;
  using Mask = MaskTile<kWarpRows, kChunk, kChunk + 8>;
  static constexpr size_t kTileBytes = size_t(kQueries + 4 * kKeys) * D * 2;
  static constexpr size_t kSharedBytes = kTileBytes + (kRescaled ? kWarps * Mask::kFloats * sizeof(float) : 0);
};

template <class T, int D, bool kRescaled>
__global__ void __launch_bounds__(ForwardTiles<D, kRescaled>::kThreads, 2)
    attention_forward_kernel(const Attention at) {
  using Tiles = ForwardTiles<D, kRescaled>;
  constexpr int kQueries = Tiles::kQueries, kKeys = Tiles::kKeys, kChunk = Tiles::kChunk, kM = Tiles::kM;
  constexpr int kN = kChunk / 8, kWarpRows = Tiles::kWarpRows, kThreads = Tiles::kThreads;
  SG_DYNAMIC_SHARED(T, shared);
  T* const query_tile = shared;
  T* const key_value_tiles = shared + kQueries * D;  // two stages of keys and values

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, quad = lane & 3, group = lane >> 2;
  const int queries = int(at.queries), key_count = int(at.keys), size = int(at.size), diagonal = int(at.shift());
  const int query_tiles = (queries + kQueries - 1) / kQueries;
  const TileOfHead place(query_tiles, int(at.heads));
  const int head = place.head, batch = place.batch, kv_head = head / (int(at.heads) / int(at.kv_heads));
  const int query0 = (query_tiles - 1 - place.tile) * kQueries;  // if causal, the longest loops first
  const int tile_count = (min(key_count, query0 + kQueries + diagonal) + kKeys - 1) / kKeys;  // below 1: none is seen
  const T* const keys = head_of<const T>(at.k, batch, kv_head);
  const T* const values = head_of<const T>(at.v, batch, kv_head);

  const auto load_stage = [&](int tile) {
    T* const stage = key_value_tiles + (tile & 1) * 2 * kKeys * D;
    load_tile_async<kKeys, D, kThreads>(stage, keys, int(at.k.row), tile * kKeys, key_count, size);
    load_tile_async<kKeys, D, kThreads>(stage + kKeys * D, values, int(at.v.row), tile * kKeys, key_count, size);
    cp_async_commit();
  };
  if (tile_count > 0) {
    load_tile_async<kQueries, D, kThreads>(query_tile, head_of<const T>(at.q, batch, head), int(at.q.row), query0,
                                           queries, size);
    load_stage(0);
  }

  const auto by_rows = LanePlace<D>::by_rows(lane), by_columns = LanePlace<D>::by_columns(lane);
  T* const warp_queries = query_tile + warp * kWarpRows * D;
  const int warp_query0 = query0 + warp * kWarpRows;
  const float scale_log2 = float(at.scale * kLog2e);
  const float factor = kRescaled ? 1.f : scale_log2;  // from a score to base 2
  [[maybe_unused]] typename Tiles::Mask mask;
  if constexpr (kRescaled)
    mask.tile = reinterpret_cast<float*>(shared + Tiles::kTileBytes / 2) + warp * Tiles::Mask::kFloats;

  [[maybe_unused]] HeldRows<Tiles::kHoldsQueries ? D : 16, kM> held;
  float out[kM][D / 8][4] = {}, row_max[kM][2], row_sum[kM][2] = {};
#pragma unroll
  for (int m = 0; m < kM; m++) row_max[m][0] = row_max[m][1] = -INFINITY;

  for (int tile = 0; tile < tile_count; tile++) {
    // One barrier for two things: everybody's copies of this tile have landed, and everybody has read the stage that
    // the next copies overwrite. Those have a whole iteration to arrive.
    cp_async_wait<0>();
    __syncthreads();
    if (tile + 1 < tile_count) load_stage(tile + 1);
    const T* const key_tile = key_value_tiles + (tile & 1) * 2 * kKeys * D;
    const T* const value_tile = key_tile + kKeys * D;
    if constexpr (Tiles::kHoldsQueries) {
      if (tile == 0) held.load(warp_queries, by_rows);
    }

#pragma unroll 1
    for (int chunk = 0; chunk < kKeys; chunk += kChunk) {
      const int key0 = tile * kKeys + chunk;
      if (key0 > warp_query0 + kWarpRows - 1 + diagonal) break;  // all these keys lie in the warp's future
      float score[kM][kN][4] = {};
      if constexpr (Tiles::kHoldsQueries) held.multiply(score, key_tile + chunk * D, by_columns);
      else multiply_rows<D>(score, warp_queries, key_tile + chunk * D, by_rows, by_columns);
      if constexpr (kRescaled) {
        scale_scores(score, scale_log2);
        if (at.mask.data) {
          mask.stage(at, batch, head, warp_query0, key0);
          add_mask(score, mask);
        }
      }
      if (key0 + kChunk > key_count || key0 + kChunk - 1 > warp_query0 + diagonal)
        hide_keys(score, key_count - 1 - key0, warp_query0 + diagonal - key0);

      float highest[kM][2];
      bool grew = false;
#pragma unroll
      for (int m = 0; m < kM; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float v = row_max[m][half];
#pragma unroll
          for (int n = 0; n < kN; n++) v = fmaxf(v, fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
          v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, 1));
          v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, 2));
          highest[m][half] = v;
          grew |= v > row_max[m][half];
        }
      // After the first tiles a row's maximum rarely grows; while none of the warp's does, all factors would be 1.
      if (__any_sync(kFullWarp, grew)) {
#pragma unroll
        for (int m = 0; m < kM; m++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const float now = highest[m][half];
            const float decay = now == -INFINITY ? 1.f : fast_exp2((row_max[m][half] - now) * factor);
            row_max[m][half] = now;
            row_sum[m][half] *= decay;
#pragma unroll
            for (int d = 0; d < D / 8; d++) out[m][d][2 * half] *= decay, out[m][d][2 * half + 1] *= decay;
          }
      }
#pragma unroll
      for (int m = 0; m < kM; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          // Where every key so far is hidden, any finite maximum gives weights of 0.
          const float offset = row_max[m][half] == -INFINITY ? 0.f : row_max[m][half] * factor;
#pragma unroll
          for (int n = 0; n < kN; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
              score[m][n][i] = fast_exp2(fmaf(score[m][n][i], factor, -offset));
              row_sum[m][half] += score[m][n][i];  // of this lane's columns
            }
        }
      multiply_registers<D>(out, score, value_tile + chunk * D, by_rows);
    }
  }

  float inverse[kM][2];
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = row_sum[m][half];
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      const bool blind = sum == 0;  // no key seen
      inverse[m][half] = blind ? 0.f : 1 / sum;
      const int query = warp_query0 + m * 16 + half * 8 + group;
      if (quad == 0 && query < queries)
        lse_of<float>(at, batch, head, query) =
            blind ? -INFINITY : (row_max[m][half] * factor + fast_log2(sum)) * float(kLn2);
    }
  store_warp_rows<D>(warp_queries, out, inverse, head_of<T>(at.out, batch, head), int(at.out.row), warp_query0, queries,
                     size);
}

}  // namespace sg::gpu
