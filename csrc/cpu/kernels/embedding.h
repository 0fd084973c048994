// The gradient of an embedding table: each of its rows is the sum of the rows of dy whose index it is.
#include "loops.h"

// Rows [begin, end) and columns [from, to) of dweight. Row v sums the rows order[start[v]] … order[start[v + 1] - 1] of
// dy, in that order, a register of columns at a time, four registers together.
template <class T, class D>
KT void embedding_gradient(const T* dy, int64_t dy_stride, const int64_t* start, const int64_t* order, D* dweight,
                           int64_t width, int64_t begin, int64_t end, int64_t from, int64_t to) {
  using V = lanes_of<T>;
  constexpr int kTogether = 4;
  for (int64_t v = begin; v < end; v++) {
    D* const out = dweight + v * width;
    const int64_t first_row = start[v], last_row = start[v + 1];
    if (first_row == last_row) {
      std::memset(static_cast<void*>(out + from), 0, size_t(to - from) * sizeof(D));
      continue;
    }
    int64_t c = from;
    for (; c + kTogether * V::W <= to; c += kTogether * V::W) {
      V s[kTogether];
      for (V& lanes : s) lanes = V(0);
      for (int64_t r = first_row; r < last_row; r++) {
        const T* const in = dy + order[r] * dy_stride + c;
        SG_UNROLL(4)
        for (int k = 0; k < kTogether; k++) s[k] += load<V>(in + k * V::W);
      }
      SG_UNROLL(4)
      for (int k = 0; k < kTogether; k++) store(out + c + k * V::W, s[k]);
    }
    for (; c < to; c += V::W) {
      const int rest = int(std::min<int64_t>(V::W, to - c));
      V s(0);
      for (int64_t r = first_row; r < last_row; r++) s += load<V>(dy + order[r] * dy_stride + c, rest);
      store(out + c, s, rest);
    }
  }
}
