// Batch norm: partial moments per plane (or per fixed range of rows), joined per channel in double. Joining exact
// moments of small pieces reads x once from memory, and loses nothing when the mean is large against the deviation.
#include "cpu_device.h"
#include "parameter_rows.h"

namespace sg {

// x [images, channels, space]
struct BatchShape {
  int64_t images, channels, space;
  int64_t count() const { return images * space; }
};

}  // namespace sg

#define SG_KERNELS "../kernels/batch_norm.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

constexpr int64_t kGrain = 32768;  // elements; about 20 microseconds, below which a parallel region costs more
constexpr int64_t kMaxParts = 16;  // of the rows, when there is no space

BatchShape batch_shape(const View& x) {
  SG_ASSERT(x.ndim >= 2);
  int64_t space = 1;
  for (int d = 2; d < x.ndim; d++) space *= x.shape[d];
  return {x.shape[0], x.shape[1], space};
}

// How the batch is cut: into planes, whose sums are laid out [image][channel], or into ranges of rows: [part][channel].
struct Cut {
  BatchShape shape;
  bool planes;
  int64_t parts, per_part;

  explicit Cut(BatchShape s) : shape(s), planes(s.space != 1) {
    if (planes) {
      parts = s.images;
      per_part = 1;
    } else {
      parts =
          std::clamp<int64_t>(s.images * s.channels / kGrain, 1, std::min(kMaxParts, std::max<int64_t>(1, s.images)));
      per_part = (s.images + parts - 1) / parts;
      parts = std::max<int64_t>(1, (s.images + per_part - 1) / std::max<int64_t>(1, per_part));
    }
  }
  int64_t sums() const { return parts * shape.channels; }
  int64_t count(int64_t part) const {
    return planes ? shape.space : std::min(shape.images, (part + 1) * per_part) - part * per_part;
  }
  // f(begin, end) over planes
  template <class F>
  void for_planes(const F& f) const {
    parallel_for(shape.images * shape.channels, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, shape.space)), f);
  }
  // f(part, begin, end) over ranges of rows
  template <class F>
  void for_parts(const F& f) const {
    ThreadPool::instance().run(int(parts), [&](int part) {
      const int64_t begin = part * per_part;
      f(int64_t(part), begin, std::min(shape.images, begin + per_part));
    });
  }
  // f(begin, end) over planes or rows, whichever is the unit
  template <class F>
  void for_units(const F& f) const {
    if (shape.channels == 0) return;
    if (planes) for_planes(f);
    else parallel_for(shape.images, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, shape.channels)), f);
  }
};

// Mean and sum of squared deviations of a channel from the moments of its parts (Chan et al. 1983), in double.
template <class A>
void join_moments(const Cut& cut, const A* shift, const A* m, const A* squares, int64_t channel, double& mean,
                  double& deviations) {
  const int64_t stride = cut.shape.channels;
  double total = 0;
  for (int64_t p = 0; p < cut.parts; p++)
    total += double(cut.count(p)) * (double(shift[p * stride + channel]) + double(m[p * stride + channel]));
  mean = total / double(cut.shape.count());
  deviations = 0;
  for (int64_t p = 0; p < cut.parts; p++) {
    const double d = double(shift[p * stride + channel]) + double(m[p * stride + channel]) - mean;
    deviations += double(squares[p * stride + channel]) + double(cut.count(p)) * d * d;
  }
}

// Operand 0 or 1 of the column loops, which step from row to row and so need all rows in one piece.
template <class T>
const T* all_rows(const Flat& x, int operand) {
  const int64_t n = x.size();
  if (const T* p = x.direct<const T>(0, n)) return p;
  return x.gather(0, n, scratch<T>(Scratch::kSharedC, size_t(2 * n)) + operand * n);
}

template <class A>
A* statistics(const View& v, int64_t channels) {
  SG_ASSERT(v.dtype == DTypeOf<A>::value && v.contiguous() && v.numel() == channels);
  return v.ptr<A>();
}

// running = (1 - momentum) * running + momentum * value
template <class A>
void update_running(MaybeIn running, const A* value, int64_t n, double momentum, A* buffer) {
  if (!running) return;
  const A* const old = parameter_row(running, n, A(0), buffer);
  for (int64_t c = 0; c < n; c++) buffer[c] = A((1 - momentum) * double(old[c]) + momentum * double(value[c]));
  store_parameter_row(buffer, n, *running);
}

// Fills mean, low (what mean lost in rounding), rstd and the unbiased variance of the batch.
template <class T, class A>
void batch_statistics(const View& x, const Cut& cut, double eps, A* mean, A* low, A* rstd, A* variance) {
  const int64_t n = cut.sums();
  A *const shift = scratch<A>(Scratch::kSharedB, size_t(3 * n)), *const m = shift + n, *const squares = m + n;
  const Flat in(x);
  if (cut.planes) {
    cut.for_planes([&](int64_t begin, int64_t end) {
      SG_ISA_CALL(plane_moments<T>, in, cut.shape, shift, m, squares, begin, end);
    });
  } else {
    const T* const rows = all_rows<T>(in, 0);
    cut.for_parts([&](int64_t part, int64_t begin, int64_t end) {
      const int64_t at = part * cut.shape.channels;
      SG_ISA_CALL(column_moments, rows, cut.shape, shift + at, m + at, squares + at, begin, end);
    });
  }
  const double count = double(cut.shape.count());
  for (int64_t c = 0; c < cut.shape.channels; c++) {
    double exact, deviations;
    join_moments(cut, shift, m, squares, c, exact, deviations);
    mean[c] = A(exact);
    low[c] = A(exact - double(mean[c]));
    rstd[c] = A(1 / std::sqrt(deviations / count + eps));
    variance[c] = A(deviations / (count - 1));
  }
}

}  // namespace

void CpuDevice::batchNorm(In x, MaybeIn weight, MaybeIn bias, MaybeIn runningMean, MaybeIn runningVar, Out y, Out mean,
                          Out rstd, double training, double momentum, double eps) {
  SG_ASSERT(y.dtype == x.dtype && y.contiguous() && y.numel() == x.numel());
  SG_ASSERT(training || (runningMean && runningVar));
  const Cut cut(batch_shape(x));
  dispatch_float("batchNorm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t n = cut.shape.channels;
    A *const buffer = scratch<A>(Scratch::kSharedA, size_t(5 * n)), *const low = buffer + 2 * n,
             *const variance = low + n, *const running = variance + n;
    const A *const w = parameter_row(weight, n, A(1), buffer), *const b = parameter_row(bias, n, A(0), buffer + n);
    A *const mu = statistics<A>(mean, n), *const r = statistics<A>(rstd, n);
    if (training) {
      batch_statistics<T>(x, cut, eps, mu, low, r, variance);
      update_running(runningMean, mu, n, momentum, running);
      update_running(runningVar, variance, n, momentum, running);
    } else {
      const A* const var = parameter_row(runningVar, n, A(1), variance);
      const A* const old = parameter_row(runningMean, n, A(0), running);
      for (int64_t c = 0; c < n; c++) {
        mu[c] = old[c];
        low[c] = 0;
        r[c] = A(1 / std::sqrt(double(var[c]) + eps));
      }
    }
    const Flat in(x);
    cut.for_units([&](int64_t begin, int64_t end) {
      if (cut.planes) SG_ISA_CALL(batch_norm_apply<true>, in, {mu, low, r, w, b}, y.ptr<T>(), cut.shape, begin, end);
      else SG_ISA_CALL(batch_norm_apply<false>, in, {mu, low, r, w, b}, y.ptr<T>(), cut.shape, begin, end);
    });
  });
}

void CpuDevice::batchNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                  MaybeOut dbias, double training) {
  SG_ASSERT(dx.dtype == x.dtype && dx.contiguous() && dx.numel() == x.numel());
  SG_ASSERT(dy.dtype == x.dtype && dy.numel() == x.numel());
  const Cut cut(batch_shape(x));
  dispatch_float("batchNormBackward", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t n = cut.shape.channels, stride = cut.sums();
    A *const buffer = scratch<A>(Scratch::kSharedA, size_t(6 * n)), *const delta = buffer + n, *const a = delta + n,
             *const b = a + n, *const dw = b + n, *const db = dw + n;
    const A* const w = parameter_row(weight, n, A(1), buffer);
    const A *const mu = statistics<A>(mean, n), *const r = statistics<A>(rstd, n);
    A* const sums = scratch<A>(Scratch::kSharedB, size_t(3 * stride));
    const Flat d(dy), in(x);
    if (cut.planes) {
      cut.for_planes([&](int64_t begin, int64_t end) {
        SG_ISA_CALL(plane_sums<T>, d, in, {mu, delta, r, w, a}, cut.shape, sums, stride, begin, end);
      });
    } else {
      const T *const rows_d = all_rows<T>(d, 0), *const rows_x = all_rows<T>(in, 1);
      cut.for_parts([&](int64_t part, int64_t begin, int64_t end) {
        SG_ISA_CALL(column_sums, rows_d, rows_x, {mu, delta, r, w, a}, cut.shape, sums + part * n, stride, begin, end);
      });
    }
    const double count = double(cut.shape.count());
    for (int64_t c = 0; c < n; c++) {
      double sum_d = 0, sum_dh = 0, sum_h = 0;
      for (int64_t p = 0; p < cut.parts; p++) {
        sum_d += double(sums[p * n + c]);
        sum_dh += double(sums[stride + p * n + c]);
        sum_h += double(sums[2 * stride + p * n + c]);
      }
      const double displaced = training ? sum_h / count : 0;
      sum_dh -= displaced * sum_d;
      delta[c] = A(displaced);
      a[c] = A(training ? sum_d / count : 0);
      b[c] = A(training ? sum_dh / count : 0);
      dw[c] = A(sum_dh);
      db[c] = A(sum_d);
    }
    if (dweight) store_parameter_row(dw, n, *dweight);
    if (dbias) store_parameter_row(db, n, *dbias);
    cut.for_units([&](int64_t begin, int64_t end) {
      if (cut.planes)
        SG_ISA_CALL(batch_norm_dx<true>, d, in, {mu, delta, r, w, a}, b, dx.ptr<T>(), cut.shape, begin, end);
      else SG_ISA_CALL(batch_norm_dx<false>, d, in, {mu, delta, r, w, a}, b, dx.ptr<T>(), cut.shape, begin, end);
    });
  });
}

}  // namespace sg
