// How convolutions read their planes: copied beside a border of zeros, with columns sorted by their remainder modulo
// the stride, so that what a tap reads for a row of outputs is always one run of neighbours. Every product of a
// convolution then is a matrix product whose operand is found by offsets, and no matrix of columns is made.
#pragma once
#include "../ops/conv.h"

namespace sg {

// One direction. Output o reads, for a tap at t, place o * step + t of the padded plane.
struct PlaneAxis {
  int64_t size;    // of the source
  int64_t before;  // the place of its first element in the padded plane; negative: what is before is cut off
  int64_t extent;  // of the padded plane; what is behind is cut off
  int64_t step;
};

struct Planes {
  PlaneAxis h, w;
  int64_t phase, pitch;  // places of one remainder in a row; of a row

  Planes(const PlaneAxis& rows, const PlaneAxis& columns)
      : h(rows), w(columns), phase((columns.extent + columns.step - 1) / columns.step), pitch(phase * columns.step) {}
  // x's planes, as the outputs read them
  explicit Planes(const Conv& s) : Planes(forward(s.h), forward(s.w)) {}

  int64_t offset(int64_t row, int64_t column) const { return row * pitch + column % w.step * phase + column / w.step; }
  // Padded rows that some outputs' rows read, and from one of these to the next.
  int64_t rows(int64_t outputs, int64_t height) const { return h.extent - (height - outputs) * h.step; }
  int64_t row_step() const { return h.step * pitch; }

 private:
  static PlaneAxis forward(const ConvAxis& a) {
    return {a.input, a.pad, (a.output - 1) * a.stride + (a.kernel - 1) * a.dilation + 1, a.stride};
  }
};

// y[image, f, i, j] = bias[f] + sum over channels c and taps t of weights[f, (c, t)] * plane c at (i, j) for tap t, for
// every group: the convolution itself, and for each remainder modulo the stride the gradient of its input.
struct Correlation {
  View source;
  Planes planes;
  int64_t images, groups, channels, filters;  // those of a group
  int64_t height, width;                      // outputs
  int64_t taps;
  const int64_t* tap_offsets;
  bool in_place;     // the planes are read where they are: a single tap, no border, rows one after another
  View target;       // its first element is output (0, 0); strides are those of outputs
  const void* bias;  // of all groups, in the accumulation type, or null

  int64_t depth() const { return channels * taps; }
};

// What a task works on.
struct CorrelationPart {
  int64_t group, image, images, row, rows;  // outputs
  int64_t first_panel, last_panel;          // of filters
};

// The gradient of the weights: sums over outputs, which are cut into chunks of some images or of some rows of one.
struct WeightGradient {
  View x, dy;
  Planes planes;
  int64_t images, channels, filters;  // of a group
  int64_t height, width;              // outputs
  int64_t taps;
  const int64_t* tap_offsets;
  int64_t chunk_images, chunk_rows, blocks;  // of a chunk; chunks of an image
};

struct WeightPart {
  int64_t group, channel, channels;
  int64_t first_chunk, last_chunk;
};

}  // namespace sg
