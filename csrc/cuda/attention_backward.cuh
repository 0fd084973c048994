// Flash attention on the tensor cores, backward, in two kernels that sum in a fixed order: one block has the keys and
// makes dK and dV, the other the queries and makes dQ. Both make the probabilities again, 7 products in place of 5; one
// kernel for all would have to sum dQ over blocks by atomics, in any order, or by waiting.
#pragma once
#include "attention.h"
#include "attention_scores.cuh"
#include "attention_tile.cuh"

namespace sg::gpu {

// One block: a tile of keys, through all queries of the heads that share them.
template <int D, bool kRescaled>
struct KeyGradientTiles {
  static constexpr int kKeys = 128, kQueries = 64, kChunk = 32;
  // Beyond 64 features the sums of 32 rows of dK and dV would take all registers.
  static constexpr int kM = D == 64 ? 2 : 1, kWarps = kKeys / (16 * kM), kThreads = kWarpSize * kWarps;
  static constexpr int kWarpRows = 16 * kM, kBlocks = D == 64 ? 2 : 1;
  using Mask = MaskTile<kChunk, kWarpRows, kWarpRows + 4>;
  static constexpr size_t kTileBytes = size_t(2 * kKeys + 4 * kQueries) * D * 2;
  static constexpr size_t kStatisticsBytes = 2 * kQueries * sizeof(RowStatistics<float>);
  static constexpr size_t kSharedBytes =
      kTileBytes + kStatisticsBytes + (kRescaled ? kWarps * Mask::kFloats * sizeof(float) : 0);
};

// Works on S^T = K Q^T: P^T and dS^T then are in the registers as the left operands of dV += P^T dO and dK += dS^T Q.
template <class T, int D, bool kRescaled>
__global__ void __launch_bounds__(KeyGradientTiles<D, kRescaled>::kThreads, KeyGradientTiles<D, kRescaled>::kBlocks)
    attention_key_gradient_kernel(const Attention at, const RowStatistics<float>* statistics, int padded) {
  using Tiles = KeyGradientTiles<D, kRescaled>;
  constexpr int kQueries = Tiles::kQueries, kKeys = Tiles::kKeys, kChunk = Tiles::kChunk, kM = Tiles::kM;
  constexpr int kN = kChunk / 8, kWarpRows = Tiles::kWarpRows, kThreads = Tiles::kThreads;
  SG_DYNAMIC_SHARED(T, shared);
  T *const key_tile = shared, *const value_tile = key_tile + kKeys * D;
  T* const query_tiles = value_tile + kKeys * D;  // two stages of Q and dO
  auto* const statistics_tiles = reinterpret_cast<RowStatistics<float>*>(shared + Tiles::kTileBytes / 2);

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, quad = lane & 3;
  const int queries = int(at.queries), key_count = int(at.keys), size = int(at.size), diagonal = int(at.shift());
  const TileOfHead place((key_count + kKeys - 1) / kKeys, int(at.kv_heads));
  const int key0 = place.tile * kKeys, kv_head = place.head, batch = place.batch;
  const int group = int(at.heads) / int(at.kv_heads);
  const int first_tile = max(0, key0 - diagonal) / kQueries;  // queries before it see none of these keys
  const int tiles_per_head = (queries + kQueries - 1) / kQueries - first_tile;
  const int step_count = tiles_per_head * group;

  const auto load_stage = [&](int step) {
    const int head = kv_head * group + step / tiles_per_head;
    const int query0 = (first_tile + step % tiles_per_head) * kQueries;
    T* const stage = query_tiles + (step & 1) * 2 * kQueries * D;
    load_tile_async<kQueries, D, kThreads>(stage, head_of<const T>(at.q, batch, head), int(at.q.row), query0, queries,
                                           size);
    load_tile_async<kQueries, D, kThreads>(stage + kQueries * D, head_of<const T>(at.dout, batch, head),
                                           int(at.dout.row), query0, queries, size);
    if (threadIdx.x < kQueries / 2)
      cp_async16(statistics_tiles + (step & 1) * kQueries + threadIdx.x * 2,
                 statistics + (int64_t(batch) * at.heads + head) * padded + query0 + threadIdx.x * 2);
    cp_async_commit();
  };
  if (step_count > 0) {
    load_tile_async<kKeys, D, kThreads>(key_tile, head_of<const T>(at.k, batch, kv_head), int(at.k.row), key0,
                                        key_count, size);
    load_tile_async<kKeys, D, kThreads>(value_tile, head_of<const T>(at.v, batch, kv_head), int(at.v.row), key0,
                                        key_count, size);
    load_stage(0);
  }

  const auto by_rows = LanePlace<D>::by_rows(lane), by_columns = LanePlace<D>::by_columns(lane);
  T *const warp_keys = key_tile + warp * kWarpRows * D, *const warp_values = value_tile + warp * kWarpRows * D;
  const int warp_key0 = key0 + warp * kWarpRows;
  const float scale_log2 = float(at.scale * kLog2e), factor = kRescaled ? 1.f : scale_log2;
  [[maybe_unused]] typename Tiles::Mask mask;
  if constexpr (kRescaled)
    mask.tile = reinterpret_cast<float*>(statistics_tiles + 2 * kQueries) + warp * Tiles::Mask::kFloats;
  float dk[kM][D / 8][4] = {}, dv[kM][D / 8][4] = {};

  for (int step = 0; step < step_count; step++) {
    cp_async_wait<0>();
    __syncthreads();  // as in the forward: this stage is complete, the other one is free
    if (step + 1 < step_count) load_stage(step + 1);
    const T* const query_tile = query_tiles + (step & 1) * 2 * kQueries * D;
    const T* const dout_tile = query_tile + kQueries * D;
    const RowStatistics<float>* const rows = statistics_tiles + (step & 1) * kQueries;
    const int query0 = (first_tile + step % tiles_per_head) * kQueries;

#pragma unroll 1
    for (int chunk = 0; chunk < kQueries; chunk += kChunk) {
      if (query0 + chunk + kChunk - 1 + diagonal < warp_key0) continue;  // they see none of the warp's keys
      float p[kM][kN][4] = {}, ds[kM][kN][4] = {};
      multiply_rows<D>(p, warp_keys, query_tile + chunk * D, by_rows, by_columns);
      multiply_rows<D>(ds, warp_values, dout_tile + chunk * D, by_rows, by_columns);
      if constexpr (kRescaled) {
        scale_scores(p, scale_log2);
        if (at.mask.data) {
          mask.stage(at, batch, kv_head * group + step / tiles_per_head, query0 + chunk, warp_key0);
          add_mask_transposed(p, mask);
        }
      }
      if (query0 + chunk + diagonal < warp_key0 + kWarpRows - 1) hide_queries(p, query0 + chunk + diagonal - warp_key0);
#pragma unroll
      for (int n = 0; n < kN; n++) {
        // A lane's two columns are neighbouring queries: one 16-byte access has what both need.
        const float4 s = *reinterpret_cast<const float4*>(rows + chunk + n * 8 + quad * 2);
#pragma unroll
        for (int m = 0; m < kM; m++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            float exponent = fmaf(p[m][n][i], factor, -(i & 1 ? s.z : s.x));
            // A weight is at most 1, which a mask of -1e9 on a whole row would forget in its rounding.
            if (kRescaled && exponent > 0) exponent = 0;
            p[m][n][i] = fast_exp2(exponent);
            ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - (i & 1 ? s.w : s.y));
          }
      }
      multiply_registers<D>(dv, p, dout_tile + chunk * D, by_rows);
      multiply_registers<D>(dk, ds, query_tile + chunk * D, by_rows);
    }
  }

  float key_factor[kM][2], value_factor[kM][2];
#pragma unroll
  for (int m = 0; m < kM; m++) {
    key_factor[m][0] = key_factor[m][1] = float(at.scale);
    value_factor[m][0] = value_factor[m][1] = 1;
  }
  store_warp_rows<D>(warp_keys, dk, key_factor, head_of<T>(at.dk, batch, kv_head), int(at.dk.row), warp_key0, key_count,
                     size);
  store_warp_rows<D>(warp_values, dv, value_factor, head_of<T>(at.dv, batch, kv_head), int(at.dv.row), warp_key0,
                     key_count, size);
}

// One block: a tile of queries of one head, through the keys they see.
template <int D, bool kRescaled>
struct QueryGradientTiles {
  static constexpr int kQueries = 128, kKeys = D == 64 ? 64 : 32, kChunk = 32, kM = 2, kWarps = 4;
  static constexpr int kThreads = kWarpSize * kWarps, kWarpRows = 16 * kM;
  static constexpr bool kHoldsQueries = D == 64;
  using Mask = MaskTile<kWarpRows, kChunk, kChunk + 8>;
  static constexpr size_t kTileBytes = size_t(2 * kQueries + 4 * kKeys) * D * 2;
  static constexpr size_t kSharedBytes = kTileBytes + (kRescaled ? kWarps * Mask::kFloats * sizeof(float) : 0);
};

template <class T, int D, bool kRescaled>
__global__ void __launch_bounds__(QueryGradientTiles<D, kRescaled>::kThreads, 2)
    attention_query_gradient_kernel(const Attention at, const RowStatistics<float>* statistics, int padded) {
  using Tiles = QueryGradientTiles<D, kRescaled>;
  constexpr int kQueries = Tiles::kQueries, kKeys = Tiles::kKeys, kChunk = Tiles::kChunk, kM = Tiles::kM;
  constexpr int kN = kChunk / 8, kWarpRows = Tiles::kWarpRows, kThreads = Tiles::kThreads;
  SG_DYNAMIC_SHARED(T, shared);
  T *const query_tile = shared, *const dout_tile = query_tile + kQueries * D;
  T* const key_value_tiles = dout_tile + kQueries * D;  // two stages of keys and values

  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, group = lane >> 2;
  const int queries = int(at.queries), key_count = int(at.keys), size = int(at.size), diagonal = int(at.shift());
  const int tiles = (queries + kQueries - 1) / kQueries;
  const TileOfHead place(tiles, int(at.heads));
  const int head = place.head, batch = place.batch, kv_head = head / (int(at.heads) / int(at.kv_heads));
  const int query0 = (tiles - 1 - place.tile) * kQueries;
  const int tile_count = (min(key_count, query0 + kQueries + diagonal) + kKeys - 1) / kKeys;
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
    load_tile_async<kQueries, D, kThreads>(dout_tile, head_of<const T>(at.dout, batch, head), int(at.dout.row), query0,
                                           queries, size);
    load_stage(0);
  }

  const auto by_rows = LanePlace<D>::by_rows(lane), by_columns = LanePlace<D>::by_columns(lane);
  T *const warp_queries = query_tile + warp * kWarpRows * D, *const warp_dout = dout_tile + warp * kWarpRows * D;
  const int warp_query0 = query0 + warp * kWarpRows;
  const float scale_log2 = float(at.scale * kLog2e), factor = kRescaled ? 1.f : scale_log2;
  [[maybe_unused]] typename Tiles::Mask mask;
  if constexpr (kRescaled)
    mask.tile = reinterpret_cast<float*>(shared + Tiles::kTileBytes / 2) + warp * Tiles::Mask::kFloats;
  RowStatistics<float> rows[kM][2];
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      rows[m][half] = statistics[(int64_t(batch) * at.heads + head) * padded + warp_query0 + m * 16 + half * 8 + group];
  [[maybe_unused]] HeldRows<Tiles::kHoldsQueries ? D : 16, kM> held;
  float dq[kM][D / 8][4] = {};

  for (int tile = 0; tile < tile_count; tile++) {
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
      if (key0 > warp_query0 + kWarpRows - 1 + diagonal) break;
      float p[kM][kN][4] = {}, ds[kM][kN][4] = {};
      if constexpr (Tiles::kHoldsQueries) held.multiply(p, key_tile + chunk * D, by_columns);
      else multiply_rows<D>(p, warp_queries, key_tile + chunk * D, by_rows, by_columns);
      multiply_rows<D>(ds, warp_dout, value_tile + chunk * D, by_rows, by_columns);
      if constexpr (kRescaled) {
        scale_scores(p, scale_log2);
        if (at.mask.data) {
          mask.stage(at, batch, head, warp_query0, key0);
          add_mask(p, mask);
        }
      }
      if (key0 + kChunk > key_count || key0 + kChunk - 1 > warp_query0 + diagonal)
        hide_keys(p, key_count - 1 - key0, warp_query0 + diagonal - key0);
#pragma unroll
      for (int m = 0; m < kM; m++)
#pragma unroll
        for (int n = 0; n < kN; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const RowStatistics<float> s = rows[m][i >> 1];
            float exponent = fmaf(p[m][n][i], factor, -s.lse);
            if (kRescaled && exponent > 0) exponent = 0;
            ds[m][n][i] = fast_exp2(exponent) * (ds[m][n][i] - s.delta);
          }
      multiply_registers<D>(dq, ds, key_tile + chunk * D, by_rows);
    }
  }

  float factors[kM][2];
#pragma unroll
  for (int m = 0; m < kM; m++) factors[m][0] = factors[m][1] = float(at.scale);
  store_warp_rows<D>(warp_queries, dq, factors, head_of<T>(at.dq, batch, head), int(at.dq.row), warp_query0, queries,
                     size);
}

}  // namespace sg::gpu
