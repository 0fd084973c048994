// Layer norm and RMS norm, forward. A row that is not too long lies in the registers of its team between its one read
// and its one write; others are read again. As on the CPU, y is computed from (x - shift) - m with the row's first
// element as shift, never from the rounded mean.
#include "parameter_rows.cuh"
#include "norm.cuh"
#include "teams.cuh"

namespace sg {

namespace gpu {
namespace {

template <class T>
struct NormRows {
  using A = accumulate_t<T>;
  const T* x;
  ParameterRow<T> weight, bias;
  T* y;
  A *mean, *rstd;  // no mean for RMS norm
  int64_t rows, n;
  A eps;
};

template <bool kCentered, class T, int kTeam, int kVectors>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) norm_kernel(NormRows<T> a) {
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
  const float shift = kCentered ? float(x[0]) : 0;
  float deviation[kVectors][kCount], total = 0, squares = 0;
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    if (first + v * kTeam * kCount >= n) continue;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      deviation[v][i] = float(in[v].at[i]) - shift;
      total += deviation[v][i];
    }
  }
  const float m = kCentered ? team_sum<kTeam>(total) / float(n) : 0;
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    if (first + v * kTeam * kCount >= n) continue;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      deviation[v][i] -= m;
      squares = fmaf(deviation[v][i], deviation[v][i], squares);
    }
  }
  const float rstd = 1 / sqrtf(team_sum<kTeam>(squares) / float(n) + a.eps);
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    const int column = first + v * kTeam * kCount;
    if (column >= n) continue;
    float weight[kCount], bias[kCount];
    load_parameters<T>(a.weight, column, 1, weight);
    if (kCentered) load_parameters<T>(a.bias, column, 0, bias);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      const float h = deviation[v][i] * rstd;
      out.at[i] = T(kCentered ? fmaf(h, weight[i], bias[i]) : h * weight[i]);
    }
    *reinterpret_cast<Pack<T>*>(a.y + row * n + column) = out;
  }
  if (first == 0) {
    if (kCentered) a.mean[row] = shift + m;
    a.rstd[row] = rstd;
  }
}

// Rows of any length and place. Sums are taken in double, since they may be long.
template <bool kCentered, class T, int kTeam>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) norm_any_kernel(NormRows<T> a) {
  using A = accumulate_t<T>;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const int64_t n = a.n, first = threadIdx.x % kTeam;
  const T* const x = a.x + row * n;
  const A shift = kCentered && n > 0 ? A(x[0]) : A(0);
  double total = 0, squares = 0;
  if (kCentered)
    for (int64_t i = first; i < n; i += kTeam) total += double(A(x[i]) - shift);
  const A m = kCentered ? A(team_sum<kTeam>(total) / double(n)) : A(0);
  for (int64_t i = first; i < n; i += kTeam) {
    const A d = (A(x[i]) - shift) - m;
    squares += double(d) * double(d);
  }
  const A rstd = 1 / std::sqrt(A(team_sum<kTeam>(squares) / double(n)) + a.eps);
  for (int64_t i = first; i < n; i += kTeam) {
    const A h = ((A(x[i]) - shift) - m) * rstd * load_parameter<T>(a.weight, i, 1);
    a.y[row * n + i] = T(kCentered ? h + load_parameter<T>(a.bias, i, 0) : h);
  }
  if (first == 0) {
    if (kCentered) a.mean[row] = shift + m;
    a.rstd[row] = rstd;
  }
}

// `mean` is null for RMS norm.
template <bool kCentered>
void norm_forward(CudaDevice& device, const char* name, const View& x, MaybeIn weight, MaybeIn bias, const View& y,
                  const View* mean, const View& rstd, double eps) {
  check_output(x, y);
  dispatch_float(name, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    Scratch scratch;
    NormRows<T> a;
    a.n = x.size(-1);
    a.rows = rows_of(x);
    if (a.rows == 0) return;
    a.x = dense<T>(device, x, scratch);
    a.weight = parameter_row<T>(device, weight, a.n, scratch);
    a.bias = parameter_row<T>(device, bias, a.n, scratch);
    a.y = y.ptr<T>();
    a.mean = kCentered ? statistics<A>(*mean, a.rows) : nullptr;
    a.rstd = statistics<A>(rstd, a.rows);
    a.eps = A(eps);
    const cudaStream_t stream = CudaQueue::current().stream();
    const bool aligned = is_aligned16(a.x) && is_aligned16(a.y);
    const bool done = for_row_shape<T>(a.n, aligned, [&](auto team, auto vectors) {
      constexpr int kTeam = team, kTeams = kTeamsInBlock<kTeam>;
      launch(norm_kernel<kCentered, T, kTeam, vectors>, blocks_for(a.rows, kTeams), kTeamBlock<kTeam>, 0, stream, a);
    });
    if (done) return;
    for_team(a.n, [&](auto team) {
      constexpr int kTeam = team, kTeams = kTeamsInBlock<kTeam>;
      launch(norm_any_kernel<kCentered, T, kTeam>, blocks_for(a.rows, kTeams), kTeamBlock<kTeam>, 0, stream, a);
    });
  });
}

}  // namespace
}  // namespace gpu

void CudaDevice::layerNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double eps) {
  gpu::norm_forward<true>(*this, "layerNorm", x, weight, bias, y, &mean, rstd, eps);
}

void CudaDevice::rmsNorm(In x, MaybeIn weight, Out y, Out rstd, double eps) {
  gpu::norm_forward<false>(*this, "rmsNorm", x, weight, MaybeIn{nullptr}, y, nullptr, rstd, eps);
}

}  // namespace sg
