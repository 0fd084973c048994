// Softmax family along the last dimension; rows are shared out to the threads.
#include "cpu_device.h"
#include "flat.h"

#define SG_KERNELS "../kernels/softmax.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

// About 20 microseconds of exponentials: below it, a parallel region costs more than it gives.
constexpr int64_t kGrain = 16384;

// f(row length, begin, end) over the rows of x
template <class F>
void for_rows(const View& x, const F& f) {
  const int64_t n = x.ndim > 0 ? x.size(-1) : 1;
  const int64_t rows = n > 0 ? x.numel() / n : 0;
  parallel_for(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)),
               [&](int64_t begin, int64_t end) { f(n, begin, end); });
}

void check(const View& x, const View& y) { SG_ASSERT(y.dtype == x.dtype && y.contiguous() && y.numel() == x.numel()); }

}  // namespace

void CpuDevice::softmax(In x, Out y) {
  check(x, y);
  const Flat in(x);
  dispatch_float("softmax", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_rows(x,
             [&](int64_t n, int64_t begin, int64_t end) { SG_ISA_CALL(softmax_rows, in, y.ptr<T>(), n, begin, end); });
  });
}

void CpuDevice::softmaxBackward(In dy, In y, Out dx) {
  check(y, dx);
  check(dy, dx);
  const Flat d(dy), p(y);
  dispatch_float("softmaxBackward", y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_rows(y, [&](int64_t n, int64_t begin, int64_t end) {
      SG_ISA_CALL(softmax_backward_rows, d, p, dx.ptr<T>(), n, begin, end);
    });
  });
}

void CpuDevice::logSoftmax(In x, Out y) {
  check(x, y);
  const Flat in(x);
  dispatch_float("logSoftmax", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_rows(x, [&](int64_t n, int64_t begin, int64_t end) {
      SG_ISA_CALL(log_softmax_rows, in, y.ptr<T>(), n, begin, end);
    });
  });
}

void CpuDevice::logSoftmaxBackward(In dy, In y, Out dx) {
  check(y, dx);
  check(dy, dx);
  const Flat d(dy), p(y);
  dispatch_float("logSoftmaxBackward", y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for_rows(y, [&](int64_t n, int64_t begin, int64_t end) {
      SG_ISA_CALL(log_softmax_backward_rows, d, p, dx.ptr<T>(), n, begin, end);
    });
  });
}

void CpuDevice::logsumexp(In x, Out y) {
  const int64_t n = x.ndim > 0 ? x.size(-1) : 1;
  SG_ASSERT(y.dtype == x.dtype && y.contiguous() && y.numel() * n == x.numel());
  const Flat in(x);
  dispatch_float("logsumexp", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    // Counted by y: rows of no elements still have a result, -inf.
    parallel_for(y.numel(), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)),
                 [&](int64_t begin, int64_t end) { SG_ISA_CALL(logsumexp_rows, in, y.ptr<T>(), n, begin, end); });
  });
}

}  // namespace sg
