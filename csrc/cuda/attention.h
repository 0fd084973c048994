// The two forms of the attention kernels: tiles on the tensor cores for 16-bit rows that can be copied 16 bytes at a
// time, and a plain one for every other type, head size and layout.
#pragma once
#include <cuda_runtime_api.h>

#include "../ops/attention.h"

namespace sg::gpu {

// What the backward pass needs of a row of queries, made beforehand: the log-sum-exp in base 2 and delta = dO O. Rows
// that see nothing, and those added to fill a multiple of kStatisticsRows, have +inf and with it probabilities of 0.
template <class E>
struct alignas(2 * sizeof(E)) RowStatistics {
  E lse, delta;
};
inline constexpr int kStatisticsRows = 128;
inline int64_t padded_queries(const Attention& at) {
  return (at.queries + kStatisticsRows - 1) / kStatisticsRows * kStatisticsRows;
}

// T is bfloat16 or float16; instantiated by attention_*.cu, a type a file.
template <class T>
void tiled_attention(const Attention& at, cudaStream_t stream);
template <class T>
void tiled_attention_backward(const Attention& at, const RowStatistics<float>* statistics, cudaStream_t stream);

// Whether a block of this GPU has the shared memory that the tiles take: with 99 KiB (compute capability 8.6, 8.9 and
// 12) not the backward pass of more than 96 features, nor a mask on more than 64.
template <class T>
bool tiles_fit(const Attention& at, bool backward, size_t shared_memory);

template <class T>
void plain_attention(const Attention& at, cudaStream_t stream);
template <class T>
void plain_attention_backward(const Attention& at, const RowStatistics<accumulate_t<T>>* statistics,
                              cudaStream_t stream);

}  // namespace sg::gpu
