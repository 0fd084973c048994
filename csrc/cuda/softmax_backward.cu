// The gradients of softmax, y (dy - sum of dy y), and of log-softmax, dy - exp(y) sum of dy. Rows as in softmax.cu.
#include "softmax.cuh"

#include "cuda_device.h"
#include "cuda_queue.h"

namespace sg {

namespace gpu {
namespace {

template <class T>
struct GradientRows {
  SoftmaxKind kind;
  const T *dy, *y;
  T* dx;
  int64_t rows, n;
};

// What an element adds to the sum of its row, and its gradient when the sum is known.
template <class A>
SG_DEVICE A summand(SoftmaxKind kind, A dy, A y) {
  return kind == SoftmaxKind::kSoftmax ? dy * y : dy;
}
template <class A>
SG_DEVICE A gradient(SoftmaxKind kind, A dy, A y, A sum) {
  return kind == SoftmaxKind::kSoftmax ? y * (dy - sum) : std::fma(-std::exp(y), sum, dy);
}

template <class T, int kTeam, int kVectors>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) softmax_backward_kernel(GradientRows<T> a) {
  constexpr int kCount = Pack<T>::kCount;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const int n = int(a.n), first = threadIdx.x % kTeam * kCount;
  Pack<T> dy[kVectors], y[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; v++) {  // all loads before the first use
    const int column = first + v * kTeam * kCount;
    if (column >= n) continue;
    dy[v] = *reinterpret_cast<const Pack<T>*>(a.dy + row * n + column);
    y[v] = *reinterpret_cast<const Pack<T>*>(a.y + row * n + column);
  }
  float sum = 0;
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    if (first + v * kTeam * kCount >= n) continue;
#pragma unroll
    for (int i = 0; i < kCount; i++) sum += summand(a.kind, float(dy[v].at[i]), float(y[v].at[i]));
  }
  sum = team_sum<kTeam>(sum);
#pragma unroll
  for (int v = 0; v < kVectors; v++) {
    const int column = first + v * kTeam * kCount;
    if (column >= n) continue;
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < kCount; i++) out.at[i] = T(gradient(a.kind, float(dy[v].at[i]), float(y[v].at[i]), sum));
    *reinterpret_cast<Pack<T>*>(a.dx + row * n + column) = out;
  }
}

// Rows of any length and place.
template <class T, int kTeam>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) softmax_backward_any_kernel(GradientRows<T> a, bool in_packs) {
  using A = accumulate_t<T>;
  constexpr int kCount = Pack<T>::kCount;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const T *const dy = a.dy + row * a.n, *const y = a.y + row * a.n;
  T* const dx = a.dx + row * a.n;
  A sum = 0;
  walk_row<kTeam>(
      dy, a.n, in_packs,
      [&](int64_t column, const Pack<T>& pack) {
        const Pack<T> of_y = *reinterpret_cast<const Pack<T>*>(y + column);
#pragma unroll
        for (int i = 0; i < kCount; i++) sum += summand(a.kind, A(pack.at[i]), A(of_y.at[i]));
      },
      [&](int64_t column) { sum += summand(a.kind, A(dy[column]), A(y[column])); });
  sum = team_sum<kTeam>(sum);
  walk_row<kTeam>(
      dy, a.n, in_packs,
      [&](int64_t column, const Pack<T>& pack) {
        const Pack<T> of_y = *reinterpret_cast<const Pack<T>*>(y + column);
        Pack<T> out;
#pragma unroll
        for (int i = 0; i < kCount; i++) out.at[i] = T(gradient(a.kind, A(pack.at[i]), A(of_y.at[i]), sum));
        *reinterpret_cast<Pack<T>*>(dx + column) = out;
      },
      [&](int64_t column) { dx[column] = T(gradient(a.kind, A(dy[column]), A(y[column]), sum)); });
}

void softmax_gradients(CudaDevice& device, const char* name, SoftmaxKind kind, const View& dy, const View& y,
                       const View& dx) {
  check_softmax(y, dx);
  check_softmax(dy, dx);
  if (y.numel() == 0) return;
  dispatch_float(name, y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    Scratch scratch;
    GradientRows<T> a{kind,          dense<T>(device, dy, scratch), dense<T>(device, y, scratch), dx.ptr<T>(), 0,
                      softmax_row(y)};
    a.rows = y.numel() / a.n;
    const cudaStream_t stream = CudaQueue::current().stream();
    const bool alike = packs_alike(a.dy, a.y) && packs_alike(a.dy, a.dx);
    const bool done = for_row_shape<T>(a.n, alike && is_aligned16(a.dy), [&](auto team, auto vectors) {
      constexpr int kTeam = team, kTeams = kTeamsInBlock<kTeam>;
      launch(softmax_backward_kernel<T, kTeam, vectors>, blocks_for(a.rows, kTeams), kTeamBlock<kTeam>, 0, stream, a);
    });
    if (done) return;
    for_team(a.n, [&](auto team) {
      constexpr int kTeam = team, kTeams = kTeamsInBlock<kTeam>;
      launch(softmax_backward_any_kernel<T, kTeam>, blocks_for(a.rows, kTeams), kTeamBlock<kTeam>, 0, stream, a, alike);
    });
  });
}

}  // namespace
}  // namespace gpu

void CudaDevice::softmaxBackward(In dy, In y, Out dx) {
  gpu::softmax_gradients(*this, "softmaxBackward", gpu::SoftmaxKind::kSoftmax, dy, y, dx);
}

void CudaDevice::logSoftmaxBackward(In dy, In y, Out dx) {
  gpu::softmax_gradients(*this, "logSoftmaxBackward", gpu::SoftmaxKind::kLogSoftmax, dy, y, dx);
}

}  // namespace sg
