// Layer norm, RMS norm and group norm. Statistics are taken in two passes over a row that is in L1 by then, shifted by
// its first element; y is computed from (x - shift) - m, never from the rounded mean: with mean 1e4 and deviation 1
// float32 keeps six digits. The backward pass has only the rounded mean, which displaces every normalised value h of a
// row by the same delta; the h of a row average to 0, so delta is their mean and is taken out.
#include "loops.h"

template <class A>
struct RowMoments {
  A shift, m, rstd;  // mean = shift + m
};

template <bool kCentered, class T>
KT RowMoments<accumulate_t<T>> row_moments(const T* x, int64_t n, accumulate_t<T> eps) {
  using V = lanes_of<T>;
  using A = accumulate_t<T>;
  A shift = 0, m = 0;
  if (kCentered) {
    shift = n > 0 ? A(x[0]) : A(0);
    m = sum<V>(n, [&](int64_t i, auto... rest) KL { return load<V>(x + i, rest...) - V(shift); }) / A(n);
  }
  const A squares = sum<V>(n, [&](int64_t i, auto... rest) KL {
    const V d = (load<V>(x + i, rest...) - V(shift)) - V(m);
    return d * d;
  });
  return {shift, m, 1 / std::sqrt(squares / A(n) + eps)};
}

// Layer norm (kCentered) and RMS norm, which has no mean and no bias.
template <bool kCentered, class T>
KT void norm_rows(const Flat& x, const accumulate_t<T>* weight, const accumulate_t<T>* bias, T* y,
                  accumulate_t<T>* mean, accumulate_t<T>* rstd, int64_t n, accumulate_t<T> eps, int64_t begin,
                  int64_t end) {
  using V = lanes_of<T>;
  for (int64_t r = begin; r < end; r++) {
    const T* const in = x.read<T>(r * n, n, Scratch::kLocalA);
    T* const out = y + r * n;
    const auto row = row_moments<kCentered>(in, n, eps);
    if (kCentered) mean[r] = row.shift + row.m;
    rstd[r] = row.rstd;
    const V shift(row.shift), m(row.m), k(row.rstd);
    each<V>(n, [&](int64_t i, auto... rest) KL {
      const V v = load<V>(in + i, rest...), g = load<V>(weight + i, rest...);
      if constexpr (kCentered) store(out + i, fma(((v - shift) - m) * k, g, load<V>(bias + i, rest...)), rest...);
      else store(out + i, v * k * g, rest...);
    });
  }
}

// dx of the rows; `sums` receives what they add to dweight [n] and, if centered, then to dbias [n].
template <bool kCentered, class T>
KT void norm_backward_rows(const Flat& dy, const Flat& x, const accumulate_t<T>* weight, const accumulate_t<T>* mean,
                           const accumulate_t<T>* rstd, T* dx, accumulate_t<T>* sums, int64_t n, int64_t begin,
                           int64_t end) {
  using V = lanes_of<T>;
  using A = accumulate_t<T>;
  A *const dweight = sums, *const dbias = sums + n;
  std::fill(sums, sums + (kCentered ? 2 : 1) * n, A(0));
  for (int64_t r = begin; r < end; r++) {
    const T* const in = x.read<T>(r * n, n, Scratch::kLocalA);
    const T* const d = dy.read<T>(r * n, n, Scratch::kLocalB);
    T* const out = dx + r * n;
    const V mu(kCentered ? mean[r] : A(0)), k(rstd[r]);
    V sum_e(0), sum_eh(0), sum_h(0);
    each<V>(n, [&](int64_t i, auto... rest) KL {
      const V h = keep((load<V>(in + i, rest...) - mu) * k, rest...);
      const V e = load<V>(d + i, rest...) * load<V>(weight + i, rest...);
      sum_eh = fma(e, h, sum_eh);
      if constexpr (kCentered) {
        sum_e += e;
        sum_h += h;
      }
    });
    const A delta = reduce_add(sum_h) / A(n), mean_e = reduce_add(sum_e) / A(n);
    const V vdelta(delta), a(mean_e), b(reduce_add(sum_eh) / A(n) - delta * mean_e);
    each<V>(n, [&](int64_t i, auto... rest) KL {
      V h = (load<V>(in + i, rest...) - mu) * k;
      if constexpr (kCentered) h -= vdelta;
      const V g = load<V>(d + i, rest...), e = g * load<V>(weight + i, rest...);
      store(dweight + i, fma(g, h, load<V>(dweight + i, rest...)), rest...);
      if constexpr (kCentered) store(dbias + i, load<V>(dbias + i, rest...) + g, rest...);
      store(out + i, fnma(h, b, e - a) * k, rest...);
    });
  }
}

// to[i] = the sum over the parts of from[part * stride + i], in order
template <class A>
KT void sum_parts(const A* from, int64_t parts, int64_t stride, int64_t n, A* to) {
  using V = lanes_of<A>;
  each<V>(n, [&](int64_t i, auto... rest) KL {
    V total(0);
    for (int64_t p = 0; p < parts; p++) total += load<V>(from + p * stride + i, rest...);
    store(to + i, total, rest...);
  });
}

// Rows are the groups of x [N, C, space]: `channels` channels of `space` elements each, `groups` of them in an image.
template <class T>
KT void group_norm_rows(const Flat& x, const accumulate_t<T>* weight, const accumulate_t<T>* bias, T* y,
                        accumulate_t<T>* mean, accumulate_t<T>* rstd, GroupShape shape, accumulate_t<T> eps,
                        int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  const int64_t n = shape.channels * shape.space;
  for (int64_t r = begin; r < end; r++) {
    const T* in = x.read<T>(r * n, n, Scratch::kLocalA);
    T* out = y + r * n;
    const auto row = row_moments<true>(in, n, eps);
    mean[r] = row.shift + row.m;
    rstd[r] = row.rstd;
    const V shift(row.shift), m(row.m);
    for (int64_t c = r % shape.groups * shape.channels, k = 0; k < shape.channels; k++, c++) {
      const V g(row.rstd * weight[c]), b(bias[c]);
      each<V>(shape.space, [&](int64_t i, auto... rest)
                               KL { store(out + i, fma((load<V>(in + i, rest...) - shift) - m, g, b), rest...); });
      in += shape.space;
      out += shape.space;
    }
  }
}

// `sums` receives, for each channel of each image, the sum of dy * h and, after all of them, the sum of dy.
template <class T>
KT void group_norm_backward_rows(const Flat& dy, const Flat& x, const accumulate_t<T>* weight,
                                 const accumulate_t<T>* mean, const accumulate_t<T>* rstd, T* dx, GroupShape shape,
                                 accumulate_t<T>* sum_dh, accumulate_t<T>* sum_d, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  using A = accumulate_t<T>;
  const int64_t n = shape.channels * shape.space;
  for (int64_t r = begin; r < end; r++) {
    const T* in = x.read<T>(r * n, n, Scratch::kLocalA);
    const T* d = dy.read<T>(r * n, n, Scratch::kLocalB);
    T* out = dx + r * n;
    A *const dh = sum_dh + r * shape.channels, *const ds = sum_d + r * shape.channels;
    const A* const w = weight + r % shape.groups * shape.channels;
    const V mu(mean[r]), k(rstd[r]);
    A total_h = 0;
    for (int64_t c = 0; c < shape.channels; c++) {
      V s(0), sh(0), h_only(0);
      each<V>(shape.space, [&](int64_t i, auto... rest) KL {
        const V h = keep((load<V>(in + c * shape.space + i, rest...) - mu) * k, rest...);
        const V g = load<V>(d + c * shape.space + i, rest...);
        s += g;
        sh = fma(g, h, sh);
        h_only += h;
      });
      ds[c] = reduce_add(s);
      dh[c] = reduce_add(sh);
      total_h += reduce_add(h_only);
    }
    const A delta = total_h / A(n);
    A a = 0, b = 0;
    for (int64_t c = 0; c < shape.channels; c++) {
      dh[c] -= delta * ds[c];
      a += w[c] * ds[c];
      b += w[c] * dh[c];
    }
    const V va(a / A(n)), vb(b / A(n)), vdelta(delta);
    for (int64_t c = 0; c < shape.channels; c++) {
      const V g(w[c]);
      each<V>(shape.space, [&](int64_t i, auto... rest) KL {
        const V h = (load<V>(in + i, rest...) - mu) * k - vdelta;
        store(out + i, fnma(h, vb, load<V>(d + i, rest...) * g - va) * k, rest...);
      });
      in += shape.space;
      d += shape.space;
      out += shape.space;
    }
  }
}
