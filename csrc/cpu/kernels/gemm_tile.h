// The micro-kernel: kTileRows x two registers of accumulators, K innermost with no other work. Partial sums between
// blocks of K stay in a small buffer (L1, L2), never in c, which is written once, in its own type.

// r[i] += a(i, k) b(k), k < n. a(i, k) is a[i + k * sa], or a[i * sa + k] if kByRows; a row of b is every `sb` units.
template <int M, bool kByRows, bool kPairs, int NV, class V, class E, class B>
KI void multiply_add(V (&r)[M][NV], const E* a, int64_t sa, const B* b, int64_t sb, int64_t n) {
  SG_UNROLL(4)
  for (int64_t k = 0; k < n; k++) {
    V y[NV];
    SG_UNROLL(4)
    for (int j = 0; j < NV; j++) y[j] = load<V>(b + j * V::W);
    SG_UNROLL(12)
    for (int i = 0; i < M; i++) {
      const V x = V(kByRows ? a[i * sa] : a[i]);
      SG_UNROLL(4)
      for (int j = 0; j < NV; j++) r[i][j] = dot<kPairs>(x, y[j], r[i][j]);
    }
    b += sb;
    a += kByRows ? 1 : sa;
  }
}

// Where a finished tile goes straight from registers: c in type O, with an optional bias.
template <class O, class E>
struct Store {
  static constexpr bool kDirect = true;
  O* c;
  int64_t row;
  const E* bias;

  KI void prefetch(int64_t i, int64_t j) const {
    for (int at = 0; at < int(kTileColumns<E> * sizeof(O)); at += 64)
      __builtin_prefetch((char*)(c + i * row + j) + at, 1);
  }
  template <int M, bool kFull, class V>
  KI void rows(V (&r)[M][2], int64_t i, int64_t j, int m, int n) const {
    if (bias) {
      const V low = kFull ? load<V>(bias + j) : load<V>(bias + j, n);
      const V high = kFull ? load<V>(bias + j + V::W) : load<V>(bias + j + V::W, n - V::W);
      SG_UNROLL(12)
      for (int x = 0; x < M; x++) r[x][0] += low, r[x][1] += high;
    }
    SG_UNROLL(12)
    for (int x = 0; x < M; x++) {
      O* p = c + (i + x) * row + j;
      if constexpr (kFull) store(p, r[x][0]), store(p + V::W, r[x][1]);
      else if (x < m) {
        store(p, r[x][0], n);
        if (n > V::W) store(p + V::W, r[x][1], n - V::W);
      }
    }
  }
};

// One tile: rows i.., columns j.. of c, of which m x n exist. first, last: the blocks of K that start and end a sum;
// between them the sums wait in `part`.
template <int M, bool kFull, bool kPairs, class E, class Out>
__attribute__((noinline)) KT void tile(const E* a, const E* b, int64_t depth, E* part, bool first, bool last,
                                       const Out& out, int64_t i, int64_t j, int m, int n) {
  using V = Lanes<E>;
  V r[M][2];
  if (last)
    for (int x = 0; x < (kFull ? M : m); x++) out.prefetch(i + x, j);
  if (first) {
    SG_UNROLL(12)
    for (int x = 0; x < M; x++) r[x][0] = r[x][1] = V(0);
  } else {
    SG_UNROLL(12)
    for (int x = 0; x < M; x++) r[x][0] = load<V>(part + 2 * x * V::W), r[x][1] = load<V>(part + (2 * x + 1) * V::W);
  }
  multiply_add<M, false, kPairs>(r, a, kTileRows, b, kTileColumns<E>, depth);
  if constexpr (Out::kDirect) {
    if (last) return out.template rows<M, kFull>(r, i, j, m, n);
  }
  // Long epilogues work on the spilled tile: their constants need the registers.
  alignas(64) E spill[M * kTileColumns<E>];
  E* to = last ? spill : part;
  SG_UNROLL(12)
  for (int x = 0; x < M; x++) store(to + 2 * x * V::W, r[x][0]), store(to + (2 * x + 1) * V::W, r[x][1]);
  if constexpr (!Out::kDirect) {
    if (last) out.rows(spill, kTileColumns<E>, i, j, kFull ? M : m, n);
  }
}

// A tile of any height: short ones take a kernel with fewer rows.
template <bool kPairs, class E, class Out>
KI void any_tile(const E* a, const E* b, int64_t depth, E* part, bool first, bool last, const Out& out, int64_t i,
                 int64_t j, int m, int n) {
  constexpr int M = kTileRows;
  if (m == M && n == kTileColumns<E>) tile<M, true, kPairs>(a, b, depth, part, first, last, out, i, j, m, n);
  else if (m > M * 2 / 3) tile<M, false, kPairs>(a, b, depth, part, first, last, out, i, j, m, n);
  else if (m > M / 3) tile<M * 2 / 3, false, kPairs>(a, b, depth, part, first, last, out, i, j, m, n);
  else tile<M / 3, false, kPairs>(a, b, depth, part, first, last, out, i, j, m, n);
}
