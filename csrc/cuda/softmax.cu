// Softmax, log-softmax and log-sum-exp of rows. A row that is not too long lies in registers between its one read and
// its one write; longer ones are read twice, the largest element and the sum being found together (Milakov and
// Gimelshein, "Online normalizer calculation for softmax", 2018). A row with a NaN, with +inf or of -inf alone gives
// NaN (log-sum-exp: the infinity).
#include "softmax.cuh"

#include "cuda_device.h"
#include "cuda_queue.h"

namespace sg {

namespace gpu {
namespace {

// Of a row: `top` is the largest element, `total` the sum of exp(x - shift()).
template <class A>
struct Normalizer {
  A top = -INFINITY, total = 0;

  // What is subtracted from the elements. An infinity would make NaNs of all of them.
  SG_DEVICE A shift() const { return std::isinf(top) ? A(0) : top; }
  template <int kCount>
  SG_DEVICE void add(const A (&x)[kCount]) {
    const A before = top;
#pragma unroll
    for (int i = 0; i < kCount; i++) top = std::fmax(top, x[i]);
    const A by = shift();
    // Without elements before, the factor is exp(-inf) = 0.
    A sum = before == top ? total : total * std::exp(before - by);
#pragma unroll
    for (int i = 0; i < kCount; i++) sum += std::exp(x[i] - by);
    total = sum;
  }
  template <int kTeam>
  SG_DEVICE void join() {
    A of_team[1] = {top};
    team_fold<kTeam>(of_team, [](A a, A b) { return std::fmax(a, b); });
    const A mine = top;
    top = of_team[0];
    total = team_sum<kTeam>(mine == top ? total : total * std::exp(mine - shift()));
  }
  SG_DEVICE A log_sum_exp() const { return std::log(total) + shift(); }
};

// What becomes of an element when the normalizer of its row is known.
template <class A>
struct Finish {
  bool log;
  A shift, by;
  SG_DEVICE Finish(SoftmaxKind kind, const Normalizer<A>& n) : log(kind == SoftmaxKind::kLogSoftmax), shift(n.shift()) {
    const A total = std::isinf(n.top) ? A(NAN) : n.total;
    by = log ? std::log(total) : 1 / total;
  }
  SG_DEVICE A operator()(A x) const { return log ? (x - shift) - by : std::exp(x - shift) * by; }
};

template <class T>
struct SoftmaxRows {
  SoftmaxKind kind;
  const T* x;
  T* y;
  int64_t rows, n;
};

template <class T, int kTeam, int kVectors>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) softmax_kernel(SoftmaxRows<T> a) {
  constexpr int kCount = Pack<T>::kCount;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const int n = int(a.n), first = threadIdx.x % kTeam * kCount;
  const T* const x = a.x + row * n;
  Pack<T> in[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; v++) {  // all loads before the first use
    const int column = first + v * kTeam * kCount;
    if (column < n) in[v] = *reinterpret_cast<const Pack<T>*>(x + column);
  }
  Normalizer<float> normalizer;
  float value[kVectors][kCount], top[1] = {-INFINITY}, total = 0;
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    if (first + v * kTeam * kCount >= n) continue;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      value[v][i] = float(in[v].at[i]);
      top[0] = fmaxf(top[0], value[v][i]);
    }
  }
  team_fold<kTeam>(top, [](float p, float q) { return fmaxf(p, q); });
  normalizer.top = top[0];
  const float shift = normalizer.shift();
  const bool keeps = a.kind == SoftmaxKind::kSoftmax;  // the exponentials are taken once
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    if (first + v * kTeam * kCount >= n) continue;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      const float e = std::exp(value[v][i] - shift);
      total += e;
      if (keeps) value[v][i] = e;
    }
  }
  normalizer.total = team_sum<kTeam>(total);
  if (a.kind == SoftmaxKind::kLogSumExp) {
    if (first == 0) a.y[row] = T(normalizer.log_sum_exp());
    return;
  }
  const Finish<float> finish(a.kind, normalizer);
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    const int column = first + v * kTeam * kCount;
    if (column >= n) continue;
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kCount; i++) out.at[i] = T(keeps ? value[v][i] * finish.by : finish(value[v][i]));
    *reinterpret_cast<Pack<T>*>(a.y + row * n + column) = out;
  }
}

// Rows of any length and place.
template <class T, int kTeam>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) softmax_any_kernel(SoftmaxRows<T> a, bool in_packs) {
  using A = accumulate_t<T>;
  constexpr int kCount = Pack<T>::kCount;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const T* const x = a.x + row * a.n;
  Normalizer<A> normalizer;
  walk_row<kTeam>(
      x, a.n, in_packs,
      [&](int64_t, const Pack<T>& pack) {
        A values[kCount];
#pragma unroll
        for (int i = 0; i < kCount; i++) values[i] = A(pack.at[i]);
        normalizer.add(values);
      },
      [&](int64_t column) {
        const A values[1] = {A(x[column])};
        normalizer.add(values);
      });
  normalizer.template join<kTeam>();
  if (a.kind == SoftmaxKind::kLogSumExp) {
    if (threadIdx.x % kTeam == 0) a.y[row] = T(normalizer.log_sum_exp());
    return;
  }
  T* const y = a.y + row * a.n;
  const Finish<A> finish(a.kind, normalizer);
  walk_row<kTeam>(
      x, a.n, in_packs,
      [&](int64_t column, const Pack<T>& pack) {
        Pack<T> out;
#pragma unroll
        for (int i = 0; i < kCount; i++) out.at[i] = T(finish(A(pack.at[i])));
        *reinterpret_cast<Pack<T>*>(y + column) = out;
      },
      [&](int64_t column) { y[column] = T(finish(A(x[column]))); });
}

void softmax_rows(CudaDevice& device, const char* name, SoftmaxKind kind, const View& x, const View& y) {
  dispatch_float(name, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    Scratch scratch;
    SoftmaxRows<T> a{kind, dense<T>(device, x, scratch), y.ptr<T>(), 0, softmax_row(x)};
    a.rows = x.numel() / a.n;
    const cudaStream_t stream = CudaQueue::current().stream();
    const bool alike = kind == SoftmaxKind::kLogSumExp || packs_alike(a.x, a.y);
    const bool done = for_row_shape<T>(a.n, alike && is_aligned16(a.x), [&](auto team, auto vectors) {
      constexpr int kTeam = team, kTeams = kTeamsInBlock<kTeam>;
      launch(softmax_kernel<T, kTeam, vectors>, blocks_for(a.rows, kTeams), kTeamBlock<kTeam>, 0, stream, a);
    });
    if (done) return;
    for_team(a.n, [&](auto team) {
      constexpr int kTeam = team, kTeams = kTeamsInBlock<kTeam>;
      launch(softmax_any_kernel<T, kTeam>, blocks_for(a.rows, kTeams), kTeamBlock<kTeam>, 0, stream, a, alike);
    });
  });
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::softmax(In x, Out y) {
  check_softmax(x, y);
  if (x.numel() > 0) softmax_rows(*this, "softmax", SoftmaxKind::kSoftmax, x, y);
}

void CudaDevice::logSoftmax(In x, Out y) {
  check_softmax(x, y);
  if (x.numel() > 0) softmax_rows(*this, "logSoftmax", SoftmaxKind::kLogSoftmax, x, y);
}

void CudaDevice::logsumexp(In x, Out y) {
  SG_ASSERT(y.dtype == x.dtype && y.contiguous() && y.numel() * softmax_row(x) == x.numel());
  if (x.numel() == 0) return fill(y, -INFINITY);  // of rows without elements
  softmax_rows(*this, "logsumexp", SoftmaxKind::kLogSumExp, x, y);
}

}  // namespace sg
