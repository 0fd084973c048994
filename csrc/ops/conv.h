// The sizes of a 2-d convolution, checked, and the arithmetic of its windows: the same for every backend.
#pragma once
#include <algorithm>

#include "../core/host_device.h"
#include "../core/view.h"
#include "geometry.h"

namespace sg {

struct ConvAxis {
  int64_t input, kernel, output, stride, pad, dilation;
  // Where tap k of output o reads, in the unpadded input.
  SG_HOST_DEVICE int64_t source(int64_t o, int64_t k) const { return o * stride - pad + k * dilation; }
  // The outputs [first, last) whose tap k lies inside the input.
  int64_t first(int64_t k) const {
    const int64_t missing = pad - k * dilation;
    return missing <= 0 ? 0 : std::min(output, (missing + stride - 1) / stride);
  }
  int64_t last(int64_t k) const {
    const int64_t left = input - 1 + pad - k * dilation;
    return left < 0 ? first(k) : std::max(first(k), std::min(output, left / stride + 1));
  }
};

// x [images, channels, h.input, w.input], weight [filters, channels / groups, h.kernel, w.kernel],
// y [images, filters, h.output, w.output]
struct Conv {
  int64_t images, channels, filters, groups;
  ConvAxis h, w;

  Conv(In x, In weight, In y, Rest geometry);
  int64_t group_channels() const { return channels / groups; }
  int64_t group_filters() const { return filters / groups; }
  int64_t taps() const { return h.kernel * w.kernel; }
  int64_t depth() const { return group_channels() * taps(); }  // of the product
  int64_t inputs() const { return h.input * w.input; }         // elements of a plane
  int64_t outputs() const { return h.output * w.output; }
  // The input itself is the columns.
  bool pointwise() const { return taps() == 1 && h.stride == 1 && w.stride == 1 && h.pad == 0 && w.pad == 0; }
  bool depthwise() const { return group_channels() == 1 && group_filters() <= 4; }
};

inline Conv::Conv(In x, In weight, In y, Rest geometry) {
  SG_ASSERT(x.ndim == 4 && weight.ndim == 4 && y.ndim == 4 && geometry.count == 7);
  SG_ASSERT(x.dtype == weight.dtype && x.dtype == y.dtype);
  images = x.shape[0];
  channels = x.shape[1];
  filters = weight.shape[0];
  groups = whole_number(geometry[6], 1);
  SG_ASSERT(y.shape[0] == images && y.shape[1] == filters);
  SG_ASSERT(filters % groups == 0 && channels == groups * weight.shape[1]);
  for (int a = 0; a < 2; a++) {
    ConvAxis& axis = a == 0 ? h : w;
    axis.input = x.shape[2 + a];
    axis.kernel = weight.shape[2 + a];
    axis.output = y.shape[2 + a];
    axis.stride = whole_number(geometry[a], 1);
    axis.pad = whole_number(geometry[2 + a], 0);
    axis.dilation = whole_number(geometry[4 + a], 1);
    const int64_t room = axis.input + 2 * axis.pad - axis.dilation * (axis.kernel - 1) - 1;
    SG_ASSERT(axis.kernel > 0 && axis.output == (room < 0 ? 0 : room / axis.stride + 1));
  }
  // Working memory is a part of these, so its size cannot overflow.
  const double products = double(images) * double(channels) * double(taps()) * double(outputs());
  const double padded = double(h.input + 2 * h.pad) * double(w.input + 2 * w.pad);
  SG_ASSERT(products <= 0x1p53 && padded <= 0x1p53);
}

}  // namespace sg
