#include "pointwise_vectors.cuh"

namespace sg::gpu {
template bool pointwise_vectors<double>(PointwiseOp, const VectorOperands&, void*, int64_t, cudaStream_t);
}
