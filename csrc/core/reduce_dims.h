// The dimensions of a reduction in two groups, kept and reduced, without those of size 1.
#pragma once
#include <cstdlib>
#include <utility>

#include "view.h"

namespace sg {

struct DimGroup {
  int ndim = 0;
  int64_t shape[kMaxDims];
  int64_t x[kMaxDims];      // strides of x
  int64_t other[kMaxDims];  // kept: strides of y; reduced: strides of the row-major index into the reduced dimensions

  int64_t count() const {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= shape[d];
    return n;
  }
  // Offsets of element `index`, counted in the order of the dimensions.
  std::pair<int64_t, int64_t> at(int64_t index) const {
    int64_t in_x = 0, in_other = 0;
    for (int d = ndim - 1; d >= 0; d--) {
      in_x += index % shape[d] * x[d];
      in_other += index % shape[d] * other[d];
      index /= shape[d];
    }
    return {in_x, in_other};
  }
  // Of the last dimension.
  int64_t size() const { return ndim ? shape[ndim - 1] : 1; }
  int64_t x_stride() const { return ndim ? x[ndim - 1] : 0; }
  int64_t other_stride() const { return ndim ? other[ndim - 1] : 0; }

  void push(int64_t size, int64_t x_stride, int64_t other_stride) {
    if (size == 1) return;
    shape[ndim] = size;
    x[ndim] = x_stride;
    other[ndim++] = other_stride;
  }
  // The memory order of x.
  void sort() {
    for (int i = 1; i < ndim; i++)
      for (int d = i; d > 0 && std::abs(x[d - 1]) < std::abs(x[d]); d--) {
        std::swap(shape[d - 1], shape[d]);
        std::swap(x[d - 1], x[d]);
        std::swap(other[d - 1], other[d]);
      }
  }
  void merge() {
    int kept = 0;
    for (int d = 1; d < ndim; d++) {
      const bool merges = x[kept] == x[d] * shape[d] && other[kept] == other[d] * shape[d];
      shape[merges ? kept : kept + 1] = merges ? shape[kept] * shape[d] : shape[d];
      if (!merges) kept++;
      x[kept] = x[d];
      other[kept] = other[d];
    }
    if (ndim > 0) ndim = kept + 1;
  }
};

struct ReduceDims {
  DimGroup kept, reduced;

  ReduceDims(const View& x, const View& y, double dims) {
    const unsigned mask = unsigned(dims);
    int64_t index_stride = 1;
    int64_t index[kMaxDims];
    for (int d = x.ndim - 1; d >= 0; d--) {
      index[d] = index_stride;
      if (mask >> d & 1) index_stride *= x.shape[d];
    }
    for (int d = 0; d < x.ndim; d++) {
      if (mask >> d & 1) reduced.push(x.shape[d], x.strides[d], index[d]);
      else kept.push(x.shape[d], x.strides[d], y.strides[d]);
    }
  }
};

}  // namespace sg
