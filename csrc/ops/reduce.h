// The table of reductions: X(domain, name, term, fold, identity, result). `term` is what lane a contributes, `fold`
// joins two partial values a and b, `identity` starts a fold, and `result` makes the answer of the folded number a over
// n elements. argmax and argmin, which carry an index, follow the table. JavaScript reads the names from the addon; the
// order fixes the codes that cross the boundary.
#pragma once
#include "pointwise.h"

namespace sg {

// clang-format off
#define SG_REDUCE(X)                                                                                  \
  X(kAny,   sum,          a,                    a + b,         0,         a)                          \
  X(kFloat, mean,         a,                    a + b,         0,         a / n)                      \
  X(kAny,   prod,         a,                    a * b,         1,         a)                          \
  X(kAny,   max,          a,                    maximum(a, b), -INFINITY, a)  /* NaN propagates */    \
  X(kAny,   min,          a,                    minimum(a, b), INFINITY,  a)                          \
  X(kAny,   any,          flag<L>(a != L(0)),   maximum(a, b), 0,         a)                          \
  X(kAny,   all,          flag<L>(a != L(0)),   minimum(a, b), 1,         a)                          \
  X(kFloat, norm1,        abs(a),               a + b,         0,         a)                          \
  X(kFloat, norm2,        a * a,                a + b,         0,         std::sqrt(a))               \
  X(kAny,   sumSquares,   a * a,                a + b,         0,         a)                          \
  X(kAny,   countNonzero, flag<L>(a != L(0)),   a + b,         0,         a)
// clang-format on

#define SG_ROW(domain, name, ...) k_##name,
enum class ReduceOp : int { SG_REDUCE(SG_ROW) k_argmax, k_argmin, kCount };
#undef SG_ROW

struct ReduceRow {
  const char* name;
  Domain domain;
  double identity;  // infinite: no elements have no result
};

// Indexed by the op's code.
#define SG_ROW(domain, name, term, fold, identity, result) {#name, Domain::domain, identity},
inline constexpr ReduceRow kReduceOps[] = {SG_REDUCE(SG_ROW){"argmax", Domain::kAny, INFINITY},
                                           {"argmin", Domain::kAny, INFINITY}};
#undef SG_ROW

inline void check_reduce(ReduceOp op, DType dtype) {
  const ReduceRow& row = kReduceOps[int(op)];
  if (row.domain != Domain::kFloat || is_floating(dtype)) return;
  fail(ErrorCode::DType, row.name, ": expects floats, got ", dtype_name(dtype));
}
// The reduction of no elements, where there is such a thing.
inline double reduce_nothing(ReduceOp op) {
  const ReduceRow& row = kReduceOps[int(op)];
  if (std::isinf(row.identity)) fail(ErrorCode::Value, row.name, ": no elements to reduce");
  return op == ReduceOp::k_mean ? NAN : row.identity;
}

}  // namespace sg
