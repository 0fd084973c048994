// What the two directions of the softmax family share.
#pragma once
#include "parameter_rows.h"
#include "rows.cuh"

namespace sg::gpu {

enum class SoftmaxKind { kSoftmax, kLogSoftmax, kLogSumExp };

// A tensor without dimensions is a row of one element.
inline int64_t softmax_row(const View& x) { return x.ndim > 0 ? x.size(-1) : 1; }

inline void check_softmax(const View& x, const View& y) {
  SG_ASSERT(y.dtype == x.dtype && y.contiguous() && y.numel() == x.numel());
}

// Whether packs lie alike in rows that begin at the two addresses.
inline bool packs_alike(const void* a, const void* b) {
  return (reinterpret_cast<uintptr_t>(a) - reinterpret_cast<uintptr_t>(b)) % 16 == 0;
}

}  // namespace sg::gpu
