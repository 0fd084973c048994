// im2col and its gradient. One task is one plane of one image, so every element has one writer and its sum one order.
#include <cstring>

#include "conv.h"
#include "planes.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

// f(index) for [0, n) in parallel; `work` elements each
template <class F>
void each_plane(int64_t n, int64_t work, const F& f) {
  parallel_for(n, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, work)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) f(i);
  });
}

// All taps of one plane, each `to_stride` elements after the one before.
template <class T>
void plane_to_columns(const Conv& s, const T* from, int64_t row_stride, int64_t step, int64_t row, int64_t rows, T* to,
                      int64_t to_stride) {
  const int64_t width = s.w.output;
  step *= s.w.stride;
  for (int64_t kh = 0; kh < s.h.kernel; kh++) {
    for (int64_t kw = 0; kw < s.w.kernel; kw++, to += to_stride) {
      const int64_t first = s.w.first(kw), last = s.w.last(kw), count = last - first;
      const int64_t source = s.w.source(first, kw) * (step / s.w.stride);
      for (int64_t oh = 0; oh < rows; oh++) {
        T* const out = to + oh * width;
        const int64_t h = s.h.source(row + oh, kh);
        if (count == 0 || h < 0 || h >= s.h.input) {
          std::fill(out, out + width, T(0));
          continue;
        }
        const T* const in = from + h * row_stride + source;
        std::fill(out, out + first, T(0));
        if (step == 1) std::memcpy(out + first, in, size_t(count) * sizeof(T));
        else
          for (int64_t i = 0; i < count; i++) out[first + i] = in[i * step];
        std::fill(out + last, out + width, T(0));
      }
    }
  }
}

template <class A>
void columns_to_plane(const Conv& s, const A* from, A* sums) {
  for (int64_t kh = 0; kh < s.h.kernel; kh++) {
    for (int64_t kw = 0; kw < s.w.kernel; kw++, from += s.pixels()) {
      const int64_t first = s.w.first(kw), last = s.w.last(kw);
      for (int64_t oh = s.h.first(kh); oh < s.h.last(kh); oh++) {
        const A* const in = from + oh * s.w.output;
        A* const out = sums + s.h.source(oh, kh) * s.w.input + s.w.source(0, kw);
        if (s.w.stride == 1)
          for (int64_t i = first; i < last; i++) out[i] += in[i];
        else
          for (int64_t i = first; i < last; i++) out[i * s.w.stride] += in[i];
      }
    }
  }
}

}  // namespace

void im2col(const Conv& s, In x, const ConvTile& tile, void* columns, int64_t image_stride, int64_t row_stride) {
  dispatch_bytes(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    each_plane(tile.images * s.channels, s.taps() * tile.rows * s.w.output, [&](int64_t p) {
      T* const to = static_cast<T*>(columns) + p / s.channels * image_stride + p % s.channels * s.taps() * row_stride;
      plane_to_columns(s, plane<const T>(x, tile.image * s.channels + p), x.strides[2], x.strides[3], tile.row,
                       tile.rows, to, row_stride);
    });
  });
}

void col2im(const Conv& s, const void* columns, int64_t image, int64_t images, int64_t channel, int64_t channels,
            Out dx) {
  dispatch_float("conv2dBackwardInput", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t size = s.h.input * s.w.input, work = s.taps() * s.pixels();
    each_plane(images * s.groups * channels, work, [&](int64_t p) {
      A* const sums = scratch<A>(Scratch::kLocalA, size_t(size));
      std::fill(sums, sums + size, A(0));
      columns_to_plane(s, static_cast<const A*>(columns) + p * work, sums);
      const int64_t matrix = p / channels;  // image by group
      const int64_t to = matrix % s.groups * s.group_channels() + channel + p % channels;
      store_plane<T>(sums, s.w.input, dx, (image + matrix / s.groups) * s.channels + to);
    });
  });
}

}  // namespace sg
