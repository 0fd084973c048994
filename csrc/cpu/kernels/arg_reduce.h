// The position of the largest or smallest element. A NaN is better than any number, and the first of equals wins.

#include "../../ops/functors.h"

// Position of the best of x[0, n), n > 0: its value in registers, then the first place that has it.
template <bool kMax, class T>
KT int64_t arg_best(const T* x, int64_t n) {
  T best = x[0];
  int64_t i = 0;
  if constexpr (!std::is_same_v<T, int64_t>) {
    using V = lanes_of<T>;
    V lanes(best), more(best);
    for (; i + 2 * V::W <= n; i += 2 * V::W) {
      lanes = kMax ? maximum(lanes, load<V>(x + i)) : minimum(lanes, load<V>(x + i));
      more = kMax ? maximum(more, load<V>(x + i + V::W)) : minimum(more, load<V>(x + i + V::W));
    }
    T values[V::W];
    store(values, kMax ? maximum(lanes, more) : minimum(lanes, more));
    for (T v : values) best = better<kMax>(v, best) ? v : best;
  }
  for (; i < n; i++) best = better<kMax>(x[i], best) ? x[i] : best;
  int64_t at = 0;
  while (x[at] != best && best == best) at++;
  while (best != best && x[at] == x[at]) at++;
  return at;
}

// best[c], index[c] follow the rows; row r has index first + r * step
template <bool kMax, class T>
KT void arg_rows(T* best, int64_t* index, const T* x, int64_t rows, int64_t cols, int64_t first, int64_t step) {
  for (int64_t r = 0; r < rows; r++, x += cols, first += step)
    for (int64_t c = 0; c < cols; c++) {
      const bool take = better<kMax>(x[c], best[c]);
      best[c] = take ? x[c] : best[c];
      index[c] = take ? first : index[c];
    }
}
