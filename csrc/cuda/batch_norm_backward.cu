// Batch norm, backward. With h = (x - mean) * rstd freed of what the mean lost in rounding,
//   dx = (dy - mean(dy) - h * mean(dy * h)) * weight * rstd,   dweight = sum(dy * h),   dbias = sum(dy);
// outside training mean and deviation are constants, and the two means are left out.
#include "batch_norm.cuh"

namespace sg {

namespace gpu {
namespace {

// Sums of each part of each channel.
template <class A>
struct PartSums {
  A *d, *dh, *h;
};

template <class T, int kTeam, int kCount>
__global__ void __launch_bounds__(kTeamBlock<kTeam>)
    plane_sums_kernel(const T* dy, const T* x, const accumulate_t<T>* mean, const accumulate_t<T>* rstd, Cut cut,
                      PartSums<accumulate_t<T>> to) {
  using A = accumulate_t<T>;
  const int64_t plane = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam, n = cut.space;
  if (plane >= cut.parts * cut.channels) return;
  const int64_t first = threadIdx.x % kTeam * kCount, c = plane % cut.channels;
  const A high = mean[c], scale = rstd[c];
  double sums[3] = {};
  for (int64_t i = first; i < n; i += kTeam * kCount) {
    const auto xs = load_vector<kCount>(x + plane * n + i), dys = load_vector<kCount>(dy + plane * n + i);
    A d(0), dh(0), h_only(0);
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      const A h = (A(xs.at[k]) - high) * scale, g(dys.at[k]);
      d += g;
      dh += g * h;
      h_only += h;
    }
    sums[0] += double(d);
    sums[1] += double(dh);
    sums[2] += double(h_only);
  }
  team_sums<kTeam>(sums);
  if (first > 0) return;
  to.d[plane] = A(sums[0]);
  to.dh[plane] = A(sums[1]);
  to.h[plane] = A(sums[2]);
}

// Part blockIdx.y of the rows, a channel a thread.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    column_sums_kernel(const T* dy, const T* x, const accumulate_t<T>* mean, const accumulate_t<T>* rstd, Cut cut,
                       PartSums<accumulate_t<T>> to) {
  using A = accumulate_t<T>;
  const int64_t c = int64_t(blockIdx.x) * kColumnThreads + threadIdx.x;
  if (c >= cut.channels) return;
  const int64_t first = blockIdx.y * cut.per_part * cut.channels + c, count = cut.count(blockIdx.y);
  const A high = mean[c], scale = rstd[c];
  A d(0), dh(0), h_only(0);
  for (int64_t r = 0; r < count; r++) {
    const A h = (A(x[first + r * cut.channels]) - high) * scale, g(dy[first + r * cut.channels]);
    d += g;
    dh += g * h;
    h_only += h;
  }
  const int64_t at = blockIdx.y * cut.channels + c;
  to.d[at] = d;
  to.dh[at] = dh;
  to.h[at] = h_only;
}

// A row that may be absent.
struct Gradient {
  void* data;
  DType dtype;
  int64_t stride;
  explicit Gradient(MaybeOut v) : data(v ? v->data : nullptr), dtype(v ? v->dtype : DType::k_float32), stride(0) {
    if (!v) return;
    SG_ASSERT(v->ndim == 1);
    stride = v->strides[0];
  }
  template <class A>
  SG_DEVICE void set(int64_t c, A value) const {
    if (data) store_any(data, dtype, c * stride, Lane<A>(value));
  }
};

// What dx needs of each channel: the displacement of h and the means of dy and dy * h.
template <class A>
struct Slopes {
  A *delta, *mean_d, *mean_dh;
};

template <class A>
__global__ void __launch_bounds__(kJoinThreads)
    join_sums_kernel(Cut cut, PartSums<A> of, bool training, Slopes<A> to, Gradient dweight, Gradient dbias) {
  const Join join(cut);
  const double sum_d = join.sum([&](int64_t, int64_t at) { return double(of.d[at]); });
  const double sum_dh = join.sum([&](int64_t, int64_t at) { return double(of.dh[at]); });
  const double sum_h = join.sum([&](int64_t, int64_t at) { return double(of.h[at]); });
  if (!join.speaks()) return;
  const int64_t c = join.channel;
  const double count = double(cut.images * cut.space), delta = training ? sum_h / count : 0;
  const double exact_dh = sum_dh - delta * sum_d;
  to.delta[c] = A(delta);
  to.mean_d[c] = A(training ? sum_d / count : 0);
  to.mean_dh[c] = A(training ? exact_dh / count : 0);
  dweight.set(c, A(exact_dh));
  dbias.set(c, A(sum_d));
}

template <class T, bool kPlanes, int kCount>
__global__ void __launch_bounds__(kApplyThreads)
    batch_norm_dx_kernel(const T* dy, const T* x, T* dx, ChannelOf channel_of, int64_t count,
                         const accumulate_t<T>* mean, const accumulate_t<T>* rstd, Slopes<accumulate_t<T>> slopes,
                         ParameterRow<T> weight) {
  using A = accumulate_t<T>;
  const int64_t step = int64_t(gridDim.x) * kApplyThreads * kCount;
  for (int64_t i = (int64_t(blockIdx.x) * kApplyThreads + threadIdx.x) * kCount; i < count; i += step) {
    const auto xs = load_vector<kCount>(x + i);
    auto v = load_vector<kCount>(dy + i);
    const int64_t first = channel_of.at<kPlanes>(i);
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      const int64_t c = kPlanes ? first : first + k;
      const A scale = rstd[c], h = (A(xs.at[k]) - mean[c]) * scale - slopes.delta[c];
      const A g = A(v.at[k]) - slopes.mean_d[c] - h * slopes.mean_dh[c];
      v.at[k] = T(g * (load_parameter<T>(weight, c, 1) * scale));
    }
    store_vector(dx + i, v);
  }
}

template <class T>
void take_sums(const T* dy, const T* x, const accumulate_t<T>* mean, const accumulate_t<T>* rstd, const Cut& cut,
               PartSums<accumulate_t<T>> to, cudaStream_t stream) {
  if (!cut.planes) {
    const dim3 grid(blocks_for(cut.channels, kColumnThreads), unsigned(cut.parts));
    return launch(column_sums_kernel<T>, grid, kColumnThreads, 0, stream, dy, x, mean, rstd, cut, to);
  }
  for_vectors<T>(cut.space, is_aligned16(dy) && is_aligned16(x), [&](auto count) {
    for_team(cut.space, [&](auto team) {
      constexpr int kTeam = team;
      launch(plane_sums_kernel<T, kTeam, count>, blocks_for(cut.sums(), kTeamsInBlock<kTeam>), kTeamBlock<kTeam>, 0,
             stream, dy, x, mean, rstd, cut, to);
    });
  });
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::batchNormBackward(In dy, In x, MaybeIn weight, In mean, In rstd, Out dx, MaybeOut dweight,
                                   MaybeOut dbias, double training) {
  check_output(x, dx);
  check_same(x, dy);
  const Cut cut(x);
  if (cut.channels == 0) return;
  dispatch_float("batchNormBackward", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const cudaStream_t stream = CudaQueue::current().stream();
    Scratch scratch;
    const T *const in = dense<T>(*this, x, scratch), *const d = dense<T>(*this, dy, scratch);
    const auto w = parameter_row<T>(*this, weight, cut.channels, scratch);
    const A *const mu = statistics<A>(mean, cut.channels), *const r = statistics<A>(rstd, cut.channels);
    const size_t channels = size_t(cut.channels), n = size_t(cut.sums());
    const PartSums<A> sums{scratch.take<A>(n), scratch.take<A>(n), scratch.take<A>(n)};
    const Slopes<A> slopes{scratch.take<A>(channels), scratch.take<A>(channels), scratch.take<A>(channels)};
    if (n > 0) take_sums(d, in, mu, r, cut, sums, stream);
    launch(join_sums_kernel<A>, blocks_for(cut.channels, kJoinChannels), kJoinThreads, 0, stream, cut, sums,
           training != 0, slopes, Gradient(dweight), Gradient(dbias));
    T* const out = dx.ptr<T>();
    const bool aligned = is_aligned16(in) && is_aligned16(d) && is_aligned16(out);
    for_elements<T>(cut, aligned, [&](auto planes, auto count, dim3 grid) {
      launch(batch_norm_dx_kernel<T, planes, count>, grid, kApplyThreads, 0, stream, d, in, out, ChannelOf(cut),
             x.numel(), mu, r, slopes, w);
    });
  });
}

}  // namespace sg
