// 16-bit and 8-bit float storage types. Arithmetic never happens in them: kernels load to float, compute, and store
// with one round-to-nearest-even. The bit tricks are plain integer code, so that host, device and emulation agree.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace sg {

SG_HOST_DEVICE inline uint32_t bits_of(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}
SG_HOST_DEVICE inline float float_of(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

struct bfloat16 {
  uint16_t bits;
  bfloat16() = default;
  SG_HOST_DEVICE explicit bfloat16(float f) {
#ifdef __CUDA_ARCH__  // one instruction there; NaNs lose their payload
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(f));
#else
    const uint32_t u = bits_of(f);
    // A NaN must stay one: rounding could carry its mantissa into the exponent.
    bits = (u & 0x7fffffff) > 0x7f800000 ? uint16_t(u >> 16 | 0x40) : uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
#endif
  }
  SG_HOST_DEVICE explicit operator float() const { return float_of(uint32_t(bits) << 16); }
};

struct float16 {
  uint16_t bits;
  float16() = default;
  SG_HOST_DEVICE explicit float16(float f) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(f));
#else
    const uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, abs = u & 0x7fffffff;
    if (abs > 0x7f800000) bits = uint16_t(sign | 0x7e00);        // NaN
    else if (abs >= 0x477ff000) bits = uint16_t(sign | 0x7c00);  // rounds to infinity
    else if (abs < 0x38800000) {                                 // subnormal or zero: let the FPU round
      const float magic = float_of(0x3f000000);
      bits = uint16_t(sign | (bits_of(float_of(abs) + magic) - 0x3f000000));
    } else bits = uint16_t(sign | ((abs - 0x38000000 + 0xfff + (abs >> 13 & 1)) >> 13));
#endif
  }
  SG_HOST_DEVICE explicit operator float() const {
#ifdef __CUDA_ARCH__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits));
    return f;
#else
    const uint32_t sign = uint32_t(bits & 0x8000) << 16, exp = bits >> 10 & 31, man = bits & 0x3ff;
    if (exp == 31) return float_of(sign | 0x7f800000 | man << 13);
    if (exp == 0) return float_of(sign | bits_of(float(man) * 5.9604644775390625e-8f));  // 2^-24 a step
    return float_of(sign | (exp + 112) << 23 | man << 13);
#endif
  }
};

// The 8-bit formats of the OCP specification (E4M3 without infinity, E5M2 with), for storage and casts only.
template <int kExp, int kMan, int kBias, bool kInf>
struct float8 {
  uint8_t bits;
  float8() = default;
  SG_HOST_DEVICE explicit float8(float f) {
    const uint8_t sign = std::signbit(f) ? 0x80 : 0;
    const uint8_t nan = kInf ? 0x7e : 0x7f, top = kInf ? 0x7b : 0x7e;
    const float a = std::fabs(f);
    if (std::isnan(f)) {
      bits = sign | nan;
      return;
    }
    int e;
    std::frexp(a, &e);                     // a in [2^(e-1), 2^e)
    if (e - 1 < 1 - kBias) e = 2 - kBias;  // subnormals share the smallest exponent
    const float step = std::ldexp(1.f, e - 1 - kMan);
    const float rounded = std::nearbyint(a / step) * step;
    const float largest = value(top);
    if (std::isinf(a) || rounded > largest) {
      bits = sign | (kInf ? 0x7c : nan);
      return;
    }
    if (rounded == 0) {
      bits = sign;
      return;
    }
    int re;
    std::frexp(rounded, &re);
    const int biased = re - 1 + kBias;
    bits = biased < 1
               ? uint8_t(sign | int(rounded / std::ldexp(1.f, 1 - kBias - kMan)))
               : uint8_t(sign | biased << kMan | (int(rounded / std::ldexp(1.f, re - 1 - kMan)) & ((1 << kMan) - 1)));
  }
  SG_HOST_DEVICE explicit operator float() const { return bits & 0x80 ? -value(bits & 0x7f) : value(bits); }

 private:
  SG_HOST_DEVICE static float value(uint8_t b) {
    const int exp = b >> kMan, man = b & ((1 << kMan) - 1);
    if (kInf && exp == (1 << kExp) - 1) return man ? NAN : INFINITY;
    if (!kInf && b == 0x7f) return NAN;
    return exp ? std::ldexp(float((1 << kMan) + man), exp - kBias - kMan) : std::ldexp(float(man), 1 - kBias - kMan);
  }
};
using float8_e4m3 = float8<4, 3, 7, false>;
using float8_e5m2 = float8<5, 2, 15, true>;

}  // namespace sg
