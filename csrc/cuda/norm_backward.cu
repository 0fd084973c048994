// Layer norm and RMS norm, backward. With h = (x - mean) * rstd and e = dy * weight,
//   dx = rstd * (e - mean(e) - h * mean(e * h)),   dweight = sum of dy * h over the rows,   dbias = sum of dy.
// h is displaced by what the mean lost in rounding; the h of a row average to 0, so their mean is taken out. A block of
// the fast kernel keeps its part of dweight and dbias in registers over all its rows, so x and dy are read once.
#include <algorithm>

#include "norm.cuh"
#include "parameter_rows.cuh"

namespace sg {

namespace gpu {
namespace {

template <class T>
struct NormBackward {
  using A = accumulate_t<T>;
  const T *dy, *x;
  ParameterRow<T> weight;
  const A *mean, *rstd;  // no mean for RMS norm
  T* dx;
  A* sums;   // a block's part after another: dweight [n], and, if centered, dbias [n]
  A* delta;  // of each row, for the sums of the slow kernels
  int64_t rows, n;
};

// The rows of a block are added up in registers, so more blocks cost memory, and fewer leave multiprocessors empty.
constexpr int64_t kMostParts = 528, kRowsOfTeam = 16;

template <bool kCentered, class T, int kTeam, int kVectors>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) norm_backward_kernel(NormBackward<T> a) {
  constexpr int kCount = Pack<T>::kCount, kTeams = kTeamsInBlock<kTeam>;
  const int n = int(a.n), first = threadIdx.x % kTeam * kCount, team = threadIdx.x / kTeam;
  float dweight[kVectors][kCount] = {}, dbias[kVectors][kCount] = {};
  for (int64_t row = int64_t(blockIdx.x) * kTeams + team; row < a.rows; row += int64_t(gridDim.x) * kTeams) {
    const T *const dy = a.dy + row * n, *const x = a.x + row * n;
    Pack<T> dys[kVectors], xs[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      const int column = first + v * kTeam * kCount;
      if (column >= n) continue;
      dys[v] = *reinterpret_cast<const Pack<T>*>(dy + column);
      xs[v] = *reinterpret_cast<const Pack<T>*>(x + column);
    }
    const float mean = kCentered ? a.mean[row] : 0, rstd = a.rstd[row];
    float sums[kCentered ? 3 : 1] = {};  // of e * h, e and h
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      const int column = first + v * kTeam * kCount;
      if (column >= n) continue;
      float weight[kCount];
      load_parameters<T>(a.weight, column, 1, weight);
#pragma unroll
      for (int i = 0; i < kCount; i++) {
        const float h = (float(xs[v].at[i]) - mean) * rstd, e = float(dys[v].at[i]) * weight[i];
        sums[0] = fmaf(e, h, sums[0]);
        if constexpr (kCentered) {
          sums[1] += e;
          sums[2] += h;
        }
      }
    }
    team_sums<kTeam>(sums);
    float mean_e = 0, delta = 0;
    if constexpr (kCentered) {
      mean_e = sums[1] / float(n);
      delta = sums[2] / float(n);
    }
    const float slope = sums[0] / float(n) - delta * mean_e;
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      const int column = first + v * kTeam * kCount;
      if (column >= n) continue;
      float weight[kCount];
      load_parameters<T>(a.weight, column, 1, weight);
      Pack<T> out;
#pragma unroll
      for (int i = 0; i < kCount; i++) {
        const float h = (float(xs[v].at[i]) - mean) * rstd - delta, g = float(dys[v].at[i]);
        dweight[v][i] = fmaf(g, h, dweight[v][i]);
        if (kCentered) dbias[v][i] += g;
        out.at[i] = T(fmaf(-h, slope, g * weight[i] - mean_e) * rstd);
      }
      *reinterpret_cast<Pack<T>*>(a.dx + row * n + column) = out;
    }
  }
  if (!a.sums) return;
  float* const sums = a.sums + int64_t(blockIdx.x) * (kCentered ? 2 : 1) * n;
  // The block's teams are added up vector by vector; an element of all lanes' vectors lies together.
  constexpr int kWidth = kTeam * kCount;
  SG_SHARED(float, stage, [kTeams][kWidth]);
  for (int which = 0; which < (kCentered ? 2 : 1); which++) {
#pragma unroll
    for (int v = 0; v < kVectors; v++) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kCount; i++) {
        stage[team][i * kTeam + threadIdx.x % kTeam] = which ? dbias[v][i] : dweight[v][i];
      }
      __syncthreads();
      for (int item = threadIdx.x; item < kWidth; item += kTeamBlock<kTeam>) {
        float total = stage[0][item];
#pragma unroll
        for (int t = 1; t < kTeams; t++) total += stage[t][item];
        const int column = (v * kTeam + item % kTeam) * kCount + item / kTeam;
        if (column < n) sums[which * n + column] = total;
      }
    }
  }
}

// Rows of any length and place, which are read twice.
template <bool kCentered, class T, int kTeam>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) norm_backward_any_kernel(NormBackward<T> a) {
  using A = accumulate_t<T>;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const int64_t n = a.n, first = threadIdx.x % kTeam;
  const T *const dy = a.dy + row * n, *const x = a.x + row * n;
  const A mean = kCentered ? a.mean[row] : A(0), rstd = a.rstd[row];
  double sums[3] = {};  // of e * h, e and h
  for (int64_t i = first; i < n; i += kTeam) {
    const A h = (A(x[i]) - mean) * rstd, e = A(dy[i]) * load_parameter<T>(a.weight, i, 1);
    sums[0] += double(e) * double(h);
    if (kCentered) {
      sums[1] += double(e);
      sums[2] += double(h);
    }
  }
  team_sums<kTeam>(sums);
  const double mean_of_h = sums[2] / double(n), mean_of_e = sums[1] / double(n);
  const A delta(mean_of_h), mean_e(mean_of_e), slope(sums[0] / double(n) - mean_of_h * mean_of_e);
  for (int64_t i = first; i < n; i += kTeam) {
    const A h = (A(x[i]) - mean) * rstd - delta, e = A(dy[i]) * load_parameter<T>(a.weight, i, 1);
    a.dx[row * n + i] = T((e - mean_e - h * slope) * rstd);
  }
  if (first == 0) a.delta[row] = delta;
}

// Part blockIdx.y of the rows adds up a column a thread.
constexpr int kColumnThreads = 128;
constexpr int64_t kRowsOfPart = 64;

template <bool kCentered, class T>
__global__ void __launch_bounds__(kColumnThreads) norm_columns_kernel(NormBackward<T> a, int64_t rows_of_part) {
  using A = accumulate_t<T>;
  const int64_t column = int64_t(blockIdx.x) * kColumnThreads + threadIdx.x, n = a.n;
  if (column >= n) return;
  const int64_t begin = blockIdx.y * rows_of_part, end = min(a.rows, begin + rows_of_part);
  A dweight(0), dbias(0);
  for (int64_t row = begin; row < end; row++) {
    const A mean = kCentered ? a.mean[row] : A(0);
    const A h = (A(a.x[row * n + column]) - mean) * a.rstd[row] - a.delta[row], g(a.dy[row * n + column]);
    dweight += g * h;
    dbias += g;
  }
  A* const sums = a.sums + blockIdx.y * (kCentered ? 2 : 1) * n + column;
  sums[0] = dweight;
  if (kCentered) sums[n] = dbias;
}

// Returns the number of parts that the sums came in.
template <bool kCentered, class T>
int64_t norm_gradients(NormBackward<T> a, bool wants_sums, Scratch& scratch, cudaStream_t stream, int64_t width,
                       accumulate_t<T>*& sums) {
  using A = accumulate_t<T>;
  int64_t parts = 0;
  const bool aligned = is_aligned16(a.x) && is_aligned16(a.dy) && is_aligned16(a.dx);
  const bool done = for_row_shape<T>(a.n, aligned, [&](auto team, auto vectors) {
    constexpr int kTeam = team;
    parts = std::clamp<int64_t>(a.rows / (kTeamsInBlock<kTeam> * kRowsOfTeam), 1, kMostParts);
    if (wants_sums) a.sums = sums = scratch.take<A>(size_t(parts * width));
    launch(norm_backward_kernel<kCentered, T, kTeam, vectors>, unsigned(parts), kTeamBlock<kTeam>, 0, stream, a);
  });
  if (done) return parts;
  a.delta = scratch.take<A>(size_t(a.rows));
  for_team(a.n, [&](auto team) {
    constexpr int kTeam = team;
    launch(norm_backward_any_kernel<kCentered, T, kTeam>, blocks_for(a.rows, kTeamsInBlock<kTeam>), kTeamBlock<kTeam>,
           0, stream, a);
  });
  if (!wants_sums || a.n == 0) return 0;
  parts = std::clamp<int64_t>(a.rows / kRowsOfPart, 1, kMostParts);
  const int64_t rows_of_part = (a.rows + parts - 1) / parts;
  a.sums = sums = scratch.take<A>(size_t(parts * width));
  launch(norm_columns_kernel<kCentered, T>, dim3(blocks_for(a.n, kColumnThreads), unsigned(parts)), kColumnThreads, 0,
         stream, a, rows_of_part);
  return parts;
}

template <bool kCentered>
void norm_backward(CudaDevice& device, const char* name, const View& dy, const View& x, MaybeIn weight,
                   const View* mean, const View& rstd, const View& dx, MaybeOut dweight, MaybeOut dbias) {
  check_output(x, dx);
  check_same(x, dy);
  dispatch_float(name, x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    Scratch scratch;
    NormBackward<T> a{};
    a.n = x.size(-1);
    a.rows = rows_of(x);
    const cudaStream_t stream = CudaQueue::current().stream();
    const int64_t width = (kCentered ? 2 : 1) * a.n;
    int64_t parts = 0;
    A* sums = nullptr;
    if (a.rows > 0) {
      a.dy = dense<T>(device, dy, scratch);
      a.x = dense<T>(device, x, scratch);
      a.weight = parameter_row<T>(device, weight, a.n, scratch);
      a.mean = kCentered ? statistics<A>(*mean, a.rows) : nullptr;
      a.rstd = statistics<A>(rstd, a.rows);
      a.dx = dx.ptr<T>();
      parts = norm_gradients<kCentered, T>(a, dweight || dbias, scratch, stream, width, sums);
    }
    sum_parts<A>(sums, parts, width, dweight, stream);
    sum_parts<A>(sums + a.n, parts, width, dbias, stream);
  });
}

}  // namespace
}  // namespace gpu

void CudaDevice::layerNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                   MaybeOut dbias) {
  gpu::norm_backward<true>(*this, "layerNormBackward", dy, x, weight, &mean, rstd, dx, dweight, dbias);
}

void CudaDevice::rmsNormBackward(In dy, In x, MaybeIn weight, In rstd, Out dx, MaybeOut dweight) {
  gpu::norm_backward<false>(*this, "rmsNormBackward", dy, x, weight, nullptr, rstd, dx, dweight, MaybeOut{nullptr});
}

}  // namespace sg
