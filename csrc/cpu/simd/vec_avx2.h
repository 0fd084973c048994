// AVX2 + FMA + F16C: 8 floats, 4 doubles. The lane API is described in for_each_isa.h.
// 16-bit types have no masked moves here: partial loads and stores go through a small buffer.

template <class T>
struct LaneRaw;
template <>
struct LaneRaw<float> {
  using type = __m256;
  typedef int mask __attribute__((vector_size(32)));
};
template <>
struct LaneRaw<double> {
  using type = __m256d;
  typedef long long mask __attribute__((vector_size(32)));
};

KI __m256 broadcast(float a) { return _mm256_set1_ps(a); }
KI __m256d broadcast(double a) { return _mm256_set1_pd(a); }
KI LaneRaw<float>::mask cmp_lt(__m256 a, __m256 b) { return (LaneRaw<float>::mask)_mm256_cmp_ps(a, b, _CMP_LT_OQ); }
KI LaneRaw<float>::mask cmp_le(__m256 a, __m256 b) { return (LaneRaw<float>::mask)_mm256_cmp_ps(a, b, _CMP_LE_OQ); }
KI LaneRaw<float>::mask cmp_eq(__m256 a, __m256 b) { return (LaneRaw<float>::mask)_mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
KI LaneRaw<float>::mask cmp_ne(__m256 a, __m256 b) { return (LaneRaw<float>::mask)_mm256_cmp_ps(a, b, _CMP_NEQ_UQ); }
KI LaneRaw<double>::mask cmp_lt(__m256d a, __m256d b) { return (LaneRaw<double>::mask)_mm256_cmp_pd(a, b, _CMP_LT_OQ); }
KI LaneRaw<double>::mask cmp_le(__m256d a, __m256d b) { return (LaneRaw<double>::mask)_mm256_cmp_pd(a, b, _CMP_LE_OQ); }
KI LaneRaw<double>::mask cmp_eq(__m256d a, __m256d b) { return (LaneRaw<double>::mask)_mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
KI LaneRaw<double>::mask cmp_ne(__m256d a, __m256d b) {
  return (LaneRaw<double>::mask)_mm256_cmp_pd(a, b, _CMP_NEQ_UQ);
}

#include "lanes.h"

template <class V>
KI typename V::mask first(int n) {
  if constexpr (V::W == 8)
    return {(decltype(V::mask::m))_mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))};
  else return {(decltype(V::mask::m))_mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))};
}
KI bool any(Mask<float> a) { return _mm256_movemask_ps((__m256)a.m) != 0; }
KI bool any(Mask<double> a) { return _mm256_movemask_pd((__m256d)a.m) != 0; }
KI bool all(Mask<float> a) { return _mm256_movemask_ps((__m256)a.m) == 0xff; }
KI bool all(Mask<double> a) { return _mm256_movemask_pd((__m256d)a.m) == 0xf; }
KI vf select(Mask<float> m, vf a, vf b) { return _mm256_blendv_ps(b.v, a.v, (__m256)m.m); }
KI vd select(Mask<double> m, vd a, vd b) { return _mm256_blendv_pd(b.v, a.v, (__m256d)m.m); }

// 16-bit storage <-> float registers
KI __m256 widen(bfloat16, __m128i u) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(u), 16)); }
KI __m256 widen(float16, __m128i u) { return _mm256_cvtph_ps(u); }
KI __m128i narrow(bfloat16, __m256 v) {
  const __m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  // a NaN must stay one: rounding could carry its mantissa into the exponent
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i kept = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, kept, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}
KI __m128i narrow(float16, __m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

template <class V, class T>
KI V load(const T* p) {
  if constexpr (std::is_same_v<V, vf>) {
    if constexpr (std::is_same_v<T, float>) return _mm256_loadu_ps(p);
    else if constexpr (std::is_same_v<T, double>)
      return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(p)));
    else return widen(T(), _mm_loadu_si128((const __m128i*)p));
  } else {
    if constexpr (std::is_same_v<T, double>) return _mm256_loadu_pd(p);
    else if constexpr (std::is_same_v<T, float>) return _mm256_cvtps_pd(_mm_loadu_ps(p));
    else return _mm256_cvtps_pd(_mm256_castps256_ps128(widen(T(), _mm_loadl_epi64((const __m128i*)p))));
  }
}
template <class V, class T>
KI V load(const T* p, int n) {
  if constexpr (std::is_same_v<V, vf> && std::is_same_v<T, float>) return _mm256_maskload_ps(p, (__m256i)first<V>(n).m);
  else if constexpr (std::is_same_v<V, vd> && std::is_same_v<T, double>)
    return _mm256_maskload_pd(p, (__m256i)first<V>(n).m);
  else {
    T buffer[V::W] = {};
    for (int i = 0; i < V::W && i < n; i++) buffer[i] = p[i];
    return load<V>(buffer);
  }
}
template <class T>
KI void store(T* p, vf a) {
  if constexpr (std::is_same_v<T, float>) _mm256_storeu_ps(p, a.v);
  else if constexpr (std::is_same_v<T, double>) {
    _mm256_storeu_pd(p, _mm256_cvtps_pd(_mm256_castps256_ps128(a.v)));
    _mm256_storeu_pd(p + 4, _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1)));
  } else _mm_storeu_si128((__m128i*)p, narrow(T(), a.v));
}
template <class T>
KI void store(T* p, vd a) {
  if constexpr (std::is_same_v<T, double>) _mm256_storeu_pd(p, a.v);
  else if constexpr (std::is_same_v<T, float>) _mm_storeu_ps(p, _mm256_cvtpd_ps(a.v));
  else _mm_storel_epi64((__m128i*)p, narrow(T(), _mm256_castps128_ps256(_mm256_cvtpd_ps(a.v))));
}
template <class T, class F>
KI void store(T* p, Lanes<F> a, int n) {
  if constexpr (std::is_same_v<F, float> && std::is_same_v<T, float>)
    _mm256_maskstore_ps(p, (__m256i)first<vf>(n).m, a.v);
  else if constexpr (std::is_same_v<F, double> && std::is_same_v<T, double>)
    _mm256_maskstore_pd(p, (__m256i)first<vd>(n).m, a.v);
  else {
    T buffer[Lanes<F>::W];
    store(buffer, a);
    for (int i = 0; i < Lanes<F>::W && i < n; i++) p[i] = buffer[i];
  }
}

KI vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
KI vd fma(vd a, vd b, vd c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
KI vf fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a.v, b.v, c.v); }
KI vd fnma(vd a, vd b, vd c) { return _mm256_fnmadd_pd(a.v, b.v, c.v); }
KI vf min(vf a, vf b) { return _mm256_min_ps(a.v, b.v); }
KI vd min(vd a, vd b) { return _mm256_min_pd(a.v, b.v); }
KI vf max(vf a, vf b) { return _mm256_max_ps(a.v, b.v); }
KI vd max(vd a, vd b) { return _mm256_max_pd(a.v, b.v); }
KI vf abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.f), a.v); }
KI vd abs(vd a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.), a.v); }
KI vf sqrt(vf a) { return _mm256_sqrt_ps(a.v); }
KI vd sqrt(vd a) { return _mm256_sqrt_pd(a.v); }
KI vf copysign(vf a, vf s) { return _mm256_or_ps(abs(a).v, _mm256_and_ps(s.v, _mm256_set1_ps(-0.f))); }
KI vd copysign(vd a, vd s) { return _mm256_or_pd(abs(a).v, _mm256_and_pd(s.v, _mm256_set1_pd(-0.))); }
KI vf round(vf a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KI vd round(vd a) { return _mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KI vf floor(vf a) { return _mm256_floor_ps(a.v); }
KI vd floor(vd a) { return _mm256_floor_pd(a.v); }
KI vf ceil(vf a) { return _mm256_ceil_ps(a.v); }
KI vd ceil(vd a) { return _mm256_ceil_pd(a.v); }
KI vf trunc(vf a) { return _mm256_round_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
KI vd trunc(vd a) { return _mm256_round_pd(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
// In two factors, so that results down to the subnormals and up to infinity come out right; |n| beyond 250 saturates.
KI vf scale(vf a, vf n) {
  const __m256i k = _mm256_cvtps_epi32(min(vf(250), max(vf(-250), n)).v), h = _mm256_srai_epi32(k, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i s1 = _mm256_slli_epi32(_mm256_add_epi32(h, bias), 23);
  const __m256i s2 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, h), bias), 23);
  return a * vf(_mm256_castsi256_ps(s1)) * vf(_mm256_castsi256_ps(s2));
}
KI vd scale(vd a, vd n) {
  const __m128i k = _mm256_cvtpd_epi32(min(vd(2000), max(vd(-2000), n)).v), h = _mm_srai_epi32(k, 1);
  const __m256i bias = _mm256_set1_epi64x(1023);
  const __m256i s1 = _mm256_slli_epi64(_mm256_add_epi64(_mm256_cvtepi32_epi64(h), bias), 52);
  const __m256i s2 = _mm256_slli_epi64(_mm256_add_epi64(_mm256_cvtepi32_epi64(_mm_sub_epi32(k, h)), bias), 52);
  return a * vd(_mm256_castsi256_pd(s1)) * vd(_mm256_castsi256_pd(s2));
}
// a = m 2^e with 1 <= m < 2, for finite a > 0
KI vf mantissa(vf a, vf& e) {
  const Mask<float> tiny = a < vf(1.17549435e-38f);
  a = select(tiny, a * vf(16777216.f), a);
  const __m256i u = _mm256_castps_si256(a.v);
  e = vf(_mm256_cvtepi32_ps(_mm256_srli_epi32(u, 23))) - select(tiny, vf(151), vf(127));
  return _mm256_castsi256_ps(
      _mm256_or_si256(_mm256_and_si256(u, _mm256_set1_epi32(0x7fffff)), _mm256_set1_epi32(0x3f800000)));
}
KI vf fast_rcp(vf a) { return vf(1) / a; }
KI float reduce_add(vf a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
KI double reduce_add(vd a) {
  const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
}
KI float reduce_max(vf a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
KI double reduce_max(vd a) {
  const __m128d x = _mm_max_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
  return _mm_cvtsd_f64(_mm_max_sd(x, _mm_unpackhi_pd(x, x)));
}
KI float reduce_min(vf a) { return -reduce_max(-a); }
KI double reduce_min(vd a) { return -reduce_max(-a); }

// ---- for matmul and attention
static constexpr int kTileRows = 6;  // of the micro-kernel, with two registers of columns: 12 accumulators of 16
template <class T>
inline constexpr bool kPaired = false;  // bf16 is widened while packing
template <bool kPairs, class V>
KI V dot(V a, V b, V c) {
  return fma(a, b, c);
}

// r is a square block: rows become columns
KI void transpose(vf (&r)[8]) {
  vf t[8];
  SG_UNROLL(4)
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm256_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  SG_UNROLL(2)
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i].v, t[i + 2].v, 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i].v, t[i + 2].v, 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1].v, t[i + 3].v, 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1].v, t[i + 3].v, 0xee);
  }
  SG_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    const vf a = r[i], b = r[i + 4];
    r[i] = _mm256_permute2f128_ps(a.v, b.v, 0x20);
    r[i + 4] = _mm256_permute2f128_ps(a.v, b.v, 0x31);
  }
}
KI void transpose(vd (&r)[4]) { transpose_by_lanes(r); }
