// Batch norm of x [N, C, space]. With a space, the unit of work is a plane: one channel of one image, neighbours in
// memory. Without one (space 1) it is a row of all channels, and sums run down columns, a register of channels at a
// time. `kPlanes` tells the two apart where they share their code.
#include "loops.h"

// What a channel of the batch is normalised with: h = ((x - high) - low) * rstd. `low` is what the mean lost when it
// was rounded to A.
template <class A>
struct ChannelRows {
  const A *high, *low, *rstd, *weight, *bias;
};

// The value of channel c for a plane, the channels from i on for a row.
template <bool kPlanes, class V, class A, class... Rest>
KI V channel(const A* p, int64_t c, int64_t i, Rest... rest) {
  if constexpr (kPlanes) return V(p[c]);
  else return load<V>(p + i, rest...);
}

// Moments of planes or of columns: x = shift + m + deviation, and the sum of the squared deviations.
template <class T>
KT void plane_moments(const Flat& x, BatchShape shape, accumulate_t<T>* shift, accumulate_t<T>* m,
                      accumulate_t<T>* squares, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  const int64_t n = shape.space;
  for (int64_t u = begin; u < end; u++) {
    const T* const in = x.read<T>(u * n, n, Scratch::kLocalA);
    shift[u] = n > 0 ? accumulate_t<T>(in[0]) : 0;
    const V s(shift[u]);
    m[u] = sum<V>(n, [&](int64_t i, auto... rest) KL { return load<V>(in + i, rest...) - s; }) / n;
    const V mean(m[u]);
    squares[u] = sum<V>(n, [&](int64_t i, auto... rest) KL {
      const V d = (load<V>(in + i, rest...) - s) - mean;
      return d * d;
    });
  }
}

template <class T>
KT void column_moments(const T* x, BatchShape shape, accumulate_t<T>* shift, accumulate_t<T>* m,
                       accumulate_t<T>* squares, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  const int64_t channels = shape.channels;
  each<V>(channels, [&](int64_t i, auto... rest) KL {
    const V s = begin < end ? load<V>(x + begin * channels + i, rest...) : V(0);
    V total(0), square_total(0);
    for (int64_t r = begin; r < end; r++) total += load<V>(x + r * channels + i, rest...) - s;
    const V mean = total / V(end - begin);
    for (int64_t r = begin; r < end; r++) {
      const V d = (load<V>(x + r * channels + i, rest...) - s) - mean;
      square_total = fma(d, d, square_total);
    }
    store(shift + i, s, rest...);
    store(m + i, mean, rest...);
    store(squares + i, square_total, rest...);
  });
}

template <bool kPlanes, class T>
KT void batch_norm_apply(const Flat& x, ChannelRows<accumulate_t<T>> rows, T* y, BatchShape shape, int64_t begin,
                         int64_t end) {
  using V = lanes_of<T>;
  const int64_t n = kPlanes ? shape.space : shape.channels;
  for (int64_t u = begin; u < end; u++) {
    const T* const in = x.read<T>(u * n, n, Scratch::kLocalA);
    T* const out = y + u * n;
    const int64_t c = u % shape.channels;
    each<V>(n, [&](int64_t i, auto... rest) KL {
      const auto at = [&](const auto* p) KL { return channel<kPlanes, V>(p, c, i, rest...); };
      const V h = ((load<V>(in + i, rest...) - at(rows.high)) - at(rows.low)) * at(rows.rstd);
      store(out + i, fma(h, at(rows.weight), at(rows.bias)), rest...);
    });
  }
}

// Sums of dy, dy * h and h over planes or columns, one after another in `sums`, `stride` apart.
template <class T>
KT void plane_sums(const Flat& dy, const Flat& x, ChannelRows<accumulate_t<T>> rows, BatchShape shape,
                   accumulate_t<T>* sums, int64_t stride, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  const int64_t n = shape.space;
  for (int64_t u = begin; u < end; u++) {
    const T* const in = x.read<T>(u * n, n, Scratch::kLocalA);
    const T* const d = dy.read<T>(u * n, n, Scratch::kLocalB);
    const V high(rows.high[u % shape.channels]), rstd(rows.rstd[u % shape.channels]);
    V sum_d(0), sum_dh(0), sum_h(0);
    each<V>(n, [&](int64_t i, auto... rest) KL {
      const V h = keep((load<V>(in + i, rest...) - high) * rstd, rest...), g = load<V>(d + i, rest...);
      sum_d += g;
      sum_dh = fma(g, h, sum_dh);
      sum_h += h;
    });
    sums[u] = reduce_add(sum_d);
    sums[u + stride] = reduce_add(sum_dh);
    sums[u + 2 * stride] = reduce_add(sum_h);
  }
}

template <class T>
KT void column_sums(const T* dy, const T* x, ChannelRows<accumulate_t<T>> rows, BatchShape shape, accumulate_t<T>* sums,
                    int64_t stride, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  const int64_t channels = shape.channels;
  each<V>(channels, [&](int64_t i, auto... rest) KL {
    const V high = load<V>(rows.high + i, rest...), rstd = load<V>(rows.rstd + i, rest...);
    V sum_d(0), sum_dh(0), sum_h(0);
    for (int64_t r = begin; r < end; r++) {
      const V h = (load<V>(x + r * channels + i, rest...) - high) * rstd;
      const V g = load<V>(dy + r * channels + i, rest...);
      sum_d += g;
      sum_dh = fma(g, h, sum_dh);
      sum_h += h;
    }
    store(sums + i, sum_d, rest...);
    store(sums + stride + i, sum_dh, rest...);
    store(sums + 2 * stride + i, sum_h, rest...);
  });
}

// dx = (dy - a - h b) * weight * rstd with h = (x - high) * rstd - low: here `low` is the displacement of h, and a, b
// (in `bias` and `slope`) are the means of dy and dy * h; all three are 0 in evaluation.
template <bool kPlanes, class T>
KT void batch_norm_dx(const Flat& dy, const Flat& x, ChannelRows<accumulate_t<T>> rows, const accumulate_t<T>* slope,
                      T* dx, BatchShape shape, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  const int64_t n = kPlanes ? shape.space : shape.channels;
  for (int64_t u = begin; u < end; u++) {
    const T* const in = x.read<T>(u * n, n, Scratch::kLocalA);
    const T* const d = dy.read<T>(u * n, n, Scratch::kLocalB);
    T* const out = dx + u * n;
    const int64_t c = u % shape.channels;
    each<V>(n, [&](int64_t i, auto... rest) KL {
      const auto at = [&](const auto* p) KL { return channel<kPlanes, V>(p, c, i, rest...); };
      const V rstd = at(rows.rstd), h = (load<V>(in + i, rest...) - at(rows.high)) * rstd - at(rows.low);
      store(out + i, fnma(h, at(slope), load<V>(d + i, rest...) - at(rows.bias)) * (at(rows.weight) * rstd), rest...);
    });
  }
}
