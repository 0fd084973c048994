// Softmax, log-softmax and log-sum-exp of rows. The exponentials are taken once and kept in the accumulation type, so
// that a 16-bit result is rounded once. A row with a NaN, with +inf or of -inf alone gives NaN (log-sum-exp: the
// infinity), because inf - inf does, without a branch.
#include "loops.h"

template <class T>
KT void softmax_rows(const Flat& x, T* y, int64_t n, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  using A = accumulate_t<T>;
  A* const row = scratch<A>(Scratch::kLocalB, size_t(n));
  for (int64_t r = begin; r < end; r++) {
    const T* const in = x.read<T>(r * n, n, Scratch::kLocalA);
    T* const out = y + r * n;
    const V top(largest<V>(in, n));
    const A total = sum<V, 1>(n, [&](int64_t i, auto... rest) KL {
      const V e = exp(load<V>(in + i, rest...) - top);
      store(row + i, e, rest...);
      return e;
    });
    const V k(1 / total);
    each<V>(n, [&](int64_t i, auto... rest) KL { store(out + i, load<V>(row + i, rest...) * k, rest...); });
  }
}

template <class T>
KT void softmax_backward_rows(const Flat& dy, const Flat& y, T* dx, int64_t n, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  for (int64_t r = begin; r < end; r++) {
    const T* const d = dy.read<T>(r * n, n, Scratch::kLocalA);
    const T* const p = y.read<T>(r * n, n, Scratch::kLocalB);
    T* const out = dx + r * n;
    const V dot(
        sum<V>(n, [&](int64_t i, auto... rest) KL { return load<V>(d + i, rest...) * load<V>(p + i, rest...); }));
    each<V>(n, [&](int64_t i, auto... rest)
                   KL { store(out + i, load<V>(p + i, rest...) * (load<V>(d + i, rest...) - dot), rest...); });
  }
}

template <class T>
KT void log_softmax_rows(const Flat& x, T* y, int64_t n, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  for (int64_t r = begin; r < end; r++) {
    const T* const in = x.read<T>(r * n, n, Scratch::kLocalA);
    T* const out = y + r * n;
    const V top(largest<V>(in, n));
    const V log_total(
        std::log(sum<V, 1>(n, [&](int64_t i, auto... rest) KL { return exp(load<V>(in + i, rest...) - top); })));
    each<V>(n,
            [&](int64_t i, auto... rest) KL { store(out + i, (load<V>(in + i, rest...) - top) - log_total, rest...); });
  }
}

template <class T>
KT void log_softmax_backward_rows(const Flat& dy, const Flat& y, T* dx, int64_t n, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  for (int64_t r = begin; r < end; r++) {
    const T* const d = dy.read<T>(r * n, n, Scratch::kLocalA);
    const T* const p = y.read<T>(r * n, n, Scratch::kLocalB);
    T* const out = dx + r * n;
    const V total(sum<V>(n, [&](int64_t i, auto... rest) KL { return load<V>(d + i, rest...); }));
    each<V>(n, [&](int64_t i, auto... rest)
                   KL { store(out + i, fnma(exp(load<V>(p + i, rest...)), total, load<V>(d + i, rest...)), rest...); });
  }
}

template <class T>
KT void logsumexp_rows(const Flat& x, T* y, int64_t n, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  using A = accumulate_t<T>;
  for (int64_t r = begin; r < end; r++) {
    const T* const in = x.read<T>(r * n, n, Scratch::kLocalA);
    A top = largest<V>(in, n);
    if (std::isinf(top)) top = 0;
    const A total = sum<V, 1>(n, [&](int64_t i, auto... rest) KL { return exp(load<V>(in + i, rest...) - V(top)); });
    y[r] = T(A(std::log(total) + top));
  }
}
