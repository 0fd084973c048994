// Depthwise convolution: a thread has an output, or an element of the input, and goes through the taps; a block has a
// tap of a filter and goes through all images.
#include "conv.h"
#include "lanes.cuh"
#include "planes.cuh"

namespace sg::gpu {

namespace {

constexpr int kThreads = 256;

struct Depthwise {
  ConvAxis h, v;     // along height and width
  int64_t multiple;  // filters a channel
  explicit Depthwise(const Conv& s) : h(s.h), v(s.w), multiple(s.group_filters()) {}
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    depthwise_forward_kernel(Depthwise s, Images<const T> x, Images<const T> w, const T* bias, int64_t bias_stride,
                             Images<T> y, FlatIndex<4> outputs) {
  using E = accumulate_t<T>;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < outputs.count; i += step) {
    const Place<4> at = outputs[i];
    const T *const plane = x.plane(at[0], at[1] / s.multiple), *const taps = w.plane(at[1], 0);
    E sum = bias ? E(bias[at[1] * bias_stride]) : E(0);
    for (int64_t a = 0; a < s.h.kernel; a++) {
      const int64_t row = s.h.source(at[2], a);
      if (row < 0 || row >= s.h.input) continue;
      for (int64_t b = 0; b < s.v.kernel; b++) {
        const int64_t column = s.v.source(at[3], b);
        if (column >= 0 && column < s.v.input)
          sum = std::fma(E(plane[x.in_plane(row, column)]), E(taps[w.in_plane(a, b)]), sum);
      }
    }
    y[at] = T(sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    depthwise_input_kernel(Depthwise s, Images<const T> dy, Images<const T> w, Images<T> dx, FlatIndex<4> inputs) {
  using E = accumulate_t<T>;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  const int row_stride = int(s.h.stride), column_stride = int(s.v.stride);
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < inputs.count; i += step) {
    const Place<4> at = inputs[i];
    E sum = 0;
    for (int64_t filter = at[1] * s.multiple; filter < (at[1] + 1) * s.multiple; filter++) {
      const T *const plane = dy.plane(at[0], filter), *const taps = w.plane(filter, 0);
      for (int64_t a = 0; a < s.h.kernel; a++) {
        const int row = int(at[2] + s.h.pad - a * s.h.dilation);  // of the outputs, times the stride
        if (row < 0 || row % row_stride != 0 || row / row_stride >= s.h.output) continue;
        for (int64_t b = 0; b < s.v.kernel; b++) {
          const int column = int(at[3] + s.v.pad - b * s.v.dilation);
          if (column < 0 || column % column_stride != 0 || column / column_stride >= s.v.output) continue;
          sum =
              std::fma(E(plane[dy.in_plane(row / row_stride, column / column_stride)]), E(taps[w.in_plane(a, b)]), sum);
        }
      }
    }
    dx[at] = T(sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    depthwise_weight_kernel(Depthwise s, Images<const T> dy, Images<const T> x, Images<T> dw, FlatIndex<4> weights,
                            FlatIndex<3> outputs) {
  using E = accumulate_t<T>;
  SG_SHARED(E, warps, [kThreads / kWarpSize]);
  const Place<4> at = weights[blockIdx.x];
  E sum = 0;
  for (int64_t i = threadIdx.x; i < outputs.count; i += kThreads) {
    const Place<3> p = outputs[i];
    const int64_t row = s.h.source(p[1], at[2]), column = s.v.source(p[2], at[3]);
    if (row < 0 || row >= s.h.input || column < 0 || column >= s.v.input) continue;
    sum = std::fma(E(dy.plane(p[0], at[0])[dy.in_plane(p[1], p[2])]),
                   E(x.plane(p[0], at[0] / s.multiple)[x.in_plane(row, column)]), sum);
  }
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) sum += __shfl_xor_sync(kFullWarp, sum, bits);
  if (threadIdx.x % kWarpSize == 0) warps[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int other = 1; other < kThreads / kWarpSize; other++) sum += warps[other];
  dw[at] = T(sum);
}

}  // namespace

template <class T>
void depthwise_forward(const Conv& s, In x, In w, MaybeIn bias, Out y, cudaStream_t stream) {
  launch(depthwise_forward_kernel<T>, grid_for(y.numel(), kThreads), kThreads, 0, stream, Depthwise(s),
         Images<const T>(x), Images<const T>(w), bias ? bias->ptr<const T>() : nullptr, bias ? bias->strides[0] : 0,
         Images<T>(y), image_index(y));
}

template <class T>
void depthwise_backward_input(const Conv& s, In dy, In w, Out dx, cudaStream_t stream) {
  launch(depthwise_input_kernel<T>, grid_for(dx.numel(), kThreads), kThreads, 0, stream, Depthwise(s),
         Images<const T>(dy), Images<const T>(w), Images<T>(dx), image_index(dx));
}

template <class T>
void depthwise_backward_weight(const Conv& s, In dy, In x, Out dw, cudaStream_t stream) {
  const int64_t outputs[3] = {s.images, s.h.output, s.w.output};
  launch(depthwise_weight_kernel<T>, unsigned(dw.numel()), kThreads, 0, stream, Depthwise(s), Images<const T>(dy),
         Images<const T>(x), Images<T>(dw), image_index(dw), FlatIndex<3>(outputs));
}

#define SG_INSTANTIATE(T)                                                              \
  template void depthwise_forward<T>(const Conv&, In, In, MaybeIn, Out, cudaStream_t); \
  template void depthwise_backward_input<T>(const Conv&, In, In, Out, cudaStream_t);   \
  template void depthwise_backward_weight<T>(const Conv&, In, In, Out, cudaStream_t);
SG_INSTANTIATE(float)
SG_INSTANTIATE(double)
SG_INSTANTIATE(float16)
SG_INSTANTIATE(bfloat16)
#undef SG_INSTANTIATE

}  // namespace sg::gpu
