// What the convolutions are made of: the input's patches as the columns of a matrix, and the direct form for depthwise
// filters, whose products are too thin for a matrix multiply.
#pragma once
#include "../ops/conv.h"

namespace sg {

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
