#include "attention_tiled.cuh"

namespace sg::gpu {
template bool tiles_fit<float16>(const Attention&, bool, size_t);
template void tiled_attention<float16>(const Attention&, cudaStream_t);
template void tiled_attention_backward<float16>(const Attention&, const RowStatistics<float>*, cudaStream_t);
}  // namespace sg::gpu
