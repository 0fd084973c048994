// Convolution as a matrix product over columns (im2col). They are made a tile at a time, so that working memory stays
// bounded whatever the images are: the forward pass and the weight gradient take some images, or some rows of one; the
// input gradient takes some images, or some channels of one, since neighbouring rows share elements of it.
#include "conv.h"

#include "cpu_device.h"
#include "planes.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

constexpr int64_t kTileBytes = 8 << 20;

int64_t whole(double v, int64_t least) {
  SG_ASSERT(v >= double(least) && v < 1e9);
  return int64_t(v);
}

DType sum_dtype(DType t) { return t == DType::k_float64 ? t : DType::k_float32; }

void* at(In v, int64_t elements) { return v.ptr<char>() + elements * int64_t(dtype_size(v.dtype)); }

View view4(void* data, DType dtype, const int64_t (&shape)[4], const int64_t (&strides)[4]) {
  View v;
  v.data = data;
  v.dtype = dtype;
  v.ndim = 4;
  std::copy(shape, shape + 4, v.shape);
  std::copy(strides, strides + 4, v.strides);
  return v;
}

// Rows follow each other as pixels do, so that rows by columns are one dimension.
bool flat(In v) { return v.shape[2] == 1 || v.shape[3] == 1 || v.strides[2] == v.shape[3] * v.strides[3]; }

// A tile of images with flat planes as matrices [images, groups, channels, pixels].
View matrices(In v, int64_t groups, const ConvTile& t) {
  SG_ASSERT(flat(v));
  const int64_t channels = v.shape[1] / groups, pixel = v.shape[3] == 1 ? v.strides[2] : v.strides[3];
  return view4(at(v, t.image * v.strides[0] + t.row * v.strides[2]), v.dtype,
               {t.images, groups, channels, t.rows * v.shape[3]},
               {v.strides[0], channels * v.strides[1], v.strides[1], pixel});
}

// The weights as [1, groups, filters of a group, depth], copied if a filter's elements are not neighbours.
View filter_matrices(CpuDevice& device, const Conv& s, In w) {
  View weights = w;
  if (!w.contiguous()) {
    weights.data = scratch_bytes(Scratch::kOuterB, size_t(w.numel()) * dtype_size(w.dtype));
    for (int64_t d = 3, stride = 1; d >= 0; d--) {
      weights.strides[d] = stride;
      stride *= w.shape[d];
    }
    device.copy(w, weights);
  }
  return view4(weights.data, w.dtype, {1, s.groups, s.group_filters(), s.depth()},
               {0, s.group_filters() * s.depth(), s.depth(), 1});
}

View transposed(View v) {
  std::swap(v.shape[2], v.shape[3]);
  std::swap(v.strides[2], v.strides[3]);
  return v;
}

// Calls f(tile) for all images; `row_bytes` is the working memory of one row of one image.
template <class F>
void each_tile(const Conv& s, int64_t row_bytes, const F& f) {
  const int64_t fit = std::max<int64_t>(1, kTileBytes / std::max<int64_t>(1, row_bytes));
  const int64_t rows = std::min(fit, s.h.output), images = std::max<int64_t>(1, fit / std::max<int64_t>(1, s.h.output));
  for (int64_t n = 0; n < s.images; n += images) {
    for (int64_t row = 0; row < s.h.output; row += rows) {
      f(ConvTile{n, std::min(images, s.images - n), row, std::min(rows, s.h.output - row)});
    }
  }
}

// One task a channel: its sum has one order.
void sum_channels(const Conv& s, In dy, Out dbias) {
  SG_ASSERT(dbias.ndim == 1 && dbias.shape[0] == s.filters && dbias.dtype == dy.dtype);
  dispatch_float("conv2dBackwardWeight", dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t work = std::max<int64_t>(1, s.images * s.pixels());
    parallel_for(s.filters, std::max<int64_t>(1, 16384 / work), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; c++) {
        double sum = 0;
        for (int64_t n = 0; n < s.images; n++) {
          const T* row = plane<const T>(dy, n * s.filters + c);
          for (int64_t h = 0; h < s.h.output; h++, row += dy.strides[2]) {
            for (int64_t w = 0; w < s.w.output; w++) sum += double(accumulate_t<T>(row[w * dy.strides[3]]));
          }
        }
        dbias.ptr<T>()[c * dbias.strides[0]] = T(accumulate_t<T>(sum));
      }
    });
  });
}

constexpr MaybeIn kNoIn{nullptr};
constexpr MaybeOut kNoOut{nullptr};

}  // namespace

Conv::Conv(In x, In weight, In y, Rest geometry) {
  SG_ASSERT(x.ndim == 4 && weight.ndim == 4 && y.ndim == 4 && geometry.count == 7);
  SG_ASSERT(x.dtype == weight.dtype && x.dtype == y.dtype);
  images = x.shape[0];
  channels = x.shape[1];
  filters = weight.shape[0];
  groups = whole(geometry[6], 1);
  SG_ASSERT(y.shape[0] == images && y.shape[1] == filters);
  SG_ASSERT(filters % groups == 0 && channels == groups * weight.shape[1]);
  for (int a = 0; a < 2; a++) {
    ConvAxis& axis = a == 0 ? h : w;
    axis.input = x.shape[2 + a];
    axis.kernel = weight.shape[2 + a];
    axis.output = y.shape[2 + a];
    axis.stride = whole(geometry[a], 1);
    axis.pad = whole(geometry[2 + a], 0);
    axis.dilation = whole(geometry[4 + a], 1);
    const int64_t room = axis.input + 2 * axis.pad - axis.dilation * (axis.kernel - 1) - 1;
    SG_ASSERT(axis.kernel > 0 && axis.output == (room < 0 ? 0 : room / axis.stride + 1));
  }
  // Working memory is a part of these, so its size cannot overflow.
  const double products = double(images) * double(channels) * double(taps()) * double(pixels());
  const double padded = double(h.input + 2 * h.pad) * double(w.input + 2 * w.pad);
  SG_ASSERT(products <= 0x1p53 && padded <= 0x1p53);
}

void CpuDevice::conv2d(In x, In w, MaybeIn bias, Out y, Rest geometry) {
  const Conv s(x, w, y, geometry);
  SG_ASSERT(!bias || (bias->ndim == 1 && bias->shape[0] == s.filters && bias->dtype == x.dtype));
  if (y.numel() == 0) return;
  if (s.depthwise()) return depthwise_forward(s, x, w, bias, y);
  const View weights = filter_matrices(*this, s, w);
  const bool direct = s.pointwise() && flat(x);
  const int64_t row_bytes = s.channels * s.taps() * s.w.output * int64_t(dtype_size(x.dtype));
  each_tile(s, direct ? 0 : row_bytes, [&](const ConvTile& t) {
    const int64_t pixels = t.rows * s.w.output, image = s.groups * s.depth() * pixels;
    View columns;
    if (direct) {
      columns = matrices(x, s.groups, t);
    } else {
      void* const memory = scratch_bytes(Scratch::kOuterA, size_t(t.images * t.rows * row_bytes));
      im2col(s, x, t, memory, image, pixels);
      columns = view4(memory, x.dtype, {t.images, s.groups, s.depth(), pixels}, {image, s.depth() * pixels, pixels, 1});
    }
    View a = weights, c = matrices(y, s.groups, t);
    a.shape[0] = t.images;
    if (bias) {
      // y starts as the bias, which its dtype holds exactly, and the product is added before the one rounding.
      const int64_t stride = bias->strides[0];
      copy(view4(bias->data, bias->dtype, {t.images, s.groups, s.group_filters(), pixels},
                 {0, s.group_filters() * stride, stride, 0}),
           c);
    }
    matmul(a, columns, kNoIn, kNoIn, c, kNoOut, kNoOut, double(bias ? Epilogue::kAccumulate : Epilogue::kNone));
  });
}

void CpuDevice::conv2dBackwardInput(In dy, In w, Out dx, Rest geometry) {
  const Conv s(dx, w, dy, geometry);
  if (dy.numel() == 0) return fill(dx, 0);
  if (s.depthwise()) return depthwise_backward_input(s, dy, w, dx);
  const View weights = filter_matrices(*this, s, w);
  const bool direct = s.pointwise() && flat(dx);
  const DType sums = sum_dtype(dx.dtype);
  const int64_t channel_bytes = s.groups * s.taps() * s.pixels() * int64_t(dtype_size(sums));
  const int64_t fit = std::max<int64_t>(1, kTileBytes / std::max<int64_t>(1, channel_bytes));
  const int64_t channels = direct ? s.group_channels() : std::min(fit, s.group_channels());
  const int64_t images = direct ? s.images : std::max<int64_t>(1, fit / std::max<int64_t>(1, s.group_channels()));
  for (int64_t n = 0; n < s.images; n += images) {
    const ConvTile t{n, std::min(images, s.images - n), 0, s.h.output};
    View b;
    if (flat(dy)) {
      b = matrices(dy, s.groups, t);
    } else {
      View part = dy;
      part.data = at(dy, n * dy.strides[0]);
      part.shape[0] = t.images;
      void* const memory = scratch_bytes(Scratch::kOuterC, size_t(part.numel()) * dtype_size(dy.dtype));
      View neighbours = view4(memory, dy.dtype, {t.images, s.filters, s.h.output, s.w.output},
                              {s.filters * s.pixels(), s.pixels(), s.w.output, 1});
      copy(part, neighbours);
      b = matrices(neighbours, s.groups, {0, t.images, 0, s.h.output});
    }
    for (int64_t channel = 0; channel < s.group_channels(); channel += channels) {
      const int64_t count = std::min(channels, s.group_channels() - channel), rows = count * s.taps();
      View a = transposed(weights), c;
      a.shape[0] = t.images;
      a.shape[2] = rows;
      a.data = at(a, channel * s.taps());
      if (direct) {
        c = matrices(dx, s.groups, t);
      } else {
        const int64_t group = rows * s.pixels();
        void* const memory = scratch_bytes(Scratch::kOuterA, size_t(t.images * count * channel_bytes));
        c = view4(memory, sums, {t.images, s.groups, rows, s.pixels()}, {s.groups * group, group, s.pixels(), 1});
      }
      matmul(a, b, kNoIn, kNoIn, c, kNoOut, kNoOut, double(Epilogue::kNone));
      if (!direct) col2im(s, c.data, n, t.images, channel, count, dx);
    }
  }
}

void CpuDevice::conv2dBackwardWeight(In dy, In x, Out dw, MaybeOut dbias, Rest geometry) {
  const Conv s(x, dw, dy, geometry);
  if (dbias) sum_channels(s, dy, *dbias);
  if (dy.numel() == 0) return fill(dw, 0);
  if (s.depthwise()) return depthwise_backward_weight(s, dy, x, dw);

  // Tiles are added up in the accumulation type, in order; the tiling depends on the shapes only.
  const DType sum = sum_dtype(dw.dtype);
  const bool in_place = dw.dtype == sum && dw.contiguous();
  const size_t bytes = size_t(dw.numel()) * dtype_size(sum);
  View sums = view4(in_place ? dw.data : scratch_bytes(Scratch::kOuterB, bytes), sum,
                    {1, s.groups, s.group_filters(), s.depth()}, {0, s.group_filters() * s.depth(), s.depth(), 1});
  Epilogue epilogue = Epilogue::kNone;
  const int64_t row_bytes = s.channels * s.taps() * s.w.output * int64_t(dtype_size(x.dtype));
  each_tile(s, row_bytes, [&](const ConvTile& t) {
    // The pixels of all images of the tile are one dimension of the product.
    const int64_t image = t.rows * s.w.output, pixels = t.images * image;
    void* const memory = scratch_bytes(Scratch::kOuterA, size_t(t.images * t.rows * row_bytes));
    im2col(s, x, t, memory, image, pixels);
    const View columns = view4(memory, x.dtype, {1, s.groups, pixels, s.depth()}, {0, s.depth() * pixels, 1, pixels});

    View a;
    if (t.images == 1 && flat(dy)) {
      a = matrices(dy, s.groups, t);
    } else {
      View part = dy;
      part.data = at(dy, t.image * dy.strides[0] + t.row * dy.strides[2]);
      part.shape[0] = t.images;
      part.shape[2] = t.rows;
      void* const memory_dy = scratch_bytes(Scratch::kOuterC, size_t(part.numel()) * dtype_size(dy.dtype));
      View neighbours =
          view4(memory_dy, dy.dtype, {t.images, s.filters, t.rows, s.w.output}, {image, pixels, s.w.output, 1});
      copy(part, neighbours);
      a = view4(memory_dy, dy.dtype, {1, s.groups, s.group_filters(), pixels},
                {0, s.group_filters() * pixels, pixels, 1});
    }
    matmul(a, columns, kNoIn, kNoIn, sums, kNoOut, kNoOut, double(epilogue));
    epilogue = Epilogue::kAccumulate;
  });
  if (in_place) return;
  copy(
      view4(sums.data, sum, {dw.shape[0], dw.shape[1], dw.shape[2], dw.shape[3]}, {s.depth(), s.taps(), s.w.kernel, 1}),
      dw);
}

}  // namespace sg
