// AVX-512: 16 floats, 8 doubles. The lane API is described in for_each_isa.h.
// Conversions to bf16 use vcvtneps2bf16, which flushes subnormal inputs to zero.

template <class T>
struct LaneRaw;
template <>
struct LaneRaw<float> {
  using type = __m512;
  using mask = __mmask16;
};
template <>
struct LaneRaw<double> {
  using type = __m512d;
  using mask = __mmask8;
};

KI __m512 broadcast(float a) { return _mm512_set1_ps(a); }
KI __m512d broadcast(double a) { return _mm512_set1_pd(a); }
KI __mmask16 cmp_lt(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
KI __mmask16 cmp_le(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
KI __mmask16 cmp_eq(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
KI __mmask16 cmp_ne(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
KI __mmask8 cmp_lt(__m512d a, __m512d b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
KI __mmask8 cmp_le(__m512d a, __m512d b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
KI __mmask8 cmp_eq(__m512d a, __m512d b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
KI __mmask8 cmp_ne(__m512d a, __m512d b) { return _mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ); }

#include "lanes.h"

template <class V>
KI typename V::mask first(int n) {
  const unsigned all = (1u << V::W) - 1;
  return {(decltype(V::mask::m))(n >= V::W ? all : n <= 0 ? 0u : (1u << n) - 1)};
}
KI bool any(Mask<float> a) { return a.m != 0; }
KI bool any(Mask<double> a) { return a.m != 0; }
KI bool all(Mask<float> a) { return a.m == 0xffff; }
KI bool all(Mask<double> a) { return a.m == 0xff; }
KI vf select(Mask<float> m, vf a, vf b) { return _mm512_mask_mov_ps(b.v, m.m, a.v); }
KI vd select(Mask<double> m, vd a, vd b) { return _mm512_mask_mov_pd(b.v, m.m, a.v); }

// 16-bit storage <-> float registers
KI __m512 widen(bfloat16, __m256i u) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(u), 16)); }
KI __m512 widen(float16, __m256i u) { return _mm512_cvtph_ps(u); }
KI __m256 widen(bfloat16, __m128i u) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(u), 16)); }
KI __m256 widen(float16, __m128i u) { return _mm256_cvtph_ps(u); }
KI __m256i narrow(bfloat16, __m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }
KI __m256i narrow(float16, __m512 v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
KI __m128i narrow(bfloat16, __m256 v) { return (__m128i)_mm256_cvtneps_pbh(v); }
KI __m128i narrow(float16, __m256 v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }

template <class V, class T>
KI V load(const T* p) {
  if constexpr (std::is_same_v<V, vf>) {
    if constexpr (std::is_same_v<T, float>) return _mm512_loadu_ps(p);
    else if constexpr (std::is_same_v<T, double>)
      return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(p))),
                                _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8)), 1);
    else return widen(T(), _mm256_loadu_si256((const __m256i*)p));
  } else {
    if constexpr (std::is_same_v<T, double>) return _mm512_loadu_pd(p);
    else if constexpr (std::is_same_v<T, float>) return _mm512_cvtps_pd(_mm256_loadu_ps(p));
    else return _mm512_cvtps_pd(widen(T(), _mm_loadu_si128((const __m128i*)p)));
  }
}
template <class V, class T>
KI V load(const T* p, int n) {
  const auto m = first<V>(n).m;
  if constexpr (std::is_same_v<V, vf>) {
    if constexpr (std::is_same_v<T, float>) return _mm512_maskz_loadu_ps(m, p);
    else if constexpr (std::is_same_v<T, double>)
      return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_maskz_loadu_pd(__mmask8(m), p))),
                                _mm512_cvtpd_ps(_mm512_maskz_loadu_pd(__mmask8(m >> 8), p + 8)), 1);
    else return widen(T(), _mm256_maskz_loadu_epi16(m, p));
  } else {
    if constexpr (std::is_same_v<T, double>) return _mm512_maskz_loadu_pd(m, p);
    else if constexpr (std::is_same_v<T, float>) return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(m, p));
    else return _mm512_cvtps_pd(widen(T(), _mm_maskz_loadu_epi16(m, p)));
  }
}
template <class T>
KI void store(T* p, vf a) {
  if constexpr (std::is_same_v<T, float>) _mm512_storeu_ps(p, a.v);
  else if constexpr (std::is_same_v<T, double>) {
    _mm512_storeu_pd(p, _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)));
    _mm512_storeu_pd(p + 8, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)));
  } else _mm256_storeu_si256((__m256i*)p, narrow(T(), a.v));
}
template <class T>
KI void store(T* p, vd a) {
  if constexpr (std::is_same_v<T, double>) _mm512_storeu_pd(p, a.v);
  else if constexpr (std::is_same_v<T, float>) _mm256_storeu_ps(p, _mm512_cvtpd_ps(a.v));
  else _mm_storeu_si128((__m128i*)p, narrow(T(), _mm512_cvtpd_ps(a.v)));
}
template <class T>
KI void store(T* p, vf a, int n) {
  const __mmask16 m = first<vf>(n).m;
  if constexpr (std::is_same_v<T, float>) _mm512_mask_storeu_ps(p, m, a.v);
  else if constexpr (std::is_same_v<T, double>) {
    _mm512_mask_storeu_pd(p, __mmask8(m), _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)));
    _mm512_mask_storeu_pd(p + 8, __mmask8(m >> 8), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)));
  } else _mm256_mask_storeu_epi16(p, m, narrow(T(), a.v));
}
template <class T>
KI void store(T* p, vd a, int n) {
  const __mmask8 m = first<vd>(n).m;
  if constexpr (std::is_same_v<T, double>) _mm512_mask_storeu_pd(p, m, a.v);
  else if constexpr (std::is_same_v<T, float>) _mm256_mask_storeu_ps(p, m, _mm512_cvtpd_ps(a.v));
  else _mm_mask_storeu_epi16(p, m, narrow(T(), _mm512_cvtpd_ps(a.v)));
}

KI vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
KI vd fma(vd a, vd b, vd c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
KI vf fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a.v, b.v, c.v); }
KI vd fnma(vd a, vd b, vd c) { return _mm512_fnmadd_pd(a.v, b.v, c.v); }
KI vf min(vf a, vf b) { return _mm512_min_ps(a.v, b.v); }
KI vd min(vd a, vd b) { return _mm512_min_pd(a.v, b.v); }
KI vf max(vf a, vf b) { return _mm512_max_ps(a.v, b.v); }
KI vd max(vd a, vd b) { return _mm512_max_pd(a.v, b.v); }
KI vf abs(vf a) { return _mm512_abs_ps(a.v); }
KI vd abs(vd a) { return _mm512_abs_pd(a.v); }
KI vf sqrt(vf a) { return _mm512_sqrt_ps(a.v); }
KI vd sqrt(vd a) { return _mm512_sqrt_pd(a.v); }
KI vf copysign(vf a, vf s) { return _mm512_or_ps(_mm512_abs_ps(a.v), _mm512_and_ps(s.v, _mm512_set1_ps(-0.f))); }
KI vd copysign(vd a, vd s) { return _mm512_or_pd(_mm512_abs_pd(a.v), _mm512_and_pd(s.v, _mm512_set1_pd(-0.))); }
KI vf round(vf a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KI vd round(vd a) { return _mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KI vf floor(vf a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
KI vd floor(vd a) { return _mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
KI vf ceil(vf a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
KI vd ceil(vd a) { return _mm512_roundscale_pd(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
KI vf trunc(vf a) { return _mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
KI vd trunc(vd a) { return _mm512_roundscale_pd(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
KI vf scale(vf a, vf n) { return _mm512_scalef_ps(a.v, n.v); }
KI vd scale(vd a, vd n) { return _mm512_scalef_pd(a.v, n.v); }
// a = m 2^e with 1 <= m < 2, for finite a > 0
KI vf mantissa(vf a, vf& e) {
  e = _mm512_getexp_ps(a.v);
  return _mm512_getmant_ps(a.v, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
}
KI vf fast_rcp(vf a) {
  const vf r = _mm512_rcp14_ps(a.v);
  return r * fnma(a, r, vf(2));
}
KI float reduce_add(vf a) { return _mm512_reduce_add_ps(a.v); }
KI double reduce_add(vd a) { return _mm512_reduce_add_pd(a.v); }
KI float reduce_max(vf a) { return _mm512_reduce_max_ps(a.v); }
KI double reduce_max(vd a) { return _mm512_reduce_max_pd(a.v); }
KI float reduce_min(vf a) { return _mm512_reduce_min_ps(a.v); }
KI double reduce_min(vd a) { return _mm512_reduce_min_pd(a.v); }

// ---- for matmul and attention
static constexpr int kTileRows = 12;  // of the micro-kernel, with two registers of columns: 24 accumulators of 32
template <class T>
inline constexpr bool kPaired = false;
template <>  // two bf16 neighbours along K make one 32-bit unit
inline constexpr bool kPaired<bfloat16> = true;

// c + a b, for pairs c + a.low b.low + a.high b.high
template <bool kPairs, class V>
KI V dot(V a, V b, V c) {
  if constexpr (kPairs) return vf(_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v));
  else return fma(a, b, c);
}
// 32 neighbours as 16 pairs, the first n valid
KI vf load_pairs(const bfloat16* p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
KI vf load_pairs(const bfloat16* p, int n) {
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(n >= 32 ? ~0u : n <= 0 ? 0u : (1u << n) - 1, p));
}
KI vf zip_bits(__m256i low, __m256i high) {
  return _mm512_castsi512_ps(
      _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16)));
}
// two rows of bf16, or of floats to be rounded, into one row of pairs
KI vf zip(const bfloat16* low, const bfloat16* high) {
  return zip_bits(_mm256_loadu_si256((const __m256i*)low), _mm256_loadu_si256((const __m256i*)high));
}
KI vf zip(const bfloat16* low, const bfloat16* high, int n) {
  const __mmask16 m = first<vf>(n).m;
  return zip_bits(_mm256_maskz_loadu_epi16(m, low), high ? _mm256_maskz_loadu_epi16(m, high) : _mm256_setzero_si256());
}
KI vf zip(vf low, vf high) { return zip_bits(narrow(bfloat16(), low.v), narrow(bfloat16(), high.v)); }
KI vf pair_low(vf a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 16)); }
KI vf pair_high(vf a) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0xffff0000)));
}

// r is a square block: rows become columns
KI void transpose(vf (&r)[16]) {
  vf t[16];
  SG_UNROLL(8)
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  SG_UNROLL(8)
  for (int i = 0; i < 8; i++) {
    const int at = i / 2 * 4 + i % 2;  // pairs of rows (at, at + 2) of t
    const __m512d low = _mm512_castps_pd(t[at].v), high = _mm512_castps_pd(t[at + 2].v);
    r[i / 2 * 4 + i % 2 * 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
    r[i / 2 * 4 + i % 2 * 2 + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
  }
  SG_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_f32x4(r[i].v, r[i + 4].v, 0x88);
    t[i + 4] = _mm512_shuffle_f32x4(r[i].v, r[i + 4].v, 0xdd);
    t[i + 8] = _mm512_shuffle_f32x4(r[i + 8].v, r[i + 12].v, 0x88);
    t[i + 12] = _mm512_shuffle_f32x4(r[i + 8].v, r[i + 12].v, 0xdd);
  }
  SG_UNROLL(4)
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_f32x4(t[i].v, t[i + 8].v, 0x88);
    r[i + 8] = _mm512_shuffle_f32x4(t[i].v, t[i + 8].v, 0xdd);
    r[i + 4] = _mm512_shuffle_f32x4(t[i + 4].v, t[i + 12].v, 0x88);
    r[i + 12] = _mm512_shuffle_f32x4(t[i + 4].v, t[i + 12].v, 0xdd);
  }
}
KI void transpose(vd (&r)[8]) { transpose_by_lanes(r); }
