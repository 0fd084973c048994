// The one table of reductions: X(domain, name). JavaScript reads it from the addon; the order fixes the codes that
// cross the boundary. Sums are kept in float32 for 16-bit floats and float32, float64 for float64, int64 for integers
// and bool. max and min propagate NaN; argmax and argmin give the first occurrence (a NaN wins) as an int64 index into
// the reduced dimensions, counted in row-major order.
#pragma once
#include "pointwise.h"

namespace sg {

// clang-format off
#define SG_REDUCE(X)       \
  X(kAny,   sum)           \
  X(kFloat, mean)          \
  X(kAny,   prod)          \
  X(kAny,   max)           \
  X(kAny,   min)           \
  X(kAny,   any)           \
  X(kAny,   all)           \
  X(kAny,   argmax)        \
  X(kAny,   argmin)        \
  X(kFloat, norm1)         \
  X(kFloat, norm2)         \
  X(kAny,   sumSquares)    \
  X(kAny,   countNonzero)
// clang-format on

#define SG_ROW(domain, name) k_##name,
enum class ReduceOp : int { SG_REDUCE(SG_ROW) kCount };
#undef SG_ROW

struct ReduceRow {
  const char* name;
  Domain domain;
};

// Indexed by the op's code.
#define SG_ROW(domain, name) {#name, Domain::domain},
inline constexpr ReduceRow kReduceOps[] = {SG_REDUCE(SG_ROW)};
#undef SG_ROW

}  // namespace sg
