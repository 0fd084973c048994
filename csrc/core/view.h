// A View is what a kernel sees of a tensor: a pointer with shape, strides (in elements) and dtype. Shapes and strides
// are decided in TypeScript; the Node-API layer has already checked that every element lies inside its storage.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace sg {

inline constexpr int kMaxDims = 8;

struct View {
  void* data = nullptr;  // null for a scalar operand, whose value is `scalar`
  double scalar = 0;
  DType dtype = DType::k_float32;
  int ndim = 0;
  int64_t shape[kMaxDims];
  int64_t strides[kMaxDims];

  bool is_scalar() const { return data == nullptr; }
  template <class T>
  T* ptr() const {
    return static_cast<T*>(data);
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; i++) n *= shape[i];
    return n;
  }
  // size(-1) is the last dimension, as in PyTorch
  int64_t size(int i) const { return shape[i < 0 ? i + ndim : i]; }
  int64_t stride(int i) const { return strides[i < 0 ? i + ndim : i]; }
  bool contiguous() const {
    int64_t expected = 1;
    for (int i = ndim - 1; i >= 0; i--) {
      if (shape[i] != 1 && strides[i] != expected) return numel() == 0;  // no elements: any strides will do
      expected *= shape[i];
    }
    return true;
  }
};

// Parameter kinds of the Device operations. The Node-API layer fills them from the block in the order they are
// declared.
using In = const View&;  // an input
using Out = View&;       // an output: fresh and contiguous, or given for in-place work
struct MaybeIn {         // an input that may be absent
  const View* view;
  explicit operator bool() const { return view != nullptr; }
  const View& operator*() const { return *view; }
  const View* operator->() const { return view; }
};
struct MaybeOut {  // an output that may be absent
  View* view;
  explicit operator bool() const { return view != nullptr; }
  View& operator*() const { return *view; }
  View* operator->() const { return view; }
};
struct Ins {  // all remaining tensors; some ops write to them in place and say so
  View* first;
  int count;
  View& operator[](int i) const { return first[i]; }
};
struct Rest {  // all remaining numbers
  const double* first;
  int count;
  double operator[](int i) const { return first[i]; }
};

}  // namespace sg
