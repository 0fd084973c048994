// Batch norm. Moments are taken of parts (the planes of a channel, or ranges of rows where there is no space) and
// joined for each channel in double, in a fixed order: exact moments of small pieces lose nothing when the mean is
// large against the deviation.
#include "batch_norm.cuh"
#include "parameter_rows.cuh"

namespace sg {

namespace gpu {
namespace {

// Moments of each part of each channel: x = shift + m + deviation, and the sum of the squared deviations.
template <class A>
struct Moments {
  A *shift, *m, *squares;
};

template <class T, int kTeam, int kCount>
__global__ void __launch_bounds__(kTeamBlock<kTeam>)
    plane_moments_kernel(const T* all, Cut cut, Moments<accumulate_t<T>> to) {
  const int64_t plane = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam, n = cut.space;
  if (plane >= cut.parts * cut.channels) return;
  const int64_t first = threadIdx.x % kTeam * kCount;
  const T* const x = all + plane * n;
  const auto row = row_moments<kTeam, kCount>(x, n, first);
  if (first > 0) return;
  to.shift[plane] = row.shift;
  to.m[plane] = row.m;
  to.squares[plane] = accumulate_t<T>(row.squares);
}

// Part blockIdx.y of the rows, a channel a thread.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    column_moments_kernel(const T* x, Cut cut, Moments<accumulate_t<T>> to) {
  using A = accumulate_t<T>;
  const int64_t c = int64_t(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (c >= cut.channels) return;
  const int64_t begin = blockIdx.y * cut.per_part, count = cut.count(blockIdx.y);
  const T* const column = x + begin * cut.channels + c;
  const A shift = count > 0 ? A(column[0]) : A(0);
  A total(0), squares(0);
  for (int64_t r = 0; r < count; r++) total += A(column[r * cut.channels]) - shift;
  const A m = total / A(count);
  for (int64_t r = 0; r < count; r++) {
    const A d = (A(column[r * cut.channels]) - shift) - m;
    squares += d * d;
  }
  const int64_t at = blockIdx.y * cut.channels + c;
  to.shift[at] = shift;
  to.m[at] = m;
  to.squares[at] = squares;
}

struct Running {
  void* data;  // null: absent
  DType dtype;
  int64_t stride;
  explicit Running(MaybeIn v) : data(v ? v->data : nullptr), dtype(v ? v->dtype : DType::k_float32), stride(0) {
    if (!v) return;
    SG_ASSERT(v->ndim == 1);
    stride = v->strides[0];
  }
  SG_DEVICE double get(int64_t c) const { return load_any<Lane<double>>(data, dtype, c * stride).v; }
  template <class A>
  SG_DEVICE void blend(int64_t c, double momentum, A value) const {
    if (!data) return;
    const A next((1 - momentum) * get(c) + momentum * double(value));
    store_any(data, dtype, c * stride, Lane<A>(next));
  }
};

// Mean and deviation of each channel from the moments of its parts (Chan et al. 1983).
template <class A>
__global__ void __launch_bounds__(kJoinThreads) join_moments_kernel(Cut cut, Moments<A> of, double eps, double momentum,
                                                                    Running mean, Running variance, ChannelRows<A> to) {
  const Join join(cut);
  const double count = double(cut.images * cut.space);
  const double exact = join.sum([&](int64_t part, int64_t at) {
    return double(cut.count(part)) * (double(of.shift[at]) + double(of.m[at]));
  }) / count;
  const double deviations = join.sum([&](int64_t part, int64_t at) {
    const double d = double(of.shift[at]) + double(of.m[at]) - exact;
    return double(of.squares[at]) + double(cut.count(part)) * d * d;
  });
  if (!join.speaks()) return;
  const int64_t c = join.channel;
  const A high(exact);
  to.high[c] = high;
  to.low[c] = A(exact - double(high));
  to.rstd[c] = A(1 / std::sqrt(deviations / count + eps));
  mean.blend(c, momentum, high);
  variance.blend(c, momentum, A(deviations / (count - 1)));
}

template <class A>
__global__ void __launch_bounds__(kColumnThreads)
    use_running_kernel(int64_t channels, double eps, Running mean, Running variance, ChannelRows<A> to) {
  const int64_t c = int64_t(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (c >= channels) return;
  to.high[c] = A(mean.get(c));
  to.low[c] = 0;
  to.rstd[c] = A(1 / std::sqrt(double(A(variance.get(c))) + eps));
}

template <class T, bool kPlanes, int kCount>
__global__ void __launch_bounds__(kApplyThreads)
    batch_norm_apply_kernel(const T* x, T* y, ChannelOf channel_of, int64_t count, ChannelRows<accumulate_t<T>> rows,
                            ParameterRow<T> weight, ParameterRow<T> bias) {
  using A = accumulate_t<T>;
  const int64_t step = int64_t(gridDim.x) * kApplyThreads * kCount;
  for (int64_t i = (int64_t(blockIdx.x) * kApplyThreads + threadIdx.x) * kCount; i < count; i += step) {
    auto v = load_vector<kCount>(x + i);
    const int64_t first = channel_of.at<kPlanes>(i);
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      const int64_t c = kPlanes ? first : first + k;
      const A h = ((A(v.at[k]) - rows.high[c]) - rows.low[c]) * rows.rstd[c];
      v.at[k] = T(h * load_parameter<T>(weight, c, 1) + load_parameter<T>(bias, c, 0));
    }
    store_vector(y + i, v);
  }
}

template <class T>
void take_moments(const T* x, const Cut& cut, Moments<accumulate_t<T>> to, cudaStream_t stream) {
  if (!cut.planes) {
    const dim3 grid(blocks_for(cut.channels, kColumnThreads), unsigned(cut.parts));
    return launch(column_moments_kernel<T>, grid, kColumnThreads, 0, stream, x, cut, to);
  }
  for_vectors<T>(cut.space, is_aligned16(x), [&](auto count) {
    for_team(cut.space, [&](auto team) {
      constexpr int kTeam = team;
      launch(plane_moments_kernel<T, kTeam, count>, blocks_for(cut.sums(), kTeamsInBlock<kTeam>), kTeamBlock<kTeam>, 0,
             stream, x, cut, to);
    });
  });
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::batchNorm(In x, MaybeIn weight, MaybeIn bias, MaybeIn runningMean, MaybeIn runningVar, Out y, Out mean,
                           Out rstd, double training, double momentum, double eps) {
  check_output(x, y);
  SG_ASSERT(training || (runningMean && runningVar));
  const Cut cut(x);
  if (cut.channels == 0) return;
  dispatch_float("batchNorm", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const cudaStream_t stream = CudaQueue::current().stream();
    Scratch scratch;
    const T* const in = dense<T>(*this, x, scratch);
    const auto w = parameter_row<T>(*this, weight, cut.channels, scratch);
    const auto b = parameter_row<T>(*this, bias, cut.channels, scratch);
    const ChannelRows<A> rows{statistics<A>(mean, cut.channels), scratch.take<A>(size_t(cut.channels)),
                              statistics<A>(rstd, cut.channels)};
    const Running running_mean(runningMean), running_variance(runningVar);
    if (training) {
      const size_t n = size_t(cut.sums());
      const Moments<A> moments{scratch.take<A>(n), scratch.take<A>(n), scratch.take<A>(n)};
      if (n > 0) take_moments(in, cut, moments, stream);
      launch(join_moments_kernel<A>, blocks_for(cut.channels, kJoinChannels), kJoinThreads, 0, stream, cut, moments,
             eps, momentum, running_mean, running_variance, rows);
    } else {
      launch(use_running_kernel<A>, blocks_for(cut.channels, kColumnThreads), kColumnThreads, 0, stream, cut.channels,
             eps, running_mean, running_variance, rows);
    }
    T* const out = y.ptr<T>();
    for_elements<T>(cut, is_aligned16(in) && is_aligned16(out), [&](auto planes, auto count, dim3 grid) {
      launch(batch_norm_apply_kernel<T, planes, count>, grid, kApplyThreads, 0, stream, in, out, ChannelOf(cut),
             x.numel(), rows, w, b);
    });
  });
}

}  // namespace sg
