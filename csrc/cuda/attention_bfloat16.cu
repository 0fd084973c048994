#include "attention_tiled.cuh"

namespace sg::gpu {
template void tiled_attention<bfloat16>(const Attention&, cudaStream_t);
template void tiled_attention_backward<bfloat16>(const Attention&, const RowStatistics<float>*, cudaStream_t);
}  // namespace sg::gpu
