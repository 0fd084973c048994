// A view as one flat run of elements in logical (row-major) order, whatever its strides: how kernels that work on rows
// or blocks read operands that are not contiguous. Neighbouring dimensions are merged first, so that a contiguous
// tensor, a slice of rows and an expanded one all end as one or two dimensions.
#pragma once
#include "../core/thread_pool.h"
#include "../core/view.h"

namespace sg {

class Flat {
 public:
  explicit Flat(const View& v) : data_(v.data), size_(v.numel()) {
    SG_ASSERT(!v.is_scalar() || size_ == 0);
    for (int i = 0; i < v.ndim; i++) {
      if (v.shape[i] == 1) continue;
      if (ndim_ > 0 && strides_[ndim_ - 1] == v.strides[i] * v.shape[i]) {
        shape_[ndim_ - 1] *= v.shape[i];
        strides_[ndim_ - 1] = v.strides[i];
      } else {
        shape_[ndim_] = v.shape[i];
        strides_[ndim_++] = v.strides[i];
      }
    }
    if (ndim_ == 0) shape_[ndim_] = 1, strides_[ndim_++] = 1;
  }

  int64_t size() const { return size_; }

  // The distance from one row of n elements to the next, if every row is n neighbours and all are evenly spaced; else
  // -1.
  int64_t row_stride(int64_t n) const {
    if (ndim_ == 1 && strides_[0] == 1) return n;
    return ndim_ == 2 && shape_[1] == n && strides_[1] == 1 ? strides_[0] : -1;
  }

  // The address of element `begin` if the n elements from there are neighbours in memory, else null.
  template <class T>
  T* direct(int64_t begin, int64_t n) const {
    if (n == 0) return static_cast<T*>(data_);
    const int64_t inner = shape_[ndim_ - 1];
    if (n > 1 && (strides_[ndim_ - 1] != 1 || begin % inner + n > inner)) return nullptr;
    return static_cast<T*>(data_) + offset(begin);
  }

  // Calls f(offset, stride, count) for each stretch of the innermost dimension within [begin, begin + n), in order.
  template <class F>
  void stretches(int64_t begin, int64_t n, const F& f) const {
    const int64_t inner = shape_[ndim_ - 1];
    while (n > 0) {
      const int64_t count = std::min(n, inner - begin % inner);
      f(offset(begin), strides_[ndim_ - 1], count);
      begin += count;
      n -= count;
    }
  }

  template <class T>
  T* gather(int64_t begin, int64_t n, T* to) const {
    T* next = to;
    stretches(begin, n, [&](int64_t offset, int64_t stride, int64_t count) {
      const T* const from = static_cast<const T*>(data_) + offset;
      for (int64_t i = 0; i < count; i++) *next++ = from[i * stride];
    });
    return to;
  }

  // The n elements from `begin`, in place or gathered into the scratch slot.
  template <class T>
  const T* read(int64_t begin, int64_t n, Scratch slot) const {
    if (const T* p = direct<const T>(begin, n)) return p;
    return gather(begin, n, scratch<T>(slot, size_t(n)));
  }

 private:
  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (int i = ndim_ - 1; i > 0; i--) {
      at += index % shape_[i] * strides_[i];
      index /= shape_[i];
    }
    return at + index * strides_[0];
  }

  void* data_;
  int64_t size_;
  int ndim_ = 0;
  int64_t shape_[kMaxDims];
  int64_t strides_[kMaxDims];
};

}  // namespace sg
