// Reducing the contributions of all ranks to one result, in rank order.
#include "loops.h"

template <class T, class Combine>
KT void combine_ranks(const T* const* parts, int ranks, double scale, T* y, int64_t n, const Combine& combine) {
  using V = lanes_of<T>;
  using A = typename V::value;
  each<V>(n, [&](int64_t i, auto... rest) KL {
    V total = load<V>(parts[0] + i, rest...);
    for (int r = 1; r < ranks; r++) total = combine(total, load<V>(parts[r] + i, rest...));
    store(y + i, scale == 1 ? total : total * V(A(scale)), rest...);
  });
}

// y may be one of the parts. `scale` is applied to the result.
template <class T>
KT void reduce_ranks(RankReduce op, const T* const* parts, const double* factors, int ranks, double scale, T* y,
                     int64_t n) {
  using V = lanes_of<T>;
  using A = typename V::value;
  switch (op) {
    case RankReduce::kPremulSum:
      return each<V>(n, [&](int64_t i, auto... rest) KL {
        V total = load<V>(parts[0] + i, rest...) * V(A(factors[0]));
        for (int r = 1; r < ranks; r++) total += load<V>(parts[r] + i, rest...) * V(A(factors[r]));
        store(y + i, total, rest...);
      });
    case RankReduce::kMin:
      // a NaN of any rank wins
      return combine_ranks(parts, ranks, scale, y, n, [](V a, V b) KL { return select(a != a, a, min(a, b)); });
    case RankReduce::kMax:
      return combine_ranks(parts, ranks, scale, y, n, [](V a, V b) KL { return select(a != a, a, max(a, b)); });
    case RankReduce::kProduct: return combine_ranks(parts, ranks, scale, y, n, [](V a, V b) KL { return a * b; });
    default: return combine_ranks(parts, ranks, scale, y, n, [](V a, V b) KL { return a + b; });
  }
}
