// im2col and its gradient, for the outputs of a tile: the rest of a row of outputs, whole rows, the start of a row.
#include <cstring>

#include "conv.h"
#include "planes.h"

namespace sg {

namespace {

// f(first, last, row of outputs) for the stretches of outputs [begin, end) that lie in one row
template <class F>
void each_stretch(int64_t begin, int64_t end, int64_t width, const F& f) {
  for (int64_t at = begin; at < end;) {
    const int64_t row = at / width, last = std::min(end, (row + 1) * width);
    f(at - row * width, last - row * width, row);
    at = last;
  }
}

template <class T>
void plane_to_columns(const Conv& s, const T* from, int64_t row_stride, int64_t step, const ConvTile& t, T* columns,
                      int64_t row) {
  const int64_t jump = s.w.stride * step;
  for (int64_t kh = 0; kh < s.h.kernel; kh++) {
    for (int64_t kw = 0; kw < s.w.kernel; kw++, columns += row) {
      const int64_t inside = s.w.first(kw), outside = s.w.last(kw);
      T* out = columns;
      each_stretch(t.begin, t.end, s.w.output, [&](int64_t begin, int64_t end, int64_t oh) {
        const int64_t h = s.h.source(oh, kh);
        const int64_t first = std::clamp(inside, begin, end), last = std::clamp(outside, first, end);
        if (h < 0 || h >= s.h.input || first == last) {
          out = std::fill_n(out, end - begin, T(0));
          return;
        }
        out = std::fill_n(out, first - begin, T(0));
        const T* const in = from + h * row_stride + s.w.source(first, kw) * step;
        if (jump == 1) std::memcpy(out, in, size_t(last - first) * sizeof(T));
        else
          for (int64_t i = 0; i < last - first; i++) out[i] = in[i * jump];
        out = std::fill_n(out + (last - first), end - last, T(0));
      });
    }
  }
}

}  // namespace

void im2col(const Conv& s, In x, const ConvTile& t, int64_t channel, int64_t channels, void* columns, int64_t row) {
  dispatch_bytes(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t c = 0; c < channels; c++) {
      for (int64_t i = 0; i < t.images; i++) {
        T* const to = static_cast<T*>(columns) + c * s.taps() * row + i * (t.end - t.begin);
        plane_to_columns(s, plane<const T>(x, (t.image + i) * s.channels + channel + c), x.strides[2], x.strides[3], t,
                         to, row);
      }
    }
  });
}

template <class A>
void col2im(const Conv& s, const A* columns, int64_t row, const ConvTile& t, int64_t channels, A* sums) {
  for (int64_t i = 0; i < t.images; i++) {
    for (int64_t c = 0; c < channels; c++, sums += s.inputs()) {
      const A* from = columns + c * s.taps() * row + i * (t.end - t.begin);
      for (int64_t kh = 0; kh < s.h.kernel; kh++) {
        for (int64_t kw = 0; kw < s.w.kernel; kw++, from += row) {
          const int64_t inside = s.w.first(kw), outside = s.w.last(kw);
          const A* in = from;
          each_stretch(t.begin, t.end, s.w.output, [&](int64_t begin, int64_t end, int64_t oh) {
            const int64_t h = s.h.source(oh, kh), first = std::clamp(inside, begin, end);
            const int64_t count = h < 0 || h >= s.h.input ? 0 : std::clamp(outside, first, end) - first;
            A* const to = sums + h * s.w.input + s.w.source(first, kw);
            const A* const out = in + (first - begin);
            if (s.w.stride == 1)
              for (int64_t j = 0; j < count; j++) to[j] += out[j];
            else
              for (int64_t j = 0; j < count; j++) to[j * s.w.stride] += out[j];
            in += end - begin;
          });
        }
      }
    }
  }
}

template void col2im(const Conv&, const float*, int64_t, const ConvTile&, int64_t, float*);
template void col2im(const Conv&, const double*, int64_t, const ConvTile&, int64_t, double*);

}  // namespace sg
