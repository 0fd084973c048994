// The order of sort and topk as numbers: every dtype is mapped to an unsigned key of its own size whose order is the
// order wanted (NaN above all, -0 equal to 0, reversed by inverting the bits). So four instances serve all dtypes, a
// radix sort needs no comparisons, and "descending" stays stable.
#pragma once
#include "../core/dtype.h"

namespace sg {

template <class U>
struct KeyMap {
  static constexpr U kSign = U(U(1) << (8 * sizeof(U) - 1));
  bool floating;
  U infinity;  // the bits above which a magnitude is NaN
  U flip;      // an integer's sign bit
  U invert;    // all ones for descending order

  KeyMap(DType t, bool descending) : floating(is_floating(t)), infinity(0), flip(0), invert(descending ? U(~U(0)) : 0) {
    switch (t) {
      case DType::k_float32: infinity = U(0x7f800000u); break;
      case DType::k_float64: infinity = U(0x7ff0000000000000u); break;
      case DType::k_float16: infinity = U(0x7c00u); break;
      case DType::k_bfloat16: infinity = U(0x7f80u); break;
      case DType::k_float8_e5m2: infinity = U(0x7cu); break;
      case DType::k_float8_e4m3: infinity = U(0x7eu); break;  // its largest number: it has no infinity
      case DType::k_int64:
      case DType::k_int32:
      case DType::k_int16:
      case DType::k_int8: flip = kSign; break;
      default: break;
    }
  }

  SG_HOST_DEVICE U operator()(U bits) const {
    if (!floating) return U(bits ^ flip ^ invert);
    const U magnitude = U(bits & U(~kSign));
    const U key = magnitude > infinity ? U(~U(0)) : magnitude == 0 ? kSign : bits & kSign ? U(~bits) : U(bits | kSign);
    return U(key ^ invert);
  }
};

}  // namespace sg
