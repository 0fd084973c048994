// Small operands with one element a channel (weights of norms, running statistics, class weights), which may be of
// another float kind than the activations: kernels read them in the type of the activations or in the one that sums
// are taken in, and anything else is converted first. Sums over rows come in parts, which are added in order.
#pragma once
#include "cuda_device.h"
#include "cuda_queue.h"

namespace sg::gpu {

// The elements of x side by side as T: in place, or copied into scratch memory.
template <class T>
const T* dense(CudaDevice& device, const View& x, Scratch& scratch) {
  if (x.dtype == DTypeOf<T>::value && x.contiguous()) return x.ptr<const T>();
  View copy = x;
  copy.dtype = DTypeOf<T>::value;
  copy.data = scratch.take<T>(size_t(x.numel()));
  int64_t stride = 1;
  for (int d = x.ndim - 1; d >= 0; d--) {
    copy.strides[d] = stride;
    stride *= x.shape[d];
  }
  device.copy(x, copy);
  return copy.ptr<const T>();
}

// At most one of the two is given, and starts at 16 bytes: neither means that the operand is absent.
template <class T>
struct ParameterRow {
  using A = accumulate_t<T>;
  const A* wide = nullptr;
  const T* narrow = nullptr;
};

template <class T>
ParameterRow<T> parameter_row(CudaDevice& device, MaybeIn v, int64_t n, Scratch& scratch) {
  using A = accumulate_t<T>;
  if (!v) return {};
  SG_ASSERT(v->ndim == 1 && v->shape[0] == n);
  const bool usable = v->contiguous() && reinterpret_cast<uintptr_t>(v->data) % 16 == 0;
  if (usable && v->dtype == DTypeOf<T>::value && !std::is_same_v<T, A>) return {nullptr, v->ptr<const T>()};
  if (usable && v->dtype == DTypeOf<A>::value) return {v->ptr<const A>(), nullptr};
  View copy = *v;
  copy.dtype = DTypeOf<A>::value;
  copy.data = scratch.take<A>(size_t(n));
  copy.strides[0] = 1;
  device.copy(*v, copy);
  return {copy.ptr<const A>(), nullptr};
}

// to[i] = the sum over the parts of from[part * stride + i]; nothing where `to` is absent. A is float or double.
template <class A>
void sum_parts(const A* from, int64_t parts, int64_t stride, MaybeOut to, cudaStream_t stream);

}  // namespace sg::gpu
