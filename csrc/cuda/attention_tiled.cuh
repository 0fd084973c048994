// Launches the tiled kernels: head sizes are filled up with zeros to 64, 96 or 128.
#pragma once
#include <algorithm>

#include "attention_backward.cuh"
#include "attention_forward.cuh"

namespace sg::gpu {

// f(size of the tiles, whether scores are rescaled before the softmax), both as integral constants. Tiles of 96 are for
// plain scores alone, which saves every build three kernels.
template <class F>
void with_tiles(const Attention& at, const F& f) {
  const bool rescaled = at.mask.data || !(at.scale > 0);
  if (rescaled && at.size <= 64) f(std::integral_constant<int, 64>{}, std::true_type{});
  else if (rescaled) f(std::integral_constant<int, 128>{}, std::true_type{});
  else if (at.size <= 64) f(std::integral_constant<int, 64>{}, std::false_type{});
  else if (at.size <= 96) f(std::integral_constant<int, 96>{}, std::false_type{});
  else f(std::integral_constant<int, 128>{}, std::false_type{});
}

inline unsigned attention_blocks(int64_t rows, int rows_a_tile, int64_t heads) {
  return unsigned((rows + rows_a_tile - 1) / rows_a_tile * heads);
}

template <class T>
bool tiles_fit(const Attention& at, bool backward, size_t shared_memory) {
  bool fits = false;
  with_tiles(at, [&](auto size, auto rescaled) {
    fits = backward ? std::max(KeyGradientTiles<size(), rescaled()>::kSharedBytes,
                               QueryGradientTiles<size(), rescaled()>::kSharedBytes) <= shared_memory
                    : ForwardTiles<size(), rescaled()>::kSharedBytes <= shared_memory;
  });
  return fits;
}

template <class T>
void tiled_attention(const Attention& at, cudaStream_t stream) {
  with_tiles(at, [&](auto size, auto rescaled) {
    using Tiles = ForwardTiles<size(), rescaled()>;
    launch(attention_forward_kernel<T, size(), rescaled()>,
           attention_blocks(at.queries, Tiles::kQueries, at.batch * at.heads), Tiles::kThreads, Tiles::kSharedBytes,
           stream, at);
  });
}

template <class T>
void tiled_attention_backward(const Attention& at, const RowStatistics<float>* statistics, cudaStream_t stream) {
  const int padded = int(padded_queries(at));
  with_tiles(at, [&](auto size, auto rescaled) {
    using ForKeys = KeyGradientTiles<size(), rescaled()>;
    using ForQueries = QueryGradientTiles<size(), rescaled()>;
    if (at.keys > 0)
      launch(attention_key_gradient_kernel<T, size(), rescaled()>,
             attention_blocks(at.keys, ForKeys::kKeys, at.batch * at.kv_heads), ForKeys::kThreads,
             ForKeys::kSharedBytes, stream, at, statistics, padded);
    if (at.heads * at.queries > 0)
      launch(attention_query_gradient_kernel<T, size(), rescaled()>,
             attention_blocks(at.queries, ForQueries::kQueries, at.batch * at.heads), ForQueries::kThreads,
             ForQueries::kSharedBytes, stream, at, statistics, padded);
  });
}

}  // namespace sg::gpu
