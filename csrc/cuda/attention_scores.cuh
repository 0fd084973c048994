// What happens to scores between the products: hiding what a query must not see, and masks. A mask is staged in shared
// memory, a warp's part at a time, as summands in base 2: its type and its strides then stay out of the registers that
// the products need.
#pragma once
#include "../ops/attention.h"
#include "lanes.cuh"

namespace sg::gpu {

inline constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;

// Of a grid's flat index: tiles fastest, since those of one head share what they read.
struct TileOfHead {
  int tile, head, batch;
  SG_DEVICE TileOfHead(int tiles, int heads) {
    const int block = blockIdx.x, pair = block / tiles;
    tile = block - pair * tiles;
    batch = pair / heads;
    head = pair - batch * heads;
  }
};

// Rows are queries, columns are keys: column c of row r stays when c <= min(last_key, r + diagonal), all counted from
// the tile's first row and column.
template <int kM, int kN>
SG_DEVICE void hide_keys(float (&score)[kM][kN][4], int last_key, int diagonal) {
  const int lane = threadIdx.x % kWarpSize, group = lane >> 2, quad = lane & 3;
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int last = min(last_key, m * 16 + half * 8 + group + diagonal) - quad * 2;
#pragma unroll
      for (int n = 0; n < kN; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          if (n * 8 + i > last) score[m][n][2 * half + i] = -INFINITY;
    }
}
// The transposed case: column c of row r stays when r <= c + diagonal.
template <int kM, int kN>
SG_DEVICE void hide_queries(float (&score)[kM][kN][4], int diagonal) {
  const int lane = threadIdx.x % kWarpSize, group = lane >> 2, quad = lane & 3;
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int first = m * 16 + half * 8 + group - diagonal - quad * 2;
#pragma unroll
      for (int n = 0; n < kN; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
          if (n * 8 + i < first) score[m][n][2 * half + i] = -INFINITY;
    }
}

// The summand of one element. -inf hides a key, and so does anything near the lowest float32: such a row would lose its
// weights in the rounding of the log-sum-exp.
template <class E>
SG_DEVICE E mask_summand(bool seen) {
  return seen ? E(0) : -std::numeric_limits<E>::infinity();
}
template <class E, class M>
  requires(!std::is_same_v<M, bool>)
SG_DEVICE E mask_summand(M x) {
  const E summand = cast<E>(x);
  return summand < E(std::numeric_limits<float>::lowest() / 4) ? -std::numeric_limits<E>::infinity()
                                                               : summand * E(kLog2e);
}

// f(typed pointer) for the type of a mask.
template <class F>
SG_DEVICE void with_mask_type(const AttentionMask& mask, const F& f) {
  switch (mask.dtype) {
    case DType::k_bool_: return f(static_cast<const bool*>(mask.data));
    case DType::k_float32: return f(static_cast<const float*>(mask.data));
    case DType::k_float64: return f(static_cast<const double*>(mask.data));
    case DType::k_float16: return f(static_cast<const float16*>(mask.data));
    default: return f(static_cast<const bfloat16*>(mask.data));
  }
}

// A warp's part of a mask, [kQueries][kPitch] summands. Lanes run along keys; what lies outside is 0.
template <int kQueries, int kKeys, int kPitch>
struct MaskTile {
  static constexpr int kFloats = kQueries * kPitch;
  float* tile;

  SG_DEVICE void stage(const Attention& at, int batch, int head, int query0, int key0) const {
    static_assert(kWarpSize % kKeys == 0 || kKeys % kWarpSize == 0);
    constexpr int kLanes = kKeys < kWarpSize ? kKeys : kWarpSize;
    const int lane = threadIdx.x % kWarpSize, queries = int(at.queries), keys = int(at.keys);
    const int64_t* const s = at.mask.strides;
    const int64_t start = batch * s[0] + head * s[1] + query0 * s[2] + key0 * s[3];
    __syncwarp();  // what was staged before is read
    with_mask_type(at.mask, [&](const auto* mask) {
#pragma unroll 1
      for (int q = lane / kLanes; q < kQueries; q += kWarpSize / kLanes)
        for (int k = lane % kLanes; k < kKeys; k += kLanes) {
          const bool inside = query0 + q < queries && key0 + k < keys;
          tile[q * kPitch + k] = inside ? mask_summand<float>(mask[start + q * s[2] + k * s[3]]) : 0.f;
        }
    });
    __syncwarp();
  }
};

// Scores become what the softmax sees: scaled to base 2, with the summands of a mask.
template <int kM, int kN>
SG_DEVICE void scale_scores(float (&score)[kM][kN][4], float factor) {
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int n = 0; n < kN; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) score[m][n][i] *= factor;
}
// Rows are queries.
template <int kM, int kN, int kPitch>
SG_DEVICE void add_mask(float (&score)[kM][kN][4], MaskTile<16 * kM, 8 * kN, kPitch> mask) {
  static_assert(kPitch % 32 == 8, "no two lanes read the same bank");
  const int lane = threadIdx.x % kWarpSize, group = lane >> 2, quad = lane & 3;
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int n = 0; n < kN; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        score[m][n][i] += mask.tile[(m * 16 + (i >> 1) * 8 + group) * kPitch + n * 8 + quad * 2 + (i & 1)];
}
// Rows are keys.
template <int kM, int kN, int kPitch>
SG_DEVICE void add_mask_transposed(float (&score)[kM][kN][4], MaskTile<8 * kN, 16 * kM, kPitch> mask) {
  static_assert(kPitch % 32 == 4 || kPitch % 32 == 20, "no two lanes read the same bank");
  const int lane = threadIdx.x % kWarpSize, group = lane >> 2, quad = lane & 3;
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int n = 0; n < kN; n++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        score[m][n][i] += mask.tile[(n * 8 + quad * 2 + (i & 1)) * kPitch + m * 16 + (i >> 1) * 8 + group];
}

}  // namespace sg::gpu
