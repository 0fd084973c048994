#include "pointwise_vectors.cuh"

namespace sg::gpu {
template bool pointwise_vectors<float16>(PointwiseOp, const VectorOperands&, void*, int64_t, cudaStream_t);
}
