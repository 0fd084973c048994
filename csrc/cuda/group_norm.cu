// Group norm. A team takes one group of channels of one image, whose elements lie side by side, and goes over it once
// for the mean, once for the deviation and once for the result; after the first time they come from a cache.
#include "norm.cuh"
#include "parameter_rows.cuh"
#include "vectors.cuh"

namespace sg {

namespace gpu {
namespace {

// x [N, C, space], `groups` groups of `channels` channels in an image.
struct GroupShape {
  int64_t rows, groups, channels, space, size;  // size: of a group
  Quotient by_space;                            // the channel of an element of a group
  GroupShape(const View& x, double count) {
    SG_ASSERT(x.ndim >= 2 && count >= 1 && x.shape[1] % int64_t(count) == 0);
    groups = int64_t(count);
    rows = x.shape[0] * groups;
    channels = x.shape[1] / groups;
    space = 1;
    for (int d = 2; d < x.ndim; d++) space *= x.shape[d];
    size = channels * space;
    by_space = Quotient(space, size);
  }
  // The first of the group's channels.
  SG_DEVICE int64_t channel(int64_t row) const { return row % groups * channels; }
};

template <class T>
struct GroupNorm {
  using A = accumulate_t<T>;
  const T* x;
  ParameterRow<T> weight, bias;
  T* y;
  A *mean, *rstd;
  A eps;
};

// Left alone, the compiler makes room for more blocks on a multiprocessor than the kernels have registers for.
constexpr int kBlocks = 4;

template <class T, int kTeam, int kCount>
__global__ void __launch_bounds__(kTeamBlock<kTeam>, kBlocks) group_norm_kernel(GroupNorm<T> a, GroupShape shape) {
  using A = accumulate_t<T>;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= shape.rows) return;
  const int64_t n = shape.size, first = threadIdx.x % kTeam * kCount;
  const T* const x = a.x + row * n;
  const auto [shift, m, squares] = row_moments<kTeam, kCount>(x, n, first);
  const A rstd = 1 / std::sqrt(A(squares / double(n)) + a.eps);
  for (int64_t i = first; i < n; i += kTeam * kCount) {
    const int64_t c = shape.channel(row) + shape.by_space(i);
    const A weight = rstd * load_parameter<T>(a.weight, c, 1), bias = load_parameter<T>(a.bias, c, 0);
    auto v = load_vector<kCount>(x + i);
#pragma unroll
    for (int k = 0; k < kCount; k++) v.at[k] = T(((A(v.at[k]) - shift) - m) * weight + bias);
    store_vector(a.y + row * n + i, v);
  }
  if (first == 0) {
    a.mean[row] = shift + m;
    a.rstd[row] = rstd;
  }
}

template <class T>
struct GroupNormBackward {
  using A = accumulate_t<T>;
  const T *dy, *x;
  ParameterRow<T> weight;
  const A *mean, *rstd;
  T* dx;
  A *sum_dh, *sum_d;  // of each channel of each image: of dy * h and of dy
};

// As in norm_backward.cu, h is freed of its mean `delta`. A warp of the team takes one channel at a time for the sums.
template <class T, int kTeam, int kCount>
__global__ void __launch_bounds__(kTeamBlock<kTeam>, kBlocks)
    group_norm_backward_kernel(GroupNormBackward<T> a, GroupShape shape) {
  using A = accumulate_t<T>;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= shape.rows) return;
  const int64_t n = shape.size, first_channel = shape.channel(row);
  const int thread = threadIdx.x % kTeam, lane = thread % kWarpSize;
  const T *const dy = a.dy + row * n, *const x = a.x + row * n;
  A *const sum_dh = a.sum_dh + row * shape.channels, *const sum_d = a.sum_d + row * shape.channels;
  const A mean = a.mean[row], rstd = a.rstd[row];
  double sums[3] = {};  // of dy * weight * h, dy * weight and h
  for (int64_t c = thread / kWarpSize; c < shape.channels; c += kTeam / kWarpSize) {
    A dh(0), d(0), h_only(0);
    for (int64_t i = lane * kCount; i < shape.space; i += kWarpSize * kCount) {
      const auto xs = load_vector<kCount>(x + c * shape.space + i), dys = load_vector<kCount>(dy + c * shape.space + i);
#pragma unroll
      for (int k = 0; k < kCount; k++) {
        const A h = (A(xs.at[k]) - mean) * rstd, g(dys.at[k]);
        dh += g * h;
        d += g;
        h_only += h;
      }
    }
    dh = warp_sum(dh);
    d = warp_sum(d);
    h_only = warp_sum(h_only);
    if (lane > 0) continue;
    const A weight = load_parameter<T>(a.weight, first_channel + c, 1);
    sum_dh[c] = dh;
    sum_d[c] = d;
    sums[0] += double(weight * dh);
    sums[1] += double(weight * d);
    sums[2] += double(h_only);
  }
  team_sync<kTeam>();
  team_sums<kTeam>(sums);
  const double mean_of_h = sums[2] / double(n), mean_of_e = sums[1] / double(n);
  const A delta(mean_of_h), mean_e(mean_of_e), slope(sums[0] / double(n) - mean_of_h * mean_of_e);
  for (int64_t c = thread; c < shape.channels; c += kTeam) sum_dh[c] -= delta * sum_d[c];
  for (int64_t i = thread * kCount; i < n; i += kTeam * kCount) {
    const A weight = load_parameter<T>(a.weight, first_channel + shape.by_space(i), 1);
    const auto xs = load_vector<kCount>(x + i);
    auto v = load_vector<kCount>(dy + i);
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      const A h = (A(xs.at[k]) - mean) * rstd - delta;
      v.at[k] = T((A(v.at[k]) * weight - mean_e - h * slope) * rstd);
    }
    store_vector(a.dx + row * n + i, v);
  }
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::groupNorm(In x, MaybeIn weight, MaybeIn bias, Out y, Out mean, Out rstd, double groups, double eps) {
  check_output(x, y);
  const GroupShape shape(x, groups);
  if (shape.rows == 0) return;
  dispatch_float("groupNorm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    Scratch scratch;
    GroupNorm<T> a;
    a.x = dense<T>(*this, x, scratch);
    a.weight = parameter_row<T>(*this, weight, x.shape[1], scratch);
    a.bias = parameter_row<T>(*this, bias, x.shape[1], scratch);
    a.y = y.ptr<T>();
    a.mean = statistics<A>(mean, shape.rows);
    a.rstd = statistics<A>(rstd, shape.rows);
    a.eps = A(eps);
    for_vectors<T>(shape.space, is_aligned16(a.x) && is_aligned16(a.y), [&](auto count) {
      for_team(shape.size, [&](auto team) {
        constexpr int kTeam = team;
        launch(group_norm_kernel<T, kTeam, count>, blocks_for(shape.rows, kTeamsInBlock<kTeam>), kTeamBlock<kTeam>, 0,
               CudaQueue::current().stream(), a, shape);
      });
    });
  });
}

void CudaDevice::groupNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                   MaybeOut dbias, double groups) {
  check_output(x, dx);
  check_same(x, dy);
  const GroupShape shape(x, groups);
  dispatch_float("groupNormBackward", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const cudaStream_t stream = CudaQueue::current().stream();
    const int64_t channels = x.shape[1], images = x.shape[0];
    Scratch scratch;
    GroupNormBackward<T> a{};
    if (shape.rows > 0) {
      a.dy = dense<T>(*this, dy, scratch);
      a.x = dense<T>(*this, x, scratch);
      a.weight = parameter_row<T>(*this, weight, channels, scratch);
      a.mean = statistics<A>(mean, shape.rows);
      a.rstd = statistics<A>(rstd, shape.rows);
      a.dx = dx.ptr<T>();
      a.sum_dh = scratch.take<A>(size_t(images * channels));
      a.sum_d = scratch.take<A>(size_t(images * channels));
      const bool aligned = is_aligned16(a.x) && is_aligned16(a.dy) && is_aligned16(a.dx);
      for_vectors<T>(shape.space, aligned, [&](auto count) {
        for_team(shape.size, [&](auto team) {
          constexpr int kTeam = team;
          launch(group_norm_backward_kernel<T, kTeam, count>, blocks_for(shape.rows, kTeamsInBlock<kTeam>),
                 kTeamBlock<kTeam>, 0, stream, a, shape);
        });
      });
    }
    sum_parts<A>(a.sum_dh, images, channels, dweight, stream);
    sum_parts<A>(a.sum_d, images, channels, dbias, stream);
  });
}

}  // namespace sg
