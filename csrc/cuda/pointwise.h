// How the parts of the pointwise engine speak to each other: a kernel an operation and storage type for operands that
// lie in vectors, and one general kernel a compute type.
#pragma once
#include <cuda_runtime_api.h>

#include "../ops/pointwise.h"

namespace sg::gpu {

inline constexpr int kMaxInputs = 3;

// An operand of a vector kernel. Element i of the result takes element (i / repeat) % period, so bias rows and columns
// that are broadcast need no strides; without memory it is a number for all.
struct VectorOperand {
  const void* data;
  double number;
  uint32_t period, repeat;  // 0: not broadcast that way
};
struct VectorOperands {
  VectorOperand in[kMaxInputs];
};

// Operation `op` over `count` elements of T; false where it does not exist in that type. T is float, double, bfloat16
// or float16; instantiated by pointwise_*.cu, a type a file.
template <class T>
bool pointwise_vectors(PointwiseOp op, const VectorOperands& operands, void* out, int64_t count, cudaStream_t stream);

}  // namespace sg::gpu
