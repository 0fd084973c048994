// Reducing the contributions of all ranks to one result, in rank order. The result goes to one place, or to several in
// the same pass: what was just computed is in a register, and the memory that it replaces in the cache.
#include "loops.h"

// The places a result goes to.
template <class T>
struct Outputs {
  T* const* first;
  int count;
};

template <class T, class Term>
KT void write_everywhere(Outputs<T> y, int64_t n, const Term& term) {
  using V = lanes_of<T>;
  T* const y0 = y.first[0];
  if (y.count == 1) return each<V>(n, [&](int64_t i, auto... rest) KL { store(y0 + i, term(i, rest...), rest...); });
  T* const y1 = y.first[1];
  each<V>(n, [&](int64_t i, auto... rest) KL {
    const V v = term(i, rest...);
    store(y0 + i, v, rest...);
    store(y1 + i, v, rest...);
    for (int r = 2; r < y.count; r++) store(y.first[r] + i, v, rest...);
  });
}

template <class T, class Combine>
KT void combine_ranks(const T* const* parts, int ranks, double scale, Outputs<T> y, int64_t n, const Combine& combine) {
  using V = lanes_of<T>;
  using A = typename V::value;
  const V factor = V(A(scale));
  const auto scaled = [&](V v) KL { return scale == 1 ? v : v * factor; };
  if (ranks == 2) {
    const T *const x0 = parts[0], *const x1 = parts[1];
    return write_everywhere(y, n, [&](int64_t i, auto... rest) KL {
      return scaled(combine(load<V>(x0 + i, rest...), load<V>(x1 + i, rest...)));
    });
  }
  write_everywhere(y, n, [&](int64_t i, auto... rest) KL {
    V total = load<V>(parts[0] + i, rest...);
    for (int r = 1; r < ranks; r++) total = combine(total, load<V>(parts[r] + i, rest...));
    return scaled(total);
  });
}

// The outputs may be parts. `scale` is applied to the result.
template <class T>
KT void reduce_ranks(RankReduce op, const T* const* parts, const double* factors, int ranks, double scale, T* const* y,
                     int outputs, int64_t n) {
  using V = lanes_of<T>;
  using A = typename V::value;
  const Outputs<T> to{y, outputs};
  switch (op) {
    case RankReduce::kPremulSum:
      return write_everywhere(to, n, [&](int64_t i, auto... rest) KL {
        V total = load<V>(parts[0] + i, rest...) * V(A(factors[0]));
        for (int r = 1; r < ranks; r++) total += load<V>(parts[r] + i, rest...) * V(A(factors[r]));
        return total;
      });
    case RankReduce::kMin:
      // a NaN of any rank wins
      return combine_ranks(parts, ranks, scale, to, n, [](V a, V b) KL { return select(a != a, a, min(a, b)); });
    case RankReduce::kMax:
      return combine_ranks(parts, ranks, scale, to, n, [](V a, V b) KL { return select(a != a, a, max(a, b)); });
    case RankReduce::kProduct: return combine_ranks(parts, ranks, scale, to, n, [](V a, V b) KL { return a * b; });
    default: return combine_ranks(parts, ranks, scale, to, n, [](V a, V b) KL { return a + b; });
  }
}
