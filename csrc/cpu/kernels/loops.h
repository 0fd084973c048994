// Loops over the elements of a row in registers, with one body for the full registers and for the masked rest:
//   each<V>(n, [&](int64_t i, auto... rest) KL { store(y + i, load<V>(x + i, rest...) * V(2), rest...); });
// `rest` is empty, or the number of elements left. No include guard: included by kernel files.

// Marks a loop body: without it GCC leaves the lambda out of line.
#define KL __attribute__((always_inline)) KT

template <class V, class F>
KI void each(int64_t n, const F& body) {
  int64_t i = 0;
  for (; i + V::W <= n; i += V::W) body(i);
  if (i < n) body(i, int(n - i));
}

// Zero beyond the row, for terms that do not vanish there by themselves.
template <class V>
KI V keep(V v) {
  return v;
}
template <class V>
KI V keep(V v, int n) {
  return select(first<V>(n), v, V(0));
}

// The sum of term(i, rest...) over a row, in blocks: the error of a sum grows with the number of additions in a chain.
// Four chains hide that an addition takes longer than a load; a term that is long itself (an exponential) needs one.
template <class V, int kChains = 4, class F>
KI typename V::value sum(int64_t n, const F& term) {
  constexpr int64_t kBlock = 256 * V::W;
  typename V::value total = 0;
  for (int64_t i = 0; i < n;) {
    const int64_t end = std::min(n, i + kBlock);
    V s[kChains];
    for (V& chain : s) chain = V(0);
    for (; i + kChains * V::W <= end; i += kChains * V::W) {
      SG_UNROLL(4)
      for (int k = 0; k < kChains; k++) s[k] += term(i + k * V::W);
    }
    for (; i < end; i += V::W) s[0] += keep(term(i, int(end - i)), int(end - i));
    for (int k = 1; k < kChains; k++) s[0] += s[k];
    total += reduce_add(s[0]);
  }
  return total;
}

// The largest element; -infinity for an empty row. A NaN may or may not come through.
template <class V, class T>
KI typename V::value largest(const T* x, int64_t n) {
  const V lowest(-std::numeric_limits<typename V::value>::infinity());
  V m0 = lowest, m1 = lowest;
  int64_t i = 0;
  for (; i + 2 * V::W <= n; i += 2 * V::W) {
    m0 = max(m0, load<V>(x + i));
    m1 = max(m1, load<V>(x + i + V::W));
  }
  for (; i < n; i += V::W) m0 = max(m0, select(first<V>(int(n - i)), load<V>(x + i, int(n - i)), lowest));
  return reduce_max(max(m0, m1));
}
