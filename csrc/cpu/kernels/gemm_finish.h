// The general epilogue, on a finished block of sums in E (float or double): bias, then GELU, residual, GELU's
// derivative or accumulation, then the one rounding to c's type. `extra` and `pre` of c's type are used in place;
// others pass through a row of E. With GELU's derivative they may be the same: its input turns into its output.

template <class E>
struct Finish {
  static constexpr bool kDirect = false;
  static constexpr int kChunk = 256;  // columns a row is worked on at a time
  const Gemm& g;

  KI void prefetch(int64_t i, int64_t j) const {
    const GemmMatrix& other = g.extra.data ? g.extra : g.pre;
    const size_t size = dtype_size(g.c.dtype), other_size = dtype_size(other.dtype);
    for (size_t at = 0; at < kTileColumns<E> * size; at += 64)
      __builtin_prefetch((char*)g.c.data + (i * g.c.row + j) * size + at, 1);
    if (!other.data) return;
    for (size_t at = 0; at < kTileColumns<E> * other_size; at += 64)
      __builtin_prefetch((char*)other.data + (i * other.row + j) * other_size + at);
  }

  // sums: m rows, every `stride` elements, of n columns; they land at rows i.., columns j..
  KT void rows(const E* sums, int64_t stride, int64_t i, int64_t j, int64_t m, int64_t n) const {
    dispatch_float("matmul", g.c.dtype, [&](auto tag) KT {
      using O = typename decltype(tag)::type;
      const GemmMatrix& other = g.extra.data ? g.extra : g.pre;
      const bool direct = !other.data || other.dtype == g.c.dtype;
      for (int64_t x = 0; x < m; x++)
        for (int64_t from = 0; from < n; from += kChunk) {
          const int count = int(std::min<int64_t>(kChunk, n - from));
          const E* s = sums + x * stride + from;
          O* c = static_cast<O*>(g.c.data) + (i + x) * g.c.row + j + from;
          const int64_t at = (i + x) * other.row + j + from;
          if (direct) row(s, j + from, count, c, static_cast<O*>(other.data) + (other.data ? at : 0));
          else converted(s, j + from, count, c, other, at);
        }
    });
  }

 private:
  // extra or pre in another type than c's
  template <class O>
  KT void converted(const E* s, int64_t j, int count, O* c, const GemmMatrix& other, int64_t at) const {
    using V = Lanes<E>;
    E buffer[kChunk + V::W];
    dispatch_float("matmul", other.dtype, [&](auto tag) KT {
      using X = typename decltype(tag)::type;
      X* p = static_cast<X*>(other.data) + at;
      if (g.extra.data)
        for (int k = 0; k < count; k += V::W) store(buffer + k, load<V>(p + k, count - k));
      row(s, j, count, c, buffer);
      if (g.pre.data)
        for (int k = 0; k < count; k += V::W) store(p + k, load<V>(buffer + k), count - k);
    });
  }

  // One row; other: extra, or where pre goes, or null.
  template <class O, class X>
  KT void row(const E* s, int64_t j, int count, O* c, X* other) const {
    using V = Lanes<E>;
    const E* bias = static_cast<const E*>(g.bias) + (g.bias ? j : 0);
    const auto each = [&](auto f) KL {
      int k = 0;
      for (; k + V::W <= count; k += V::W) {
        V x = load<V>(s + k);
        if (bias) x += load<V>(bias + k);
        f(x, k, [](auto* p) KL { return load<V>(p); }, [](auto* p, V v) KL { store(p, v); });
      }
      if (k == count) return;
      const int left = count - k;
      V x = load<V>(s + k, left);
      if (bias) x += load<V>(bias + k, left);
      f(x, k, [=](auto* p) KL { return load<V>(p, left); }, [=](auto* p, V v) KL { store(p, v, left); });
    };
    switch (g.epilogue) {
      case Epilogue::kNone: return each([&](V x, int k, auto, auto put) KL { put(c + k, x); });
      case Epilogue::kGelu:
        return each([&](V x, int k, auto, auto put) KL {
          if (other) put(other + k, x);
          put(c + k, gelu_tanh(x));
        });
      case Epilogue::kResidual: return each([&](V x, int k, auto get, auto put) KL { put(c + k, x + get(other + k)); });
      case Epilogue::kGeluBackward:
        return each([&](V x, int k, auto get, auto put) KL {
          const V input = get(other + k);
          put(c + k, x * gelu_tanh_grad(input));
          if (g.pre.data) put(other + k, gelu_tanh(input));
        });
      case Epilogue::kAccumulate: return each([&](V x, int k, auto get, auto put) KL { put(c + k, x + get(c + k)); });
    }
  }
};
