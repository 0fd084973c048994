// The number type of kernels: Lane<float>, Lane<double> and Int behave as the registers of the CPU's kernels do, so the
// tables and functors of csrc/ops compile for a GPU unchanged. A lane is one number here, a mask is a bool.
#pragma once
#include <cmath>
#include <limits>

#include "../core/cast.h"
#include "../core/dtype.h"
#include "gpu.cuh"

namespace sg::gpu {

#define KI SG_DEVICE

template <class T>
struct Lane {
  using value = T;
  T v;
  Lane() = default;
  KI Lane(T x) : v(x) {}
  template <class U>
    requires(std::is_arithmetic_v<U> && !std::is_same_v<U, T>)
  KI explicit Lane(U x) : v(T(x)) {}
  friend KI Lane operator+(Lane a, Lane b) { return a.v + b.v; }
  friend KI Lane operator-(Lane a, Lane b) { return a.v - b.v; }
  friend KI Lane operator*(Lane a, Lane b) { return a.v * b.v; }
  friend KI Lane operator/(Lane a, Lane b) { return a.v / b.v; }
  friend KI Lane operator-(Lane a) { return -a.v; }
  friend KI bool operator<(Lane a, Lane b) { return a.v < b.v; }
  friend KI bool operator<=(Lane a, Lane b) { return a.v <= b.v; }
  friend KI bool operator>(Lane a, Lane b) { return a.v > b.v; }
  friend KI bool operator>=(Lane a, Lane b) { return a.v >= b.v; }
  friend KI bool operator==(Lane a, Lane b) { return a.v == b.v; }
  friend KI bool operator!=(Lane a, Lane b) { return a.v != b.v; }
};

template <class T>
KI Lane<T> select(bool m, Lane<T> a, Lane<T> b) {
  return m ? a : b;
}
template <class F, class T>
KI Lane<T> per_lane(F f, Lane<T> a) {
  return T(f(a.v));
}
template <class F, class T>
KI Lane<T> per_lane(F f, Lane<T> a, Lane<T> b) {
  return T(f(a.v, b.v));
}

#define SG_UNARY(name, function)  \
  template <class T>              \
  KI Lane<T> name(Lane<T> a) {    \
    return T(std::function(a.v)); \
  }
SG_UNARY(abs, abs)
SG_UNARY(sqrt, sqrt)
SG_UNARY(exp, exp)
SG_UNARY(exp2, exp2)
SG_UNARY(expm1, expm1)
SG_UNARY(log, log)
SG_UNARY(log2, log2)
SG_UNARY(log10, log10)
SG_UNARY(log1p, log1p)
SG_UNARY(tanh, tanh)
SG_UNARY(erf, erf)
SG_UNARY(sin, sin)
SG_UNARY(cos, cos)
SG_UNARY(floor, floor)
SG_UNARY(ceil, ceil)
SG_UNARY(trunc, trunc)
SG_UNARY(round, rint)  // half to even
#undef SG_UNARY
template <class T>
KI Lane<T> pow(Lane<T> a, Lane<T> b) {
  return T(std::pow(a.v, b.v));
}
template <class T>
KI Lane<T> copysign(Lane<T> a, Lane<T> b) {
  return T(std::copysign(a.v, b.v));
}
template <class T>
KI Lane<T> fma(Lane<T> a, Lane<T> b, Lane<T> c) {
  return T(std::fma(a.v, b.v, c.v));
}
template <class T>
KI Lane<T> fnma(Lane<T> a, Lane<T> b, Lane<T> c) {  // c - a b
  return T(std::fma(-a.v, b.v, c.v));
}

// ---- the sigmoid family, as in the CPU's vmath.h
template <class L>
KI L sigmoid(L x) {
  return L(1) / (exp(-x) + L(1));
}
// The tanh form of GELU is x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): no cancellation near 0.
template <class L>
KI L gelu_sigmoid(L x) {
  constexpr double c = 2 * 0.7978845608028654;
  return sigmoid(x * fma(x * x, L(c * 0.044715), L(c)));
}
template <class L>
KI L gelu_tanh(L x) {
  return x * gelu_sigmoid(x);
}
template <class L>
KI L gelu_tanh_grad(L x) {
  constexpr double c = 2 * 0.7978845608028654;
  const L s = gelu_sigmoid(x), slope = fma(x * x, L(3 * 0.044715 * c), L(c));
  return fma(x * s * (L(1) - s), slope, s);
}
template <class T>
KI Lane<T> normal_cdf(Lane<T> x) {
  return T(0.5) * T(std::erfc(x.v * T(-0.7071067811865476)));
}
template <class L>
KI L gelu_erf(L x) {
  return x * normal_cdf(x);
}
template <class L>
KI L gelu_erf_grad(L x) {
  return fma(x * L(0.3989422804014327), exp(x * x * L(-0.5)), normal_cdf(x));
}

#include "../ops/functors.h"

// The lane that a memory type is computed in.
template <class T>
struct LaneFor {
  using type = Lane<std::conditional_t<std::is_same_v<T, double>, double, float>>;
};
template <>
struct LaneFor<int64_t> {
  using type = Int;
};
template <class T>
using lane_for = typename LaneFor<T>::type;

template <class L, class T>
KI L to_lane(T x) {
  return L(cast<typename L::value>(x));
}
template <class T, class L>
KI T from_lane(L x) {
  return cast<T>(x.v);
}

// One element of a tensor of any type.
template <class L>
KI L load_any(const void* p, DType dtype, int64_t i) {
  switch (dtype) {
#define SG_ROW(name, type) \
  case DType::k_##name: return to_lane<L>(static_cast<const type*>(p)[i]);
    SG_DTYPES(SG_ROW)
#undef SG_ROW
    default: return L(0);
  }
}
template <class L>
KI void store_any(void* p, DType dtype, int64_t i, L x) {
  switch (dtype) {
#define SG_ROW(name, type) \
  case DType::k_##name: static_cast<type*>(p)[i] = from_lane<type>(x); return;
    SG_DTYPES(SG_ROW)
#undef SG_ROW
    default: return;
  }
}

#undef KI

// 16 bytes of T, loaded and stored as one.
template <class T>
struct alignas(16) Pack {
  static constexpr int kCount = 16 / sizeof(T);
  T at[kCount];
};
// kCount elements as 16-byte accesses; what Pack is to types of other sizes, where several are converted together.
template <class T, int kCount>
struct Packs {
  static constexpr int kPacks = kCount / Pack<T>::kCount;
  Pack<T> pack[kPacks];
  SG_DEVICE void load(const T* p) {
    for (int i = 0; i < kPacks; i++) pack[i] = reinterpret_cast<const Pack<T>*>(p)[i];
  }
  SG_DEVICE void store(T* p) const {
    for (int i = 0; i < kPacks; i++) reinterpret_cast<Pack<T>*>(p)[i] = pack[i];
  }
  SG_DEVICE T get(int i) const { return pack[i / Pack<T>::kCount].at[i % Pack<T>::kCount]; }
  SG_DEVICE void set(int i, T x) { pack[i / Pack<T>::kCount].at[i % Pack<T>::kCount] = x; }
};
inline bool is_aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace sg::gpu
