// The sizes of a 2-d convolution and what its operations are made of: the input's patches as the columns of a matrix,
// and the direct form for depthwise filters, whose products are too thin for a matrix multiply.
#pragma once
#include <algorithm>

#include "../core/device.h"

namespace sg {

struct ConvAxis {
  int64_t input, kernel, output, stride, pad, dilation;
  // Where tap k of output o reads, in the unpadded input.
  int64_t source(int64_t o, int64_t k) const { return o * stride - pad + k * dilation; }
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

// Some neighbouring outputs of one image, or all outputs of several.
struct ConvTile {
  int64_t image, images;
  int64_t begin, end;  // of the image's outputs
  int64_t size() const { return images * (end - begin); }
};

// columns[(c, kh, kw) * row + output of the tile] = the element that the output's tap (kh, kw) reads from channel
// channel + c, 0 outside of x; in x's dtype.
void im2col(const Conv& conv, In x, const ConvTile& tile, int64_t channel, int64_t channels, void* columns,
            int64_t row);

// The gradient of im2col: sums[image of the tile][c][h][w] += the columns that read the element, in the order of the
// taps.
template <class A>
void col2im(const Conv& conv, const A* columns, int64_t row, const ConvTile& tile, int64_t channels, A* sums);

void depthwise_forward(const Conv& conv, In x, In weight, MaybeIn bias, Out y);
void depthwise_backward_input(const Conv& conv, In dy, In weight, Out dx);
void depthwise_backward_weight(const Conv& conv, In dy, In x, Out dw);

}  // namespace sg
