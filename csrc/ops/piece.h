// Piece: which elements of a whole tensor a rank has, as far as they decide about random numbers. Neighbouring
// dimensions of which only the outermost is cut are one here, so most pieces have one dimension or two.
#pragma once
#include <cstdint>

#include "../core/host_device.h"

namespace sg {

// A list of numbers as lib/optim/rounding.ts writes it: the number of dimensions, then for each, the innermost first,
// its stride in the whole, the piece's length in it, how many ranges of it make up that, and of each start and length.
struct Piece {
  static constexpr int kMaxDims = 8, kDim = 3;  // numbers of a dimension before its ranges
  struct Place {
    int64_t element;  // of the whole
    int64_t left;     // the piece goes on like the whole for so many
  };

  const double* numbers;  // null: all is here

  // Whether n elements are described in the `room` numbers that there are.
  bool sound(int64_t n, int64_t room) const {
    constexpr double kMost = 1ll << 50;
    const auto is_size = [](double x) { return x >= 0 && x <= kMost; };
    if (room < 1 || !(numbers[0] >= 0 && numbers[0] <= kMaxDims)) return false;
    const double* at = numbers + 1;
    int64_t product = 1;
    for (int d = 0; d < int(numbers[0]); d++) {
      if (at + kDim > numbers + room || !is_size(at[0]) || !(at[1] >= 1 && at[1] <= double(n))) return false;
      const double ranges = at[2];
      if (!(ranges >= 1 && ranges <= double(room) && at + kDim + 2 * int64_t(ranges) <= numbers + room)) return false;
      int64_t sum = 0;
      for (const double* r = at + kDim; r < at + kDim + 2 * int64_t(ranges); r += 2) {
        if (!is_size(r[0]) || !(r[1] >= 1 && r[1] <= at[1])) return false;
        sum += int64_t(r[1]);
      }
      if (sum != int64_t(at[1]) || product > n / sum) return false;
      product *= sum;
      at += kDim + 2 * int64_t(ranges);
    }
    return int(numbers[0]) == 0 || product == n;
  }

  // Of a piece that is none of null.
  SG_HOST_DEVICE Place find(int64_t i) const {
    Place place{0, 0};
    const double* at = numbers + 1;
    for (int d = 0, dims = int(numbers[0]); d < dims; d++) {
      const int64_t stride = int64_t(at[0]), length = int64_t(at[1]), ranges = int64_t(at[2]);
      int64_t here = i % length;
      i /= length;
      const double* range = at + kDim;
      while (here >= int64_t(range[1])) {
        here -= int64_t(range[1]);
        range += 2;
      }
      place.element += (int64_t(range[0]) + here) * stride;
      if (d == 0) place.left = int64_t(range[1]) - here;
      at += kDim + 2 * ranges;
    }
    return place;
  }
};

}  // namespace sg
