// Attention for any float kind, head size and layout, without tensor cores: blocks of 64 queries and 64 keys with an
// online softmax. A block makes some columns of its rows of the output (of dQ, or of dK and dV) and goes through all
// features for the scores; head sizes beyond that have several blocks a tile, which make the scores again.
#include "attention.h"
#include "attention_plain.cuh"

namespace sg::gpu {

namespace {

// The scores of a block as the softmax sees them: in base 2, masked, -inf where hidden.
template <class E>
SG_DEVICE void finish_scores(const Attention& at, int batch, int head, int query0, int key0, E (&score)[4][4]) {
  const int diagonal = int(at.shift()), queries = int(at.queries), keys = int(at.keys);
  const int q = query0 + tile_row(), k = key0 + tile_column();
  const E factor = E(at.scale * kLog2e);
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++) score[r][c] *= factor;
  if (at.mask.data) {
    const int64_t* const s = at.mask.strides;
    const int64_t start = batch * s[0] + head * s[1];
    with_mask_type(at.mask, [&](const auto* mask) {
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          if (q + r < queries && k + c < keys)
            score[r][c] += mask_summand<E>(mask[start + (q + r) * s[2] + (k + c) * s[3]]);
    });
  }
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++)
      if (k + c >= keys || k + c > q + r + diagonal) score[r][c] = -std::numeric_limits<E>::infinity();
}

// P and dS of a block of queries and keys, to [query][kPitch + key] in shared memory.
template <class T, class E>
SG_DEVICE void make_weights(const Attention& at, int batch, int head, int kv_head, int query0, int key0,
                            const RowStatistics<E>* statistics, Stage<E>& stage, E* p, E* ds) {
  const int queries = int(at.queries), keys = int(at.keys), size = int(at.size);
  const PlainRows<T> key_rows(at.k, batch, kv_head, key0, keys), value_rows(at.v, batch, kv_head, key0, keys);
  E score[4][4] = {}, d[4][4] = {};
  multiply_features(score, PlainRows<T>(at.q, batch, head, query0, queries), key_rows, size, stage);
  finish_scores(at, batch, head, query0, key0, score);
  multiply_features(d, PlainRows<T>(at.dout, batch, head, query0, queries), value_rows, size, stage);
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const RowStatistics<E> row = statistics[query0 + tile_row() + r];
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const E exponent = score[r][c] - row.lse;
      // A weight is at most 1, which a mask of -1e9 on a whole row would forget in its rounding.
      const E weight = std::exp2(exponent > 0 ? E(0) : exponent);
      const int place = (tile_row() + r) * kPitch + tile_column() + c;
      if (p) p[place] = weight;
      ds[place] = weight * (d[r][c] - row.delta);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kPlainThreads) plain_forward_kernel(const Attention at, int columns) {
  using E = accumulate_t<T>;
  constexpr int kGroups = kColumnGroups<E>;
  SG_DYNAMIC_SHARED(Stage<E>, stage);
  E* const p = reinterpret_cast<E*>(stage + 1);
  E* const decays = p + kTile * kPitch;

  const int queries = int(at.queries), keys = int(at.keys), size = int(at.size);
  const TileOfHead place((queries + kTile - 1) / kTile * columns, int(at.heads));
  const int head = place.head, batch = place.batch, kv_head = head / (int(at.heads) / int(at.kv_heads));
  const int query0 = place.tile / columns * kTile, column0 = place.tile % columns * kGroups * kTile;
  const int key_limit = min(keys, query0 + kTile + int(at.shift()));
  const PlainRows<T> query_rows(at.q, batch, head, query0, queries);
  const int row = threadIdx.x / 4, part = threadIdx.x % 4;  // of the softmax

  E out[kGroups][4][4] = {};
  E row_max = -std::numeric_limits<E>::infinity(), row_sum = 0;
  for (int key0 = 0; key0 < key_limit; key0 += kTile) {
    E score[4][4] = {};
    multiply_features(score, query_rows, PlainRows<T>(at.k, batch, kv_head, key0, keys), size, *stage);
    finish_scores(at, batch, head, query0, key0, score);
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int c = 0; c < 4; c++) p[(tile_row() + r) * kPitch + tile_column() + c] = score[r][c];
    __syncthreads();

    E now = row_max;
    for (int k = part; k < kTile; k += 4) now = p[row * kPitch + k] > now ? p[row * kPitch + k] : now;
    for (int bits = 1; bits < 4; bits *= 2) {
      const E other = __shfl_xor_sync(kFullWarp, now, bits);
      now = other > now ? other : now;
    }
    // Where every key so far is hidden, any finite maximum gives weights of 0.
    const E offset = now == -std::numeric_limits<E>::infinity() ? E(0) : now, decay = std::exp2(row_max - offset);
    row_max = now;
    row_sum *= decay;
    for (int k = part; k < kTile; k += 4) {
      const E weight = std::exp2(p[row * kPitch + k] - offset);
      p[row * kPitch + k] = weight;
      row_sum += weight;
    }
    if (part == 0) decays[row] = decay;
    __syncthreads();
#pragma unroll
    for (int g = 0; g < kGroups; g++) {
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) out[g][r][c] *= decays[tile_row() + r];
      multiply_tile(out[g], p, queries - query0, kPitch, 1, PlainRows<T>(at.v, batch, kv_head, key0, keys),
                    column0 + g * kTile, size, *stage);
    }
  }

  for (int bits = 1; bits < 4; bits *= 2) row_sum += __shfl_xor_sync(kFullWarp, row_sum, bits);
  const bool blind = row_sum == 0;  // no key seen
  __syncthreads();                  // the last decays are read
  if (part == 0) decays[row] = blind ? E(0) : 1 / row_sum;
  if (part == 0 && column0 == 0 && query0 + row < queries)
    lse_of<E>(at, batch, head, query0 + row) =
        blind ? -std::numeric_limits<E>::infinity() : row_max * E(kLn2) + std::log(row_sum);
  __syncthreads();
#pragma unroll
  for (int g = 0; g < kGroups; g++) {
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int c = 0; c < 4; c++) out[g][r][c] *= decays[tile_row() + r];
    PlainRows<T>(at.out, batch, head, query0, queries).store(out[g], column0 + g * kTile, size);
  }
}

template <class T, class E>
__global__ void __launch_bounds__(kPlainThreads)
    plain_query_gradient_kernel(const Attention at, const RowStatistics<E>* statistics, int padded, int columns) {
  constexpr int kGroups = kColumnGroups<E>;
  SG_DYNAMIC_SHARED(Stage<E>, stage);
  E* const ds = reinterpret_cast<E*>(stage + 1);

  const int queries = int(at.queries), keys = int(at.keys), size = int(at.size);
  const TileOfHead place((queries + kTile - 1) / kTile * columns, int(at.heads));
  const int head = place.head, batch = place.batch, kv_head = head / (int(at.heads) / int(at.kv_heads));
  const int query0 = place.tile / columns * kTile, column0 = place.tile % columns * kGroups * kTile;
  const int key_limit = min(keys, query0 + kTile + int(at.shift()));

  E dq[kGroups][4][4] = {};
  for (int key0 = 0; key0 < key_limit; key0 += kTile) {
    make_weights<T>(at, batch, head, kv_head, query0, key0, statistics + (int64_t(batch) * at.heads + head) * padded,
                    *stage, static_cast<E*>(nullptr), ds);
#pragma unroll
    for (int g = 0; g < kGroups; g++)
      multiply_tile(dq[g], ds, queries - query0, kPitch, 1, PlainRows<T>(at.k, batch, kv_head, key0, keys),
                    column0 + g * kTile, size, *stage);
  }
#pragma unroll
  for (int g = 0; g < kGroups; g++) {
    scale_tile(dq[g], E(at.scale));
    PlainRows<T>(at.dq, batch, head, query0, queries).store(dq[g], column0 + g * kTile, size);
  }
}

template <class T, class E>
__global__ void __launch_bounds__(kPlainThreads)
    plain_key_gradient_kernel(const Attention at, const RowStatistics<E>* statistics, int padded, int columns) {
  SG_DYNAMIC_SHARED(Stage<E>, stage);
  E* const p = reinterpret_cast<E*>(stage + 1);
  E* const ds = p + kTile * kPitch;

  const int queries = int(at.queries), keys = int(at.keys), size = int(at.size);
  const TileOfHead place((keys + kTile - 1) / kTile * columns, int(at.kv_heads));
  const int kv_head = place.head, batch = place.batch, group = int(at.heads) / int(at.kv_heads);
  const int key0 = place.tile / columns * kTile, column0 = place.tile % columns * kTile;
  const int first_query = max(0, key0 - int(at.shift())) / kTile * kTile;  // those before see none of these keys

  E dk[4][4] = {}, dv[4][4] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
    for (int query0 = first_query; query0 < queries; query0 += kTile) {
      make_weights<T>(at, batch, head, kv_head, query0, key0, statistics + (int64_t(batch) * at.heads + head) * padded,
                      *stage, p, ds);
      multiply_tile(dv, p, keys - key0, 1, kPitch, PlainRows<T>(at.dout, batch, head, query0, queries), column0, size,
                    *stage);
      multiply_tile(dk, ds, keys - key0, 1, kPitch, PlainRows<T>(at.q, batch, head, query0, queries), column0, size,
                    *stage);
    }
  scale_tile(dk, E(at.scale));
  PlainRows<T>(at.dk, batch, kv_head, key0, keys).store(dk, column0, size);
  PlainRows<T>(at.dv, batch, kv_head, key0, keys).store(dv, column0, size);
}

// Blocks a tile of rows, and all blocks.
int column_blocks(const Attention& at, int width) { return std::max(1, int((at.size + width - 1) / width)); }
unsigned blocks(int64_t rows, int columns, int64_t heads) {
  return unsigned((rows + kTile - 1) / kTile * columns * heads);
}

}  // namespace

template <class T>
void plain_attention(const Attention& at, cudaStream_t stream) {
  using E = accumulate_t<T>;
  constexpr size_t kShared = sizeof(Stage<E>) + (kTile * kPitch + kTile) * sizeof(E);
  const int columns = column_blocks(at, kColumnGroups<E> * kTile);
  launch(plain_forward_kernel<T>, blocks(at.queries, columns, at.batch * at.heads), kPlainThreads, kShared, stream, at,
         columns);
}

template <class T>
void plain_attention_backward(const Attention& at, const RowStatistics<accumulate_t<T>>* statistics,
                              cudaStream_t stream) {
  using E = accumulate_t<T>;
  constexpr size_t kWeights = kTile * kPitch * sizeof(E);
  const int padded = int(padded_queries(at));
  const int for_keys = column_blocks(at, kTile), for_queries = column_blocks(at, kColumnGroups<E> * kTile);
  if (at.keys > 0)
    launch(plain_key_gradient_kernel<T, E>, blocks(at.keys, for_keys, at.batch * at.kv_heads), kPlainThreads,
           sizeof(Stage<E>) + 2 * kWeights, stream, at, statistics, padded, for_keys);
  if (at.heads * at.queries > 0)
    launch(plain_query_gradient_kernel<T, E>, blocks(at.queries, for_queries, at.batch * at.heads), kPlainThreads,
           sizeof(Stage<E>) + kWeights, stream, at, statistics, padded, for_queries);
}

#define SG_INSTANTIATE(T)                                           \
  template void plain_attention<T>(const Attention&, cudaStream_t); \
  template void plain_attention_backward<T>(const Attention&, const RowStatistics<accumulate_t<T>>*, cudaStream_t);
SG_INSTANTIATE(float)
SG_INSTANTIATE(double)
SG_INSTANTIATE(float16)
SG_INSTANTIATE(bfloat16)
#undef SG_INSTANTIATE

}  // namespace sg::gpu
