// The one list of element types. JavaScript reads it from the addon; the order fixes the codes that cross the boundary.
#pragma once
#include <cstddef>
#include <cstdint>

#include "error.h"
#include "half.h"

namespace sg {

// X(name in the API, C++ type)
#define SG_DTYPES(X)              \
  X(float32, float)               \
  X(float64, double)              \
  X(float16, sg::float16)         \
  X(bfloat16, sg::bfloat16)       \
  X(int64, int64_t)               \
  X(int32, int32_t)               \
  X(uint8, uint8_t)               \
  X(bool_, bool)                  \
  X(int8, int8_t)                 \
  X(int16, int16_t)               \
  X(uint16, uint16_t)             \
  X(uint32, uint32_t)             \
  X(float8_e4m3, sg::float8_e4m3) \
  X(float8_e5m2, sg::float8_e5m2)

#define SG_ROW(name, type) k_##name,
enum class DType : uint8_t { SG_DTYPES(SG_ROW) kCount };
#undef SG_ROW

inline constexpr int kDTypes = int(DType::kCount);

inline const char* dtype_name(DType t) {
#define SG_ROW(name, type) #name,
  static const char* const names[] = {SG_DTYPES(SG_ROW)};
#undef SG_ROW
  return t == DType::k_bool_ ? "bool" : names[int(t)];
}

inline size_t dtype_size(DType t) {
#define SG_ROW(name, type) sizeof(type),
  static const size_t sizes[] = {SG_DTYPES(SG_ROW)};
#undef SG_ROW
  return sizes[int(t)];
}

constexpr bool is_float16_kind(DType t) { return t == DType::k_float16 || t == DType::k_bfloat16; }
constexpr bool is_floating(DType t) {
  return t <= DType::k_bfloat16 || t == DType::k_float8_e4m3 || t == DType::k_float8_e5m2;
}
// The dtype that kernels compute in, which holds every value of a dtype: float64, float32 or int64.
inline DType lane_dtype(DType t) {
  return t == DType::k_float64 ? t : is_floating(t) ? DType::k_float32 : DType::k_int64;
}

template <class T>
struct DTypeOf;
#define SG_ROW(name, type)                          \
  template <>                                       \
  struct DTypeOf<type> {                            \
    static constexpr DType value = DType::k_##name; \
  };
SG_DTYPES(SG_ROW)
#undef SG_ROW

template <class T>
struct TypeTag {
  using type = T;
};

// The only switches over dtypes. `f` is a generic lambda that takes a TypeTag: f(TypeTag<float>{}).
template <class F>
inline void dispatch_all(DType t, F&& f) {
  switch (t) {
#define SG_ROW(name, type) \
  case DType::k_##name: f(TypeTag<type>{}); return;
    SG_DTYPES(SG_ROW)
#undef SG_ROW
    case DType::kCount: break;
  }
  fail(ErrorCode::Internal, "unknown dtype code ", int(t));
}

// For kernels that only move elements: an unsigned integer of the type's size.
template <class F>
inline void dispatch_bytes(DType t, F&& f) {
  switch (dtype_size(t)) {
    case 1: f(TypeTag<uint8_t>{}); return;
    case 2: f(TypeTag<uint16_t>{}); return;
    case 4: f(TypeTag<uint32_t>{}); return;
    default: f(TypeTag<uint64_t>{}); return;
  }
}

// float32, float64, float16, bfloat16: the types kernels compute on.
template <class F>
inline void dispatch_float(const char* op, DType t, F&& f) {
  switch (t) {
    case DType::k_float32: f(TypeTag<float>{}); return;
    case DType::k_float64: f(TypeTag<double>{}); return;
    case DType::k_float16: f(TypeTag<sg::float16>{}); return;
    case DType::k_bfloat16: f(TypeTag<sg::bfloat16>{}); return;
    default: fail(ErrorCode::DType, op, ": expects float32, float64, float16 or bfloat16, got ", dtype_name(t));
  }
}

// Indices: int32 or int64.
template <class F>
inline void dispatch_index(const char* op, DType t, F&& f) {
  if (t == DType::k_int64) f(TypeTag<int64_t>{});
  else if (t == DType::k_int32) f(TypeTag<int32_t>{});
  else fail(ErrorCode::DType, op, ": indices must be int32 or int64, got ", dtype_name(t));
}

// What a type is accumulated in: double for double, int64 for integers, otherwise float.
template <class T>
struct Accumulate {
  using type = int64_t;
};
template <>
struct Accumulate<float> {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <>
struct Accumulate<sg::float16> {
  using type = float;
};
template <>
struct Accumulate<sg::bfloat16> {
  using type = float;
};
template <>
struct Accumulate<sg::float8_e4m3> {
  using type = float;
};
template <>
struct Accumulate<sg::float8_e5m2> {
  using type = float;
};
template <class T>
using accumulate_t = typename Accumulate<T>::type;

}  // namespace sg
