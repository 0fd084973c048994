// Rows: walks a strided shape row by row for any number of operands at once, in row-major order. The last dimension is
// the row and is left to the kernel. merge() joins dimensions that all operands step through evenly, so a contiguous
// tensor becomes one long row.
#pragma once
#include <algorithm>

#include "../core/view.h"

namespace sg {

class Rows {
 public:
  // A tensor without dimensions is one row of one element.
  Rows(int ndim, const int64_t* shape) : ndim_(std::max(ndim, 1)), given_(ndim) {
    shape_[0] = 1;
    for (int d = 0; d < ndim; d++) shape_[d] = shape[d];
  }
  explicit Rows(In x) : Rows(x.ndim, x.shape) { add(x.strides); }

  // Adds an operand with the strides of a tensor of this shape; operands are numbered in this order.
  void add(const int64_t* strides) {
    SG_ASSERT(operands_ < kMaxOperands);
    for (int d = 0; d < ndim_; d++) strides_[operands_][d] = d < given_ ? strides[d] : 0;
    start_[operands_] = offset_[operands_] = 0;
    operands_++;
  }

  // Restricts dimension d to [begin, end).
  void narrow(int d, int64_t begin, int64_t end) {
    shape_[d] = end - begin;
    for (int k = 0; k < operands_; k++) offset_[k] = start_[k] += begin * strides_[k][d];
  }

  void merge() {
    int last = 0;
    for (int d = 1; d < ndim_; d++) {
      bool even = true;
      for (int k = 0; k < operands_; k++) even &= strides_[k][last] == strides_[k][d] * shape_[d];
      if (shape_[last] == 1 || (even && shape_[d] != 1)) {
        shape_[last] *= shape_[d];
        for (int k = 0; k < operands_; k++) strides_[k][last] = strides_[k][d];
      } else if (shape_[d] != 1) {
        shape_[++last] = shape_[d];
        for (int k = 0; k < operands_; k++) strides_[k][last] = strides_[k][d];
      }
    }
    ndim_ = last + 1;
  }

  int64_t count() const {
    int64_t n = 1;
    for (int d = 0; d < ndim_ - 1; d++) n *= shape_[d];
    return n;
  }
  int64_t length() const { return shape_[ndim_ - 1]; }
  int64_t stride(int operand) const { return strides_[operand][ndim_ - 1]; }
  // Where the present row starts, in elements.
  int64_t operator[](int operand) const { return offset_[operand]; }

  void seek(int64_t row) {
    for (int k = 0; k < operands_; k++) offset_[k] = start_[k];
    for (int d = ndim_ - 2; d >= 0; d--) {
      at_[d] = row % shape_[d];
      row /= shape_[d];
      for (int k = 0; k < operands_; k++) offset_[k] += at_[d] * strides_[k][d];
    }
  }
  void next() {
    for (int d = ndim_ - 2; d >= 0; d--) {
      const bool wraps = ++at_[d] == shape_[d];
      const int64_t steps = wraps ? 1 - shape_[d] : 1;
      for (int k = 0; k < operands_; k++) offset_[k] += steps * strides_[k][d];
      if (!wraps) return;
      at_[d] = 0;
    }
  }

 private:
  static constexpr int kMaxOperands = kMaxDims + 3;  // one index a dimension, a table, its accumulator, the values
  int ndim_, given_, operands_ = 0;
  int64_t shape_[kMaxDims], strides_[kMaxOperands][kMaxDims];
  int64_t at_[kMaxDims] = {}, start_[kMaxOperands], offset_[kMaxOperands];
};

}  // namespace sg
