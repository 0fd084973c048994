// Images [N, C, H, W] of any strides in kernels, and flat indices taken apart: by multiplications where they fit 31
// bits.
#pragma once
#include "../core/view.h"
#include "walk.cuh"

namespace sg::gpu {

template <int kDims>
struct Place {
  int64_t at[kDims];
  SG_DEVICE int64_t operator[](int d) const { return at[d]; }
};

// Indices in row-major order.
template <int kDims>
struct FlatIndex {
  int64_t count = 1;
  bool narrow;
  int64_t sizes[kDims];
  Divisor divisors[kDims];

  explicit FlatIndex(const int64_t (&shape)[kDims]) {
    for (int d = 0; d < kDims; d++) count *= sizes[d] = shape[d];
    narrow = count > 0 && count < (int64_t(1) << 31);
    for (int d = 0; d < kDims && narrow; d++) divisors[d] = Divisor(uint32_t(sizes[d]));
  }
  SG_DEVICE Place<kDims> operator[](int64_t index) const {
    Place<kDims> place;
    if (narrow) {
      uint32_t rest = uint32_t(index);
#pragma unroll
      for (int d = kDims - 1; d > 0; d--) {
        const uint32_t quotient = divisors[d].quotient(rest);
        place.at[d] = rest - quotient * divisors[d].d;
        rest = quotient;
      }
      place.at[0] = rest;
    } else {
#pragma unroll
      for (int d = kDims - 1; d > 0; d--) {
        const int64_t quotient = index / sizes[d];
        place.at[d] = index - quotient * sizes[d];
        index = quotient;
      }
      place.at[0] = index;
    }
    return place;
  }
};
inline FlatIndex<4> image_index(In x) {
  const int64_t shape[4] = {x.shape[0], x.shape[1], x.shape[2], x.shape[3]};
  return FlatIndex<4>(shape);
}

template <class T>
struct Images {
  T* data;
  int64_t strides[4];
  explicit Images(In x) : data(x.ptr<T>()), strides{x.strides[0], x.strides[1], x.strides[2], x.strides[3]} {}
  SG_DEVICE T* plane(int64_t n, int64_t c) const { return data + n * strides[0] + c * strides[1]; }
  SG_DEVICE int64_t in_plane(int64_t h, int64_t w) const { return h * strides[2] + w * strides[3]; }
  SG_DEVICE T& operator[](const Place<4>& p) const { return plane(p[0], p[1])[in_plane(p[2], p[3])]; }
};

}  // namespace sg::gpu
