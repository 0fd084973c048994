// Conversion between memory of any dtype and strides and a block of lanes: what lets a kernel be written once, for
// contiguous float32, float64 or int64 (the lane dtypes), and still serve every tensor.
#pragma once
#include "../core/dtype.h"

namespace sg {

// A rows x cols box of a strided tensor: the address of its first element and the strides, in elements.
struct Strided {
  void* data;
  int64_t row_stride, col_stride;
};

// to[r * cols + c] = lane(from[r, c])
using LoadBlock = void (*)(Strided from, int64_t rows, int64_t cols, void* to);
// to[r, c] = dtype(from[r * cols + c])
using StoreBlock = void (*)(const void* from, int64_t rows, int64_t cols, Strided to);

LoadBlock block_loader(DType dtype, DType lane);
StoreBlock block_storer(DType lane, DType dtype);

// The next box of a transposed operand lies a few columns further, each in another page: no hardware looks there.
template <class T>
inline void prefetch_run(const T* from, int64_t n) {
  for (int64_t i = 0; i < n; i += int64_t(64 / sizeof(T))) __builtin_prefetch(from + i);
}

inline void* address(const void* data, int64_t elements, DType dtype) {
  return const_cast<char*>(static_cast<const char*>(data)) + elements * int64_t(dtype_size(dtype));
}

}  // namespace sg
