// What the two directions of cross-entropy share: targets and class weights, and how a team walks along a row of
// logits.
#pragma once
#include "fault.cuh"
#include "parameter_rows.cuh"
#include "rows.cuh"

namespace sg::gpu {

// Class indices [M], int32 or int64.
struct Targets {
  const void* data;
  int64_t stride, classes;
  double ignored;
  bool wide;

  Targets(const char* op, const View& v, int64_t rows, int64_t count, double ignore_index)
      : data(v.data), stride(v.ndim > 0 ? v.strides[0] : 0), classes(count), ignored(ignore_index) {
    SG_ASSERT(v.ndim <= 1 && v.numel() == rows);
    dispatch_index(op, v.dtype, [&](auto tag) { wide = sizeof(typename decltype(tag)::type) == 8; });
  }
  SG_DEVICE int64_t given(int64_t row) const {
    return wide ? static_cast<const int64_t*>(data)[row * stride] : static_cast<const int32_t*>(data)[row * stride];
  }
  SG_DEVICE bool is_ignored(int64_t target) const { return double(target) == ignored; }
  SG_DEVICE bool is_class(int64_t target) const { return target >= 0 && target < classes; }
  // -1 for rows that are ignored, and for those whose target is no class: what is wrong with them is said elsewhere.
  SG_DEVICE int64_t operator[](int64_t row) const {
    const int64_t target = given(row);
    return is_ignored(target) || !is_class(target) ? -1 : target;
  }
};

template <class A>
struct ClassWeights {
  const A* row;  // null: all 1
  const A* sum;  // on the device; null: not needed, or the number of classes
  SG_DEVICE A of(int64_t target) const { return row ? row[target] : A(1); }
  SG_DEVICE A total(int64_t classes) const { return sum ? *sum : A(classes); }
};

// Defined in loss.cu. The sum is needed when losses are smoothed.
template <class A>
ClassWeights<A> class_weights(CudaDevice& device, MaybeIn weight, int64_t classes, bool smooth, Scratch& scratch);

// Rows whose elements are neighbours.
template <class T>
struct LogitRows {
  const T* data;
  int64_t stride;
  LogitRows(CudaDevice& device, const View& x, Scratch& scratch) : data(x.ptr<const T>()), stride(x.strides[0]) {
    if (x.strides[1] == 1 || x.shape[1] == 1) return;
    data = dense<T>(device, x, scratch);
    stride = x.shape[1];
  }
};

// Defined in loss_backward.cu: crossEntropyBackward, with a scale of 1 where none is given.
void cross_entropy_gradient(CudaDevice& device, MaybeIn scale, In logits, In targets, MaybeIn weight, In lse,
                            Out dlogits, double ignore_index, double smoothing);

SG_DEVICE float quick_exp(float x) { return fast_exp2(x * 1.44269504f); }
SG_DEVICE double quick_exp(double x) { return std::exp(x); }

// f(threads) for rows of n logits.
template <class F>
void for_logits(int64_t n, F&& f) {
  if (n <= 1024) f(std::integral_constant<int, 32>{});
  else f(std::integral_constant<int, 256>{});
}

}  // namespace sg::gpu
