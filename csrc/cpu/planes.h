// Images [N, C, H, W] one plane at a time, in the type sums are taken in: how pooling and depthwise convolution read
// any strides and any float kind with one plain inner loop.
#pragma once
#include "../core/view.h"

namespace sg {

// Plane p of an image view is channel p % C of image p / C.
template <class T>
T* plane(const View& x, int64_t p) {
  return x.ptr<T>() + p / x.shape[1] * x.strides[0] + p % x.shape[1] * x.strides[1];
}

// to[h * pitch + w] = x[p, h, w]
template <class T>
void load_plane(const View& x, int64_t p, accumulate_t<T>* to, int64_t pitch) {
  const T* row = plane<const T>(x, p);
  const int64_t width = x.shape[3], step = x.strides[3];
  for (int64_t h = 0; h < x.shape[2]; h++, row += x.strides[2], to += pitch) {
    if (step == 1) {
      for (int64_t w = 0; w < width; w++) to[w] = accumulate_t<T>(row[w]);
    } else {
      for (int64_t w = 0; w < width; w++) to[w] = accumulate_t<T>(row[w * step]);
    }
  }
}

template <class T>
void store_plane(const accumulate_t<T>* from, int64_t pitch, const View& y, int64_t p) {
  T* row = plane<T>(y, p);
  const int64_t width = y.shape[3], step = y.strides[3];
  for (int64_t h = 0; h < y.shape[2]; h++, row += y.strides[2], from += pitch) {
    if (step == 1) {
      for (int64_t w = 0; w < width; w++) row[w] = T(from[w]);
    } else {
      for (int64_t w = 0; w < width; w++) row[w * step] = T(from[w]);
    }
  }
}

}  // namespace sg
