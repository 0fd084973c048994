// Packing: operands become panels of W neighbours, [unit along K][W], zero-padded, so that the micro-kernel never sees
// an edge, a transposition or a 16-bit type. A unit is one float or double, or on AVX-512 a pair of bf16 neighbours
// along K: with pairs the bf16 kernel is the float kernel with another multiply-add, and packing an operand contiguous
// along K is the same transposition of 32-bit units.

static constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

template <class F>
static void for_tasks(bool parallel, int64_t n, const F& f) {
  if (parallel) return ThreadPool::instance().run(int(n), f);
  for (int64_t i = 0; i < n; i++) f(int(i));
}

template <class T>
inline constexpr int kUnit = kPaired<T> ? 2 : 1;  // elements along K in a unit
template <class E>
inline constexpr int kTileColumns = 2 * Lanes<E>::W;
static constexpr int kPanelPad = 16;  // units behind a panel that full-width stores may touch

template <class T>
struct Operand {
  const T* data;
  int64_t across, along;  // strides
  int64_t width, depth;   // extents across and along K

  bool along_rows() const { return along == 1 || depth == 1; }
  bool across_rows() const { return !along_rows() && (across == 1 || width == 1); }
};

template <class T>
KI lanes_of<T> load_units(const T* p) {
  if constexpr (kPaired<T>) return load_pairs(p);
  else return load<lanes_of<T>>(p);
}
template <class T>
KI lanes_of<T> load_units(const T* p, int n) {  // n elements
  if constexpr (kPaired<T>) return load_pairs(p, n);
  else return load<lanes_of<T>>(p, n);
}

// W rows, each contiguous along K, `rows` of them valid; `depth` elements of each.
template <int W, class T>
KT void pack_along(const T* s, int64_t row, int rows, int depth, accumulate_t<T>* d) {
  using V = lanes_of<T>;
  constexpr int U = kUnit<T>;
  const int units = (depth + U - 1) / U;
  for (int u = 0; u < units; u += V::W) {
    const int left = depth - u * U, count = std::min(V::W, units - u);
    SG_UNROLL(2)
    for (int g = 0; g < W; g += V::W) {
      V r[V::W];
      if (left >= V::W * U && rows >= std::min(W, g + V::W)) {
        SG_UNROLL(16)
        for (int i = 0; i < V::W; i++) r[i] = g + i < W ? load_units(s + (g + i) * row + u * U) : V(0);
      } else {
        for (int i = 0; i < V::W; i++)
          r[i] = g + i < std::min(W, rows) ? load_units(s + (g + i) * row + u * U, std::min(left, V::W * U)) : V(0);
      }
      transpose(r);
      // A panel narrower than a register lets the next row overwrite the surplus; the padding takes the last one's.
      if (g + V::W > W && W > V::W) {
        for (int i = 0; i < count; i++) store(d + (u + i) * W + g, r[i], W - g);
      } else if (count == V::W) {
        SG_UNROLL(16)
        for (int i = 0; i < V::W; i++) store(d + (u + i) * W + g, r[i]);
      } else {
        for (int i = 0; i < count; i++) store(d + (u + i) * W + g, r[i]);
      }
    }
  }
}

// Rows contiguous across K, `width` of the W neighbours valid, `depth` rows: units u0 to u1. sums (or null) += the sum
// over these units of every column.
template <int W, class T>
KT void pack_across(const T* s, int64_t row, int width, int depth, int u0, int u1, accumulate_t<T>* d,
                    accumulate_t<T>* sums) {
  using V = lanes_of<T>;
  constexpr int groups = (W + V::W - 1) / V::W;
  V sum[groups];
  SG_UNROLL(2)
  for (int g = 0; g < groups; g++) sum[g] = V(0);
  for (int u = u0; u < u1; u++) {
    SG_UNROLL(2)
    for (int g = 0; g < groups; g++) {
      const int n = std::min(W, width) - g * V::W;
      V v;
      if constexpr (kPaired<T>) {
        const T *low = s + 2 * u * row + g * V::W, *high = 2 * u + 1 < depth ? low + row : nullptr;
        v = n >= V::W && high ? zip(low, high) : zip(low, high, n);
        if (sums) sum[g] += pair_low(v) + pair_high(v);
      } else {
        const T* p = s + u * row + g * V::W;
        v = n >= V::W ? load<V>(p) : load<V>(p, n);
        if (sums) sum[g] += v;
      }
      if (W % V::W && u == u1 - 1) store(d + u * W + g * V::W, v, W - g * V::W);
      else store(d + u * W + g * V::W, v);
    }
  }
  if (!sums) return;
  for (int g = 0; g < groups; g++) {
    const int n = std::min(W, width) - g * V::W;
    if (n > 0) store(sums + g * V::W, sum[g] + load<V>(sums + g * V::W, n), n);
  }
}

// Neither direction contiguous (a slice with steps, a broadcast): element by element.
template <int W, class T>
KT void pack_strided(const T* s, int64_t across, int64_t along, int width, int depth, accumulate_t<T>* d) {
  constexpr int U = kUnit<T>;
  using Stored = std::conditional_t<kPaired<T>, T, accumulate_t<T>>;
  for (int k = 0; k < (depth + U - 1) / U * U; k++)
    for (int w = 0; w < W; w++) {
      const bool valid = w < width && k < depth;
      const Stored value = valid ? Stored(s[w * across + k * along]) : Stored(0.f);
      std::memcpy((Stored*)(d + k / U * W + w) + k % U, &value, sizeof value);
    }
}

// Panels p0 to p1, units u0 to u1 of an operand; panel p lands at d + (p - p0) * stride. sums, for an operand that is
// contiguous across K only, as in pack_across, starts at panel p0.
template <int W, class T>
KT void pack_panels(const Operand<T>& s, int p0, int p1, int64_t u0, int64_t u1, accumulate_t<T>* d, int64_t stride,
                    accumulate_t<T>* sums = nullptr) {
  const int64_t k0 = u0 * kUnit<T>;
  const int depth = int(std::min(s.depth, u1 * kUnit<T>) - k0);
  const T* from = s.data + k0 * s.along;
  const auto width = [&](int p) { return int(std::min<int64_t>(W, s.width - int64_t(p) * W)); };
  if (s.across_rows()) {
    // across the whole row first, a few units at a time, so that the source is read in order
    for (int u = 0; u < u1 - u0; u += 16)
      for (int p = p0; p < p1; p++)
        pack_across<W>(from + int64_t(p) * W, s.along, width(p), depth, u, std::min<int>(u + 16, int(u1 - u0)),
                       d + (p - p0) * stride, sums ? sums + int64_t(p - p0) * W : nullptr);
    return;
  }
  for (int p = p0; p < p1; p++) {
    const T* panel = from + int64_t(p) * W * s.across;
    if (s.along_rows()) pack_along<W>(panel, s.across, width(p), depth, d + (p - p0) * stride);
    else pack_strided<W>(panel, s.across, s.along, width(p), depth, d + (p - p0) * stride);
  }
}
