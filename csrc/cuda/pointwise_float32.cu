#include "pointwise_vectors.cuh"

namespace sg::gpu {
template bool pointwise_vectors<float>(PointwiseOp, const VectorOperands&, void*, int64_t, cudaStream_t);
}
