// Every conversion of one number to another type, none of them undefined. A float to an integer type truncates towards
// zero and keeps the low bits, as JavaScript's typed arrays do; beyond int64 it saturates, and NaN gives 0. To bool:
// not zero (NaN is true).
#pragma once
#include <limits>
#include <type_traits>

#include "dtype.h"

namespace sg {

template <class To, class From>
SG_HOST_DEVICE inline To cast(From v) {
  if constexpr (std::is_same_v<To, From>) return v;
  else if constexpr (!std::is_arithmetic_v<From>) return cast<To>(float(v));
  else if constexpr (!std::is_arithmetic_v<To>) return To(float(v));
  else if constexpr (std::is_same_v<To, bool>) return v != From(0);
  else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    if (v != v) return 0;
    if (v >= From(0x1p63)) return To(std::numeric_limits<int64_t>::max());
    return To(int64_t(v < From(-0x1p63) ? From(-0x1p63) : v));
  } else return To(v);
}

}  // namespace sg
