// Copies a plane into its padded form (conv_planes.h).

// Padded rows [first, first + rows) of one plane; the border is left as it is.
template <class T, class S>
KT void fill_plane(const Planes& s, const T* from, int64_t row_stride, int64_t stride, int64_t first, int64_t rows,
                   S* to) {
  using V = lanes_of<S>;
  const int64_t begin = std::max(first, s.h.before), end = std::min(first + rows, s.h.before + s.h.size);
  const int64_t jump = stride * s.w.step;
  const auto number = [](T value) KL -> S {
    if constexpr (std::is_same_v<S, T>) return value;
    else return S(accumulate_t<T>(value));
  };
  for (int64_t place = begin; place < end; place++) {
    const T* const row = from + (place - s.h.before) * row_stride;
    for (int64_t p = 0; p < s.w.step; p++) {
      // places p, p + step, … that lie in the source
      const int64_t missing = s.w.before - p, last = std::min(s.w.extent, s.w.before + s.w.size) - p;
      const int64_t skip = missing > 0 ? (missing + s.w.step - 1) / s.w.step : 0;
      const int64_t n = (last + s.w.step - 1) / s.w.step - skip;
      const T* const in = row + (p + skip * s.w.step - s.w.before) * stride;
      S* const run = to + (place - first) * s.pitch + p * s.phase + skip;
      if (jump == 1) {
        int64_t i = 0;
        for (; i + V::W <= n; i += V::W) store(run + i, load<V>(in + i));
        if (i < n) store(run + i, load<V>(in + i, int(n - i)), int(n - i));
      } else if (jump == 2) {
        for (int64_t i = 0; i < n; i++) run[i] = number(in[2 * i]);
      } else {
        for (int64_t i = 0; i < n; i++) run[i] = number(in[i * jump]);
      }
    }
  }
}
