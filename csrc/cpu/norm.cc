// Layer, RMS and group norm. Weight gradients are sums over all rows: the rows are cut into a number of parts that
// depends on the shape alone, each part adds up its own row of sums, and these are added in order, so that the result
// does not depend on the thread count.
#include "cpu_device.h"
#include "parameter_rows.h"

namespace sg {

// x [N, C, space] as groups of `channels` channels; `groups` of them make an image.
struct GroupShape {
  int64_t groups, channels, space;
};

}  // namespace sg

#define SG_KERNELS "../kernels/norm.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

// About 20 microseconds for a pass over a row in cache: below it, a parallel region costs more than it gives.
constexpr int64_t kGrain = 32768;
constexpr int64_t kMaxParts = 16;

int64_t row_grain(int64_t n) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)); }

void check_same(const View& a, const View& b) { SG_ASSERT(a.dtype == b.dtype && a.numel() == b.numel()); }

void check_output(const View& x, const View& y) {
  check_same(x, y);
  SG_ASSERT(y.contiguous());
}

template <class A>
A* statistics(const View& v, int64_t rows) {
  SG_ASSERT(v.dtype == DTypeOf<A>::value && v.contiguous() && v.numel() == rows);
  return v.ptr<A>();
}

int64_t rows_of(const View& x, int64_t n) {
  if (n > 0) return x.numel() / n;
  int64_t rows = 1;
  for (int d = 0; d < x.ndim - 1; d++) rows *= x.shape[d];
  return rows;
}

// `mean` is null for RMS norm.
template <bool kCentered>
void norm_forward(const char* name, const View& x, MaybeIn weight, MaybeIn bias, const View& y, const View* mean,
                  const View& rstd, double eps) {
  check_output(x, y);
  dispatch_float(name, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    SG_ASSERT(x.ndim > 0);
    const int64_t n = x.size(-1), rows = rows_of(x, n);
    A* const buffer = scratch<A>(Scratch::kSharedA, size_t(2 * n));
    const A* const w = parameter_row(weight, n, A(1), buffer);
    const A* const b = kCentered ? parameter_row(bias, n, A(0), buffer + n) : nullptr;
    A* const mu = kCentered ? statistics<A>(*mean, rows) : nullptr;
    A* const r = statistics<A>(rstd, rows);
    const Flat in(x);
    parallel_for(rows, row_grain(n), [&](int64_t begin, int64_t end) {
      SG_ISA_CALL(norm_rows<kCentered>, in, w, b, y.ptr<T>(), mu, r, n, A(eps), begin, end);
    });
  });
}

template <bool kCentered>
void norm_backward(const char* name, const View& dy, const View& x, MaybeIn weight, const View* mean, const View& rstd,
                   const View& dx, MaybeOut dweight, MaybeOut dbias) {
  check_output(x, dx);
  check_same(x, dy);
  dispatch_float(name, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    SG_ASSERT(x.ndim > 0);
    const int64_t n = x.size(-1), rows = rows_of(x, n);
    const int64_t parts = std::clamp<int64_t>(x.numel() / kGrain, 1, kMaxParts), per_part = (rows + parts - 1) / parts;
    const A* const w = parameter_row(weight, n, A(1), scratch<A>(Scratch::kSharedA, size_t(n)));
    const A* const mu = kCentered ? statistics<A>(*mean, rows) : nullptr;
    const A* const r = statistics<A>(rstd, rows);
    const int64_t width = kCentered ? 2 * n : n;
    A* const sums = scratch<A>(Scratch::kSharedB, size_t((parts + 1) * width));
    const Flat d(dy), in(x);
    ThreadPool::instance().run(int(parts), [&](int part) {
      const int64_t begin = std::min(rows, part * per_part), end = std::min(rows, begin + per_part);
      SG_ISA_CALL(norm_backward_rows<kCentered>, d, in, w, mu, r, dx.ptr<T>(), sums + part * width, n, begin, end);
    });
    A* const total = sums + parts * width;
    SG_ISA_CALL(sum_parts, sums, parts, width, width, total);
    if (dweight) store_parameter_row(total, n, *dweight);
    if (dbias) store_parameter_row(total + n, n, *dbias);
  });
}

GroupShape group_shape(const View& x, double groups) {
  SG_ASSERT(x.ndim >= 2 && groups >= 1 && x.shape[1] % int64_t(groups) == 0);
  int64_t space = 1;
  for (int d = 2; d < x.ndim; d++) space *= x.shape[d];
  return {int64_t(groups), x.shape[1] / int64_t(groups), space};
}

}  // namespace

void CpuDevice::layerNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double eps) {
  norm_forward<true>("layerNorm", x, weight, bias, y, &mean, rstd, eps);
}

void CpuDevice::layerNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                  MaybeOut dbias) {
  norm_backward<true>("layerNormBackward", dy, x, weight, &mean, rstd, dx, dweight, dbias);
}

void CpuDevice::rmsNorm(In x, MaybeIn weight, Out y, Out rstd, double eps) {
  norm_forward<false>("rmsNorm", x, weight, MaybeIn{nullptr}, y, nullptr, rstd, eps);
}

void CpuDevice::rmsNormBackward(In dy, In x, MaybeIn weight, In rstd, Out dx, MaybeOut dweight) {
  norm_backward<false>("rmsNormBackward", dy, x, weight, nullptr, rstd, dx, dweight, MaybeOut{nullptr});
}

void CpuDevice::groupNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double groups, double eps) {
  check_output(x, y);
  const GroupShape shape = group_shape(x, groups);
  dispatch_float("groupNorm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t channels = x.shape[1], rows = x.shape[0] * shape.groups;
    A* const buffer = scratch<A>(Scratch::kSharedA, size_t(2 * channels));
    const A* const w = parameter_row(weight, channels, A(1), buffer);
    const A* const b = parameter_row(bias, channels, A(0), buffer + channels);
    A *const mu = statistics<A>(mean, rows), *const r = statistics<A>(rstd, rows);
    const Flat in(x);
    parallel_for(rows, row_grain(shape.channels * shape.space), [&](int64_t begin, int64_t end) {
      SG_ISA_CALL(group_norm_rows, in, w, b, y.ptr<T>(), mu, r, shape, A(eps), begin, end);
    });
  });
}

void CpuDevice::groupNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                  MaybeOut dbias, double groups) {
  check_output(x, dx);
  check_same(x, dy);
  const GroupShape shape = group_shape(x, groups);
  dispatch_float("groupNormBackward", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t images = x.shape[0], channels = x.shape[1], rows = images * shape.groups;
    const A* const w = parameter_row(weight, channels, A(1), scratch<A>(Scratch::kSharedA, size_t(channels)));
    const A *const mu = statistics<A>(mean, rows), *const r = statistics<A>(rstd, rows);
    A* const sum_dh = scratch<A>(Scratch::kSharedB, size_t((2 * images + 1) * channels));
    A *const sum_d = sum_dh + images * channels, *const total = sum_d + images * channels;
    const Flat d(dy), in(x);
    parallel_for(rows, row_grain(shape.channels * shape.space), [&](int64_t begin, int64_t end) {
      SG_ISA_CALL(group_norm_backward_rows, d, in, w, mu, r, dx.ptr<T>(), shape, sum_dh, sum_d, begin, end);
    });
    if (dweight) {
      SG_ISA_CALL(sum_parts, sum_dh, images, channels, channels, total);
      store_parameter_row(total, channels, *dweight);
    }
    if (dbias) {
      SG_ISA_CALL(sum_parts, sum_d, images, channels, channels, total);
      store_parameter_row(total, channels, *dbias);
    }
  });
}

}  // namespace sg
