// The loop nest that several strided operands share, walked box by box. Dimensions that merge for every operand are
// merged; what remains is cut into boxes of at most kBoxElements, rows by columns, small enough to stay in L1. The
// columns are the first operand's (the output's) innermost dimension; the rows are whichever dimension makes the boxes
// efficient: a short innermost dimension gets many rows, a transposed input gets a square box, so that no cache line is
// loaded twice.
#pragma once
#include <algorithm>
#include <utility>

#include "../core/thread_pool.h"
#include "../core/view.h"

namespace sg {

inline constexpr int kBoxElements = 1024;
inline constexpr int kTile = 32;  // side of the square boxes
// About 20 microseconds of streaming through memory.
inline constexpr int64_t kGrainElements = 16384;

template <int kOperands>
struct Box {
  int64_t rows, cols;
  int64_t at[kOperands];  // the operand's offset of the box's first element
  int64_t size() const { return rows * cols; }
};

template <int kOperands>
class Nest {
 public:
  // strides[k] belongs to operand k; operand 0 is the output.
  Nest(int ndim, const int64_t* shape, const int64_t* const (&strides)[kOperands]) {
    for (int d = 0; d < ndim; d++) {
      empty_ |= shape[d] == 0;
      if (shape[d] == 1) continue;
      shape_[ndim_] = shape[d];
      for (int k = 0; k < kOperands; k++) strides_[k][ndim_] = strides[k][d];
      ndim_++;
    }
    if (empty_) return;
    sort();
    merge();
    if (ndim_ == 0) push_unit();
    if (ndim_ == 1) push_unit();
    choose_box();
  }

  int64_t row_stride(int k) const { return strides_[k][row_]; }
  int64_t col_stride(int k) const { return strides_[k][ndim_ - 1]; }
  int64_t max_rows() const { return box_rows_; }
  int64_t max_cols() const { return box_cols_; }
  int64_t boxes() const {
    if (empty_) return 0;
    int64_t n = 1;
    for (int d = 0; d < ndim_; d++) n *= extent(d);
    return n;
  }
  // For kernels that need no buffers: boxes of one row may be longer.
  void widen(int64_t cols) {
    if (!empty_ && box_rows_ == 1) box_cols_ = std::min(shape_[ndim_ - 1], cols);
  }
  // For kernels that take rows wherever they lie: whole rows by the dozen, as what goes with a box costs as much as
  // one.
  void heighten(int64_t elements) {
    const int last = ndim_ - 1;
    if (empty_ || box_rows_ > 1 || row_ != last - 1 || box_cols_ < shape_[last]) return;
    box_rows_ = std::clamp<int64_t>(elements / box_cols_, 1, shape_[row_]);
  }
  int64_t grain() const { return std::max<int64_t>(1, kGrainElements / (box_rows_ * box_cols_)); }

  // f(box) for the boxes [begin, end)
  template <class F>
  void walk(int64_t begin, int64_t end, const F& f) const {
    int64_t index[kMaxDims + 1], rest = begin;
    Box<kOperands> box;
    for (int k = 0; k < kOperands; k++) box.at[k] = 0;
    for (int d = ndim_ - 1; d >= 0; d--) {
      index[d] = rest % extent(d);
      rest /= extent(d);
      for (int k = 0; k < kOperands; k++) box.at[k] += index[d] * step(d) * strides_[k][d];
    }
    for (int64_t i = begin; i < end; i++) {
      box.rows = std::min(box_rows_, shape_[row_] - index[row_] * box_rows_);
      box.cols = std::min(box_cols_, shape_[ndim_ - 1] - index[ndim_ - 1] * box_cols_);
      f(static_cast<const Box<kOperands>&>(box));
      for (int d = ndim_ - 1; d >= 0; d--) {
        const bool wraps = ++index[d] == extent(d);
        const int64_t moved = wraps ? (1 - index[d]) * step(d) : step(d);
        for (int k = 0; k < kOperands; k++) box.at[k] += moved * strides_[k][d];
        if (!wraps) break;
        index[d] = 0;
      }
    }
  }

  template <class F>
  void parallel(const F& f) const {
    parallel_for(boxes(), grain(), [&](int64_t begin, int64_t end) { walk(begin, end, f); });
  }

 private:
  static int64_t magnitude(int64_t stride) { return stride < 0 ? -stride : stride; }
  int64_t step(int d) const { return d == ndim_ - 1 ? box_cols_ : d == row_ ? box_rows_ : 1; }
  int64_t extent(int d) const { return (shape_[d] + step(d) - 1) / step(d); }

  void push_unit() {  // an outer dimension of size 1
    for (int d = ndim_; d > 0; d--) {
      shape_[d] = shape_[d - 1];
      for (int k = 0; k < kOperands; k++) strides_[k][d] = strides_[k][d - 1];
    }
    shape_[0] = 1;
    for (int k = 0; k < kOperands; k++) strides_[k][0] = 0;
    ndim_++;
  }

  void swap_dims(int a, int b) {
    std::swap(shape_[a], shape_[b]);
    for (int k = 0; k < kOperands; k++) std::swap(strides_[k][a], strides_[k][b]);
  }

  // Memory order of the output: its smallest stride last.
  void sort() {
    for (int i = 1; i < ndim_; i++) {
      for (int d = i; d > 0 && magnitude(strides_[0][d - 1]) < magnitude(strides_[0][d]); d--) swap_dims(d - 1, d);
    }
  }

  void merge() {
    int kept = 0;
    for (int d = 1; d < ndim_; d++) {
      bool merges = true;
      for (int k = 0; k < kOperands; k++) merges &= strides_[k][kept] == strides_[k][d] * shape_[d];
      if (!merges) kept++;
      shape_[kept] = merges ? shape_[kept] * shape_[d] : shape_[d];
      for (int k = 0; k < kOperands; k++) strides_[k][kept] = strides_[k][d];
    }
    if (ndim_ > 0) ndim_ = kept + 1;
  }

  void choose_box() {
    const int last = ndim_ - 1;
    row_ = last - 1;
    box_rows_ = 1;
    box_cols_ = std::min<int64_t>(shape_[last], kBoxElements);
    for (int k = 1; k < kOperands; k++) {
      if (magnitude(strides_[k][last]) <= 1) continue;
      for (int d = 0; d < last; d++) {
        if (magnitude(strides_[k][d]) != 1) continue;
        row_ = d;
        box_cols_ = std::min<int64_t>(shape_[last], kTile);
        box_rows_ = std::min<int64_t>(shape_[d], kBoxElements / box_cols_);
        return;
      }
    }
    if (box_cols_ >= 64) return;
    for (int d = 0; d < last; d++) row_ = shape_[d] > shape_[row_] ? d : row_;
    box_rows_ = std::min(shape_[row_], kBoxElements / std::max<int64_t>(1, box_cols_));
  }

  bool empty_ = false;
  int ndim_ = 0, row_ = 0;
  int64_t box_rows_ = 1, box_cols_ = 1;
  int64_t shape_[kMaxDims + 2];
  int64_t strides_[kOperands][kMaxDims + 2];
};

}  // namespace sg
