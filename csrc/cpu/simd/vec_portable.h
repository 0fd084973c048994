// Any machine (arm64, old x86): 16-byte registers by the compilers' vector extension, 4 floats or 2 doubles. The lane
// API is described in for_each_isa.h. What has no vector form is a loop over the lanes, which the compiler unrolls.

template <class T>
struct LaneRaw;
template <>
struct LaneRaw<float> {
  typedef float type __attribute__((vector_size(16)));
  typedef int32_t mask __attribute__((vector_size(16)));
};
template <>
struct LaneRaw<double> {
  typedef double type __attribute__((vector_size(16)));
  typedef int64_t mask __attribute__((vector_size(16)));
};

KI LaneRaw<float>::type broadcast(float a) { return LaneRaw<float>::type{a, a, a, a}; }
KI LaneRaw<double>::type broadcast(double a) { return LaneRaw<double>::type{a, a}; }
template <class R>
KI auto cmp_lt(R a, R b) {
  return a < b;
}
template <class R>
KI auto cmp_le(R a, R b) {
  return a <= b;
}
template <class R>
KI auto cmp_eq(R a, R b) {
  return a == b;
}
template <class R>
KI auto cmp_ne(R a, R b) {
  return a != b;
}

#include "lanes.h"

template <class V>
KI typename V::mask first(int n) {
  typename V::mask r;
  for (int i = 0; i < V::W; i++) r.m[i] = i < n ? -1 : 0;
  return r;
}
template <class T>
KI bool any(Mask<T> a) {
  bool r = false;
  for (int i = 0; i < Lanes<T>::W; i++) r |= a.m[i] != 0;
  return r;
}
template <class T>
KI bool all(Mask<T> a) {
  return !any(!a);
}
KI vf select(Mask<float> m, vf a, vf b) { return (vf::raw)((m.m & (decltype(m.m))a.v) | (~m.m & (decltype(m.m))b.v)); }
KI vd select(Mask<double> m, vd a, vd b) { return (vd::raw)((m.m & (decltype(m.m))a.v) | (~m.m & (decltype(m.m))b.v)); }

template <class V, class T>
KI V load(const T* p) {
  V r;
  if constexpr (std::is_same_v<typename V::value, T>) std::memcpy(&r, p, sizeof r);
  else
    for (int i = 0; i < V::W; i++) r.v[i] = (typename V::value)(accumulate_t<T>)p[i];
  return r;
}
template <class V, class T>
KI V load(const T* p, int n) {
  V r(0);
  for (int i = 0; i < V::W && i < n; i++) r.v[i] = (typename V::value)(accumulate_t<T>)p[i];
  return r;
}
template <class T, class F>
KI void store(T* p, Lanes<F> a) {
  if constexpr (std::is_same_v<F, T>) std::memcpy(p, &a, sizeof a);
  else
    for (int i = 0; i < Lanes<F>::W; i++) p[i] = T(accumulate_t<T>(a.v[i]));
}
template <class T, class F>
KI void store(T* p, Lanes<F> a, int n) {
  for (int i = 0; i < Lanes<F>::W && i < n; i++) p[i] = T(accumulate_t<T>(a.v[i]));
}

// Fused only where that is one instruction: elsewhere the C library would emulate it.
template <class T>
KI Lanes<T> multiply_add_lanes(Lanes<T> a, Lanes<T> b, Lanes<T> c) {
#if defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
  for (int i = 0; i < Lanes<T>::W; i++) c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]);
  return c;
#else
  return a * b + c;
#endif
}
KI vf fma(vf a, vf b, vf c) { return multiply_add_lanes(a, b, c); }
KI vd fma(vd a, vd b, vd c) { return multiply_add_lanes(a, b, c); }
KI vf fnma(vf a, vf b, vf c) { return fma(-a, b, c); }
KI vd fnma(vd a, vd b, vd c) { return fma(-a, b, c); }
KI vf min(vf a, vf b) { return select(a < b, a, b); }
KI vd min(vd a, vd b) { return select(a < b, a, b); }
KI vf max(vf a, vf b) { return select(a > b, a, b); }
KI vd max(vd a, vd b) { return select(a > b, a, b); }
KI vf abs(vf a) { return (vf::raw)((decltype(Mask<float>::m))a.v & INT32_MAX); }
KI vd abs(vd a) { return (vd::raw)((decltype(Mask<double>::m))a.v & INT64_MAX); }
KI vf copysign(vf a, vf s) {
  using Bits = decltype(Mask<float>::m);
  return (vf::raw)((Bits)abs(a).v | ((Bits)s.v & INT32_MIN));
}
KI vd copysign(vd a, vd s) {
  using Bits = decltype(Mask<double>::m);
  return (vd::raw)((Bits)abs(a).v | ((Bits)s.v & INT64_MIN));
}
KI vf sqrt(vf a) {
  for (int i = 0; i < vf::W; i++) a.v[i] = std::sqrt(a.v[i]);
  return a;
}
KI vd sqrt(vd a) {
  for (int i = 0; i < vd::W; i++) a.v[i] = std::sqrt(a.v[i]);
  return a;
}
// Adding and subtracting 1.5 * 2^(mantissa bits) rounds to an integer; larger magnitudes are integers already.
KI vf round(vf a) { return select(abs(a) < vf(4194304.f), copysign((a + 12582912.f) - 12582912.f, a), a); }
KI vd round(vd a) {
  return select(abs(a) < vd(2251799813685248.), copysign((a + 6755399441055744.) - 6755399441055744., a), a);
}
template <class F>
KI Lanes<F> floor(Lanes<F> a) {
  const Lanes<F> r = round(a);
  return select(r > a, r - Lanes<F>(1), r);
}
template <class F>
KI Lanes<F> ceil(Lanes<F> a) {
  return -floor(-a);
}
template <class F>
KI Lanes<F> trunc(Lanes<F> a) {
  return copysign(floor(abs(a)), a);
}
// In two factors, so that results down to the subnormals and up to infinity come out right; |n| beyond 250 (2000)
// saturates.
KI vf scale(vf a, vf n) {
  const auto k = __builtin_convertvector(min(vf(250), max(vf(-250), n)).v, decltype(Mask<float>::m)), h = k >> 1;
  return a * vf((vf::raw)((h + 127) << 23)) * vf((vf::raw)((k - h + 127) << 23));
}
KI vd scale(vd a, vd n) {
  const auto k = __builtin_convertvector(min(vd(2000), max(vd(-2000), n)).v, decltype(Mask<double>::m)), h = k >> 1;
  return a * vd((vd::raw)((h + 1023) << 52)) * vd((vd::raw)((k - h + 1023) << 52));
}
// a = m 2^e with 1 <= m < 2, for finite a > 0
KI vf mantissa(vf a, vf& e) {
  const Mask<float> tiny = a < vf(1.17549435e-38f);
  a = select(tiny, a * vf(16777216.f), a);
  const auto u = (decltype(Mask<float>::m))a.v;
  e = vf(__builtin_convertvector(u >> 23, vf::raw)) - select(tiny, vf(151), vf(127));
  return (vf::raw)((u & 0x7fffff) | 0x3f800000);
}
KI vf fast_rcp(vf a) { return vf(1) / a; }
template <class F>
KI F reduce_add(Lanes<F> a) {
  F r = a.v[0];
  for (int i = 1; i < Lanes<F>::W; i++) r += a.v[i];
  return r;
}
template <class F>
KI F reduce_max(Lanes<F> a) {
  F r = a.v[0];
  for (int i = 1; i < Lanes<F>::W; i++) r = std::max(r, a.v[i]);
  return r;
}
template <class F>
KI F reduce_min(Lanes<F> a) {
  return -reduce_max(-a);
}

// ---- for matmul and attention
#if defined(__aarch64__)
static constexpr int kTileRows = 12;  // of the micro-kernel, with two registers of columns: 24 accumulators of 32
#else
static constexpr int kTileRows = 6;  // 12 accumulators of 16
#endif
template <class T>
inline constexpr bool kPaired = false;  // bf16 is widened while packing
template <bool kPairs, class V>
KI V dot(V a, V b, V c) {
  return fma(a, b, c);
}
template <class V, int N>
KI void transpose(V (&r)[N]) {
  transpose_by_lanes(r);
}
