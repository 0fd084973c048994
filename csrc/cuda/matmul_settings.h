// What matmul may trade for speed.
#pragma once
#include <atomic>

namespace sg {

// float32 products with inputs rounded to TF32 (10 bits of mantissa), on the tensor cores. Off by default, as in
// PyTorch.
extern std::atomic<bool> matmul_tf32;

}  // namespace sg
