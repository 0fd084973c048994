#include "attention_tiled.cuh"

namespace sg::gpu {
template bool tiles_fit<bfloat16>(const Attention&, bool, size_t);
template void tiled_attention<bfloat16>(const Attention&, cudaStream_t);
template void tiled_attention_backward<bfloat16>(const Attention&, const RowStatistics<float>*, cudaStream_t);
}  // namespace sg::gpu
