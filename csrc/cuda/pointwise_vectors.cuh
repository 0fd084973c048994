// The vector kernels of one storage type: 16 bytes of every operand a step, all arithmetic in registers.
#pragma once
#include "lanes.cuh"
#include "pointwise.h"
#include "walk.cuh"

namespace sg::gpu {

#define SG_ROW(domain, name, arity, ...)                                                         \
  struct Op_##name {                                                                             \
    static constexpr Domain kDomain = Domain::domain;                                            \
    static constexpr int kArity = arity;                                                         \
    template <class L>                                                                           \
    SG_DEVICE static L apply([[maybe_unused]] L a, [[maybe_unused]] L b, [[maybe_unused]] L c) { \
      return __VA_ARGS__;                                                                        \
    }                                                                                            \
  };
SG_POINTWISE(SG_ROW)
#undef SG_ROW

inline constexpr int kVectorThreads = 256;

// The elements of an operand that belong to the elements [first, first + Pack<T>::kCount) of the result.
template <class T, class L>
SG_DEVICE void load_vector(const VectorOperand& x, int64_t first, L (&to)[Pack<T>::kCount]) {
  constexpr int kCount = Pack<T>::kCount;
  const T* const p = static_cast<const T*>(x.data);
  if (!p) {
    for (int j = 0; j < kCount; j++) to[j] = L(typename L::value(x.number));
  } else if (x.repeat) {
    for (int j = 0; j < kCount; j++) {
      const uint32_t i = uint32_t(first + j) / x.repeat;
      to[j] = to_lane<L>(p[x.period ? i % x.period : i]);
    }
  } else {
    const int64_t from = x.period ? int64_t(uint32_t(first) % x.period) : first;
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(p + from);
    for (int j = 0; j < kCount; j++) to[j] = to_lane<L>(pack.at[j]);
  }
}
template <class T, class L>
SG_DEVICE L load_one(const VectorOperand& x, int64_t i) {
  const T* const p = static_cast<const T*>(x.data);
  if (!p) return L(typename L::value(x.number));
  if (x.repeat) i = uint32_t(i) / x.repeat;
  return to_lane<L>(p[x.period ? uint32_t(i) % x.period : i]);
}

// A vector a thread. In a loop, ptxas would make a copy of the body for every way in which operands can be broadcast.
template <class Op, class T>
__global__ void __launch_bounds__(kVectorThreads) vector_kernel(VectorOperands operands, T* out, int64_t count) {
  using L = lane_for<T>;
  constexpr int kCount = Pack<T>::kCount;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t vectors = count / kCount;
  if (const int64_t i = thread; i < vectors) {
    L a[kCount], b[kCount], c[kCount];
    load_vector<T>(operands.in[0], i * kCount, a);
    if constexpr (Op::kArity > 1) load_vector<T>(operands.in[1], i * kCount, b);
    if constexpr (Op::kArity > 2) load_vector<T>(operands.in[2], i * kCount, c);
    Pack<T> result;
    for (int j = 0; j < kCount; j++) {
      const L second = Op::kArity > 1 ? b[j] : L(0), third = Op::kArity > 2 ? c[j] : L(0);
      result.at[j] = from_lane<T>(Op::template apply<L>(a[j], second, third));
    }
    reinterpret_cast<Pack<T>*>(out)[i] = result;
  }
  const int64_t rest = vectors * kCount + thread;
  if (rest >= count) return;
  const L a = load_one<T, L>(operands.in[0], rest);
  const L b = Op::kArity > 1 ? load_one<T, L>(operands.in[1], rest) : L(0);
  const L c = Op::kArity > 2 ? load_one<T, L>(operands.in[2], rest) : L(0);
  out[rest] = from_lane<T>(Op::template apply<L>(a, b, c));
}

template <class T>
using VectorKernel = void (*)(VectorOperands, T*, int64_t);

template <class Op, class T>
constexpr VectorKernel<T> vector_kernel_or_null() {
  if constexpr (Op::kDomain == Domain::kInteger) return nullptr;
  else return vector_kernel<Op, T>;
}

template <class T>
bool pointwise_vectors(PointwiseOp op, const VectorOperands& operands, void* out, int64_t count, cudaStream_t stream) {
#define SG_ROW(domain, name, arity, ...) vector_kernel_or_null<Op_##name, T>(),
  static constexpr VectorKernel<T> kernels[] = {SG_POINTWISE(SG_ROW)};
#undef SG_ROW
  const VectorKernel<T> kernel = kernels[int(op)];
  if (!kernel) return false;
  const dim3 grid(unsigned(count / Pack<T>::kCount / kVectorThreads + 1));
  launch(kernel, grid, kVectorThreads, 0, stream, operands, static_cast<T*>(out), count);
  return true;
}

}  // namespace sg::gpu
