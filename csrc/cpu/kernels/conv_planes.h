// The padded planes of products. Their type is the one products are taken in: 16-bit numbers stay as they are where
// there is a product of pairs.
#include "plane.h"

template <class T>
using Placed = std::conditional_t<kPaired<T>, T, accumulate_t<T>>;

static constexpr int64_t kPlaneSlack = 64;  // elements behind the planes that full registers may touch

// Those of some images and channels, one after another; outputs' rows from `row` on.
template <class T>
KT Placed<T>* fill_planes(const Planes& s, const View& x, int64_t image, int64_t images, int64_t channel,
                          int64_t channels, int64_t first, int64_t rows, Scratch slot) {
  const int64_t plane = rows * s.pitch, all = images * channels * plane;
  Placed<T>* const planes = scratch<Placed<T>>(slot, all + kPlaneSlack);
  std::memset((void*)planes, 0, (all + kPlaneSlack) * sizeof(Placed<T>));
  for (int64_t i = 0; i < images; i++)
    for (int64_t c = 0; c < channels; c++)
      fill_plane(s, x.ptr<const T>() + (image + i) * x.strides[0] + (channel + c) * x.strides[1], x.strides[2],
                 x.strides[3], first, rows, planes + (i * channels + c) * plane);
  return planes;
}
