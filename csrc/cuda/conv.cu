// Convolutions as matrix products with implicit columns. Which product: y = w * patches of x, dx = w^T * the outputs
// that an element of x has a part in, dw = dy * patches of x, the last in parts that are added up in order. How much is
// a part depends on the sizes alone, and so do the bits of the result.
#include "conv.h"
#include "conv_product.cuh"
#include "cuda_device.h"
#include "cuda_queue.h"

namespace sg {

namespace gpu {
namespace {

// A place in the depth of a product, or a row or column of it, as three digits.
struct Digits {
  int64_t a, b, c;
  bool inside;
};
SG_DEVICE Digits digits(const FlatIndex<3>& index, int64_t i, int64_t end) {
  if (i >= end) return {0, 0, 0, false};
  const Place<3> p = index[i];
  return {p[0], p[1], p[2], true};
}

template <class T>
struct Operands {
  using E = accumulate_t<T>;
  Images<const T> x, w, dy;
  ConvAxis h, v;  // along height and width
  int64_t group_channels, group_filters;
  FlatIndex<3> taps;     // channel of the group, tap
  FlatIndex<3> outputs;  // image, output
  Operands(const Conv& s, In x, In w, In dy)
      : x(x),
        w(w),
        dy(dy),
        h(s.h),
        v(s.w),
        group_channels(s.group_channels()),
        group_filters(s.group_filters()),
        taps({s.group_channels(), s.h.kernel, s.w.kernel}),
        outputs({s.images, s.h.output, s.w.output}) {}

  // What tap (a: channel, b, c) of output (a: image, b, c) reads.
  SG_DEVICE E patch(const T* group_of_image, const Digits& tap, int64_t row, int64_t column) const {
    const int64_t i = h.source(row, tap.b), j = v.source(column, tap.c);
    if (i < 0 || i >= h.input || j < 0 || j >= v.input) return E(0);
    return E(group_of_image[tap.a * x.strides[1] + x.in_plane(i, j)]);
  }
};

struct PointerRow {
  const void* at;  // null: there is none
};

// y[filter][image, output] = sum over (channel, tap) of w[filter][channel, tap] x[...]
template <class T>
struct ForwardProduct : Operands<T> {
  using typename Operands<T>::E;
  using Row = PointerRow;
  struct Column {
    const T* image;
    int64_t row, column;
  };
  static constexpr bool kColumnsFirst = true;
  Images<T> y;
  const T* bias;
  int64_t bias_stride;
  ForwardProduct(const Conv& s, In x, In w, MaybeIn bias, Out y)
      : Operands<T>(s, x, w, y),
        y(y),
        bias(bias ? bias->ptr<const T>() : nullptr),
        bias_stride(bias ? bias->strides[0] : 0) {}

  SG_HOST_DEVICE int64_t rows() const { return this->group_filters; }
  SG_HOST_DEVICE int64_t columns() const { return this->outputs.count; }
  SG_HOST_DEVICE int64_t depth() const { return this->taps.count; }
  SG_DEVICE Row row(int group, int64_t m) const {
    if (m >= rows()) return {nullptr};
    return {this->w.data + (group * rows() + m) * this->w.strides[0]};
  }
  SG_DEVICE Column column(int group, int64_t n) const {
    if (n >= columns()) return {nullptr, 0, 0};
    const Place<3> p = this->outputs[n];
    return {this->x.plane(p[0], group * this->group_channels), p[1], p[2]};
  }
  SG_DEVICE Digits place(int64_t k, int64_t end) const { return digits(this->taps, k, end); }
  SG_DEVICE E value(Row row, const Digits& tap) const {
    if (!row.at || !tap.inside) return E(0);
    return E(static_cast<const T*>(row.at)[tap.a * this->w.strides[1] + this->w.in_plane(tap.b, tap.c)]);
  }
  SG_DEVICE E value(const Digits& tap, const Column& at) const {
    return tap.inside && at.image ? this->patch(at.image, tap, at.row, at.column) : E(0);
  }
  SG_DEVICE void store(int, int group, int64_t m, int64_t n, E value) const {
    const int64_t filter = group * rows() + m;
    if (bias) value += E(bias[filter * bias_stride]);
    const Place<3> p = this->outputs[n];
    y[Place<4>{{p[0], filter, p[1], p[2]}}] = T(value);
  }
};

// dx[channel][image, input] = sum over (filter, tap) of w[filter][channel, tap] dy[...]
template <class T>
struct InputProduct : Operands<T> {
  using typename Operands<T>::E;
  using Row = PointerRow;
  struct Column {
    const T* image;
    int64_t row, column;  // of the input, with its padding
  };
  static constexpr bool kColumnsFirst = true;
  Images<T> dx;
  FlatIndex<3> inputs, filter_taps;
  Divisor row_stride, column_stride;
  InputProduct(const Conv& s, In dy, In w, Out dx)
      : Operands<T>(s, dx, w, dy),
        dx(dx),
        inputs({s.images, s.h.input, s.w.input}),
        filter_taps({s.group_filters(), s.h.kernel, s.w.kernel}),
        row_stride(uint32_t(s.h.stride)),
        column_stride(uint32_t(s.w.stride)) {}

  SG_HOST_DEVICE int64_t rows() const { return this->group_channels; }
  SG_HOST_DEVICE int64_t columns() const { return inputs.count; }
  SG_HOST_DEVICE int64_t depth() const { return filter_taps.count; }
  SG_DEVICE Row row(int group, int64_t m) const {
    if (m >= rows()) return {nullptr};
    return {this->w.data + group * this->group_filters * this->w.strides[0] + m * this->w.strides[1]};
  }
  SG_DEVICE Column column(int group, int64_t n) const {
    if (n >= columns()) return {nullptr, 0, 0};
    const Place<3> p = inputs[n];
    return {this->dy.plane(p[0], group * this->group_filters), p[1] + this->h.pad, p[2] + this->v.pad};
  }
  SG_DEVICE Digits place(int64_t k, int64_t end) const { return digits(filter_taps, k, end); }
  SG_DEVICE E value(Row row, const Digits& tap) const {
    if (!row.at || !tap.inside) return E(0);
    return E(static_cast<const T*>(row.at)[tap.a * this->w.strides[0] + this->w.in_plane(tap.b, tap.c)]);
  }
  SG_DEVICE E value(const Digits& tap, const Column& at) const {
    if (!tap.inside || !at.image) return E(0);
    // The output whose tap is here, if there is one.
    const int64_t i = at.row - tap.b * this->h.dilation, j = at.column - tap.c * this->v.dilation;
    if (i < 0 || j < 0) return E(0);
    const uint32_t row = row_stride.quotient(uint32_t(i)), column = column_stride.quotient(uint32_t(j));
    if (row * row_stride.d != i || column * column_stride.d != j) return E(0);
    if (row >= this->h.output || column >= this->v.output) return E(0);
    return E(at.image[tap.a * this->dy.strides[1] + this->dy.in_plane(row, column)]);
  }
  SG_DEVICE void store(int, int group, int64_t m, int64_t n, E value) const {
    const Place<3> p = inputs[n];
    dx[Place<4>{{p[0], group * rows() + m, p[1], p[2]}}] = T(value);
  }
};

// sums[part][filter][channel, tap] = sum over the part's (image, output) of dy[filter][...] x[...]
template <class T>
struct WeightProduct : Operands<T> {
  using typename Operands<T>::E;
  struct Row {
    const T* at;  // of the filter's first image
  };
  using Column = Digits;
  static constexpr bool kColumnsFirst = false;
  E* sums;
  int64_t groups;
  WeightProduct(const Conv& s, In dy, In x, In dw, E* sums) : Operands<T>(s, x, dw, dy), sums(sums), groups(s.groups) {}

  SG_HOST_DEVICE int64_t rows() const { return this->group_filters; }
  SG_HOST_DEVICE int64_t columns() const { return this->taps.count; }
  SG_HOST_DEVICE int64_t depth() const { return this->outputs.count; }
  SG_DEVICE Row row(int group, int64_t m) const {
    return {m < rows() ? this->dy.plane(0, group * rows() + m) : nullptr};
  }
  SG_DEVICE Column column(int group, int64_t n) const {
    Digits tap = digits(this->taps, n, columns());
    tap.a += group * this->group_channels;
    return tap;
  }
  SG_DEVICE Digits place(int64_t k, int64_t end) const { return digits(this->outputs, k, end); }
  SG_DEVICE E value(Row row, const Digits& output) const {
    if (!row.at || !output.inside) return E(0);
    return E(row.at[output.a * this->dy.strides[0] + this->dy.in_plane(output.b, output.c)]);
  }
  SG_DEVICE E value(const Digits& output, const Column& tap) const {
    return output.inside && tap.inside ? this->patch(this->x.plane(output.a, 0), tap, output.b, output.c) : E(0);
  }
  SG_DEVICE void store(int part, int group, int64_t m, int64_t n, E value) const {
    sums[((int64_t(part) * groups + group) * rows() + m) * columns() + n] = value;
  }
};

constexpr int kThreads = 256;

// to[i] = sum of the parts' i-th sums, in order.
template <class T, class E>
__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(Images<T> to, FlatIndex<4> index, const E* sums, int parts) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= index.count) return;
  E sum = 0;
  for (int part = 0; part < parts; part++) sum += sums[part * index.count + i];
  to[index[i]] = T(sum);
}

// dbias as an image of one pixel, so that what adds up dw's parts adds up its as well.
View as_filters(In dbias) {
  View v = dbias;
  v.ndim = 4;
  const int64_t shape[4] = {dbias.shape[0], 1, 1, 1}, strides[4] = {dbias.strides[0], 0, 0, 0};
  std::copy_n(shape, 4, v.shape);
  std::copy_n(strides, 4, v.strides);
  return v;
}

template <class T, class E>
void add_parts(const E* sums, int64_t parts, Out to, cudaStream_t stream) {
  if (to.numel() == 0) return;
  launch(add_parts_kernel<T, E>, unsigned((to.numel() + kThreads - 1) / kThreads), kThreads, 0, stream, Images<T>(to),
         image_index(to), sums, int(parts));
}

// The sum of all outputs of a filter, for some of the images.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_filters_kernel(Images<const T> dy, FlatIndex<3> outputs, int filters, int64_t images_a_part, double* sums) {
  SG_SHARED(double, warps, [kThreads / kWarpSize]);
  const int filter = blockIdx.x % filters, part = blockIdx.x / filters, lane = threadIdx.x % kWarpSize;
  const int64_t each = outputs.sizes[1] * outputs.sizes[2];
  const int64_t end = min((part + 1) * images_a_part, outputs.sizes[0]) * each;
  double sum = 0;
  for (int64_t i = part * images_a_part * each + threadIdx.x; i < end; i += kThreads) {
    const Place<3> p = outputs[i];
    sum += double(accumulate_t<T>(dy[Place<4>{{p[0], filter, p[1], p[2]}}]));
  }
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) sum += __shfl_xor_sync(kFullWarp, sum, bits);
  if (lane == 0) warps[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / kWarpSize; w++) sum += warps[w];
  sums[int64_t(part) * filters + filter] = sum;
}

template <class T>
void sum_filters(const Conv& s, In dy, Out dbias, Scratch& scratch, cudaStream_t stream) {
  constexpr int64_t kMostParts = 32;
  SG_ASSERT(dbias.ndim == 1 && dbias.shape[0] == s.filters && dbias.dtype == dy.dtype);
  if (s.filters == 0) return;
  const int64_t each = std::max<int64_t>(1, (s.images + kMostParts - 1) / kMostParts);
  const int64_t parts = std::max<int64_t>(1, (s.images + each - 1) / each);
  double* const sums = scratch.take<double>(size_t(parts * s.filters));
  const int64_t outputs[3] = {s.images, s.h.output, s.w.output};
  launch(sum_filters_kernel<T>, unsigned(s.filters * parts), kThreads, 0, stream, Images<const T>(dy),
         FlatIndex<3>(outputs), int(s.filters), each, sums);
  View to = as_filters(dbias);
  add_parts<T>(sums, parts, to, stream);
}

// Parts of the depth of dw's product: enough blocks for a large GPU, and enough depth for each.
int64_t parts_of(const Conv& s, int64_t depth) {
  constexpr int64_t kBlocks = 512, kLeastDepth = 512;
  const int64_t tiles = s.groups * product_tiles(s.group_filters()) * product_tiles(s.depth());
  return std::clamp<int64_t>(kBlocks / tiles, 1, std::max<int64_t>(1, depth / kLeastDepth));
}

}  // namespace
}  // namespace gpu

void CudaDevice::conv2d(In x, In w, MaybeIn bias, Out y, Rest geometry) {
  using namespace gpu;
  const Conv s(x, w, y, geometry);
  SG_ASSERT(!bias || (bias->ndim == 1 && bias->shape[0] == s.filters && bias->dtype == x.dtype));
  if (y.numel() == 0) return;
  const cudaStream_t stream = CudaQueue::current().stream();
  dispatch_float("conv2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (s.depthwise()) return depthwise_forward<T>(s, x, w, bias, y, stream);
    run_product(ForwardProduct<T>(s, x, w, bias, y), s.groups, 1, s.depth(), stream);
  });
}

void CudaDevice::conv2dBackwardInput(In dy, In w, Out dx, Rest geometry) {
  using namespace gpu;
  const Conv s(dx, w, dy, geometry);
  for (const ConvAxis* axis : {&s.h, &s.w}) SG_ASSERT(axis->input + 2 * axis->pad < int64_t(1) << 31);
  if (dx.numel() == 0) return;
  if (dy.numel() == 0) return fill(dx, 0);
  const cudaStream_t stream = CudaQueue::current().stream();
  dispatch_float("conv2dBackwardInput", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (s.depthwise()) return depthwise_backward_input<T>(s, dy, w, dx, stream);
    run_product(InputProduct<T>(s, dy, w, dx), s.groups, 1, s.group_filters() * s.taps(), stream);
  });
}

void CudaDevice::conv2dBackwardWeight(In dy, In x, Out dw, MaybeOut dbias, Rest geometry) {
  using namespace gpu;
  const Conv s(x, dw, dy, geometry);
  const cudaStream_t stream = CudaQueue::current().stream();
  Scratch scratch;
  dispatch_float("conv2dBackwardWeight", dw.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using E = accumulate_t<T>;
    if (dbias) sum_filters<T>(s, dy, *dbias, scratch, stream);
    if (dw.numel() == 0) return;
    if (dy.numel() == 0) return fill(dw, 0);
    if (s.depthwise()) return depthwise_backward_weight<T>(s, dy, x, dw, stream);
    const int64_t depth = s.images * s.outputs(), wanted = parts_of(s, depth);
    const int64_t each = (depth + wanted - 1) / wanted, parts = (depth + each - 1) / each;
    E* const sums = scratch.take<E>(size_t(parts * dw.numel()));
    run_product(WeightProduct<T>(s, dy, x, dw, sums), s.groups, parts, each, stream);
    add_parts<T>(sums, parts, dw, stream);
  });
}

}  // namespace sg
