// cumsum and cumprod along the last dimension. A row is summed by one thread from its start, in float64 for all float
// kinds (the cost is the same, a long row stays exact to its own rounding) and in int64 for integers, which wrap
// around.
#include "cpu_device.h"
#include "rows.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

template <class X, class Y, class F>
void scan_rows(In x, Out y, bool reverse, const F& step) {
  using A = std::conditional_t<std::is_same_v<accumulate_t<Y>, int64_t>, uint64_t, double>;
  using Load = std::conditional_t<std::is_arithmetic_v<X>, X, float>;
  using Store = std::conditional_t<std::is_arithmetic_v<Y>, Y, float>;
  SG_ASSERT(x.ndim == y.ndim);
  for (int d = 0; d < x.ndim; d++) SG_ASSERT(x.shape[d] == y.shape[d]);
  Rows rows(x);
  rows.add(y.strides);
  const int64_t n = rows.length(), sign = reverse ? -1 : 1, first = reverse ? n - 1 : 0;
  if (n == 0) return;
  parallel_for(rows.count(), std::max<int64_t>(1, 16384 / n), [&](int64_t begin, int64_t end) {
    Rows mine = rows;
    mine.seek(begin);
    for (int64_t row = begin; row < end; row++, mine.next()) {
      const int64_t x_step = sign * mine.stride(0), y_step = sign * mine.stride(1);
      const X* const from = x.ptr<const X>() + mine[0] + first * mine.stride(0);
      Y* const to = y.ptr<Y>() + mine[1] + first * mine.stride(1);
      A total = A(Load(from[0]));
      to[0] = Y(Store(total));
      for (int64_t i = 1; i < n; i++) {
        total = step(total, A(Load(from[i * x_step])));
        to[i * y_step] = Y(Store(total));
      }
    }
  });
}

// y has x's dtype, or is int64 where x is an integer or bool.
template <class F>
void scan(const char* op, In x, Out y, bool reverse, const F& step) {
  dispatch_all(x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::type;
    if constexpr (std::is_integral_v<X>) {
      if (y.dtype == DType::k_int64) return scan_rows<X, int64_t>(x, y, reverse, step);
      if constexpr (!std::is_same_v<X, bool>) {
        if (y.dtype == x.dtype) return scan_rows<X, X>(x, y, reverse, step);
      }
    } else if constexpr (sizeof(X) > 1) {
      if (y.dtype == x.dtype) return scan_rows<X, X>(x, y, reverse, step);
    }
    fail(ErrorCode::DType, op, ": cannot accumulate ", dtype_name(x.dtype), " in ", dtype_name(y.dtype));
  });
}

}  // namespace

void CpuDevice::cumsum(In x, Out y, double reverse) {
  scan("cumsum", x, y, reverse != 0, [](auto total, auto v) { return total + v; });
}

void CpuDevice::cumprod(In x, Out y) {
  scan("cumprod", x, y, false, [](auto total, auto v) { return total * v; });
}

}  // namespace sg
