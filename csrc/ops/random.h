// Random numbers of every backend: what is made of Philox's words, and what follows from an op's arguments. float32,
// and the types below it, take one word an element; float64 and integers take two, which gives them their own sequence.
#pragma once
#include <limits>

#include "../core/cast.h"
#include "../core/error.h"
#include "../core/philox.h"

namespace sg {

SG_HOST_DEVICE inline uint64_t word_pair(const uint32_t* w) { return uint64_t(w[1]) << 32 | w[0]; }

// [0, 1): 24 bits of one word, or 53 bits of two.
template <class T>
SG_HOST_DEVICE inline T unit(const uint32_t* w) {
  if constexpr (sizeof(T) == 4) return T(int32_t(w[0] >> 8)) * T(0x1p-24);
  else return T(int64_t(word_pair(w) >> 11)) * T(0x1p-53);
}
// (0, 1] with all bits of the words: the tail of the normal distribution reaches 6.6 (8.6 in float64) deviations.
template <class T>
SG_HOST_DEVICE inline T positive_unit(const uint32_t* w) {
  if constexpr (sizeof(T) == 4) return (T(w[0]) + 1) * T(0x1p-32);
  else return (T(word_pair(w) >> 11) + 1) * T(0x1p-53);
}

inline PhiloxKey philox_key(double seed0, double seed1, double stream0, double stream1) {
  return {{cast<uint32_t>(seed0), cast<uint32_t>(seed1)}, {cast<uint32_t>(stream0), cast<uint32_t>(stream1)}};
}

// low + width * unit, at most top.
template <class T>
struct UniformRange {
  T low, width, top;

  // `top` is the largest number that does not become `high` when it is rounded to the dtype.
  UniformRange(double from, double to, DType dtype) : low(T(from)), width(T(to - from)), top(T(to)) {
    T step = std::numeric_limits<T>::epsilon() * std::abs(top) / 4 + std::numeric_limits<T>::min();
    dispatch_all(dtype, [&](auto tag) {
      using To = typename decltype(tag)::type;
      const bool rounds = is_floating(dtype) && std::isfinite(top);
      for (; rounds && cast<T>(cast<To>(top)) >= T(to); step *= 2) top = T(to) - step;
    });
    if (!(top > low)) top = low;
  }
};

// Whole numbers from `low`, `width` of them.
struct IntegerRange {
  int64_t low;
  uint64_t width;

  IntegerRange(double from, double to) {
    if (!(to > from)) fail(ErrorCode::Value, "randint: high must be above low, got low ", from, " and high ", to);
    low = cast<int64_t>(from);
    width = uint64_t(cast<int64_t>(to) - low);
  }
};

// Elements whose word reaches the threshold are kept, and scaled.
struct Dropout {
  uint32_t threshold;
  double scale;
  explicit Dropout(double p) : threshold(uint32_t(p * 0x1p32)), scale(1 / (1 - p)) {}
};

}  // namespace sg
