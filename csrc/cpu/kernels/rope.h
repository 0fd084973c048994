// Pairs (a, b) become (a cos - b sin, b cos + a sin): features (i, i + half), or neighbours (2i, 2i + 1).

// One row of `half` pairs; neighbouring features lie `step` apart. c, s: contiguous tables. y may be x.
template <class T, class E>
KT void rotate_row(const T* x, int64_t x_step, T* y, int64_t y_step, int64_t half, bool interleaved, const E* c,
                   const E* s) {
  using V = Lanes<E>;
  int64_t i = 0;
  if (!interleaved && x_step == 1 && y_step == 1)
    for (; i + V::W <= half; i += V::W) {
      const V a = load<V>(x + i), b = load<V>(x + half + i), cosine = load<V>(c + i), sine = load<V>(s + i);
      store(y + i, a * cosine - b * sine);
      store(y + half + i, b * cosine + a * sine);
    }
  for (; i < half; i++) {
    const int64_t first = interleaved ? 2 * i : i, second = interleaved ? first + 1 : i + half;
    const E a = E(x[first * x_step]), b = E(x[second * x_step]);
    y[first * y_step] = T(a * c[i] - b * s[i]);
    y[second * y_step] = T(b * c[i] + a * s[i]);
  }
}

template <class T>
KT void rotate(const View& x, const View& cos, const View& sin, const View& y, bool interleaved, bool inverse) {
  using E = accumulate_t<T>;
  const int64_t batch = x.shape[0], length = x.shape[1], heads = x.shape[2], half = x.shape[3] / 2;
  const auto row = [](const View& v, int64_t b, int64_t t, int64_t h) {
    return v.ptr<T>() + b * v.strides[0] + t * v.strides[1] + h * v.strides[2];
  };
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, heads * half));
  parallel_for(batch * length, grain, [&](int64_t begin, int64_t end) KT {
    E* c = scratch<E>(Scratch::kLocalA, 2 * half);
    E* s = c + half;
    for (int64_t n = begin; n < end; n++) {
      const int64_t b = n / length, t = n % length;
      for (int64_t i = 0; i < half; i++) {
        c[i] = E(cos.ptr<float>()[t * cos.strides[0] + i * cos.strides[1]]);
        const E sine = E(sin.ptr<float>()[t * sin.strides[0] + i * sin.strides[1]]);
        s[i] = inverse ? -sine : sine;
      }
      for (int64_t h = 0; h < heads; h++)
        rotate_row(row(x, b, t, h), x.strides[3], row(y, b, t, h), y.strides[3], half, interleaved, c, s);
    }
  });
}

static void rotate_any(const View& x, const View& cos, const View& sin, const View& y, bool interleaved, bool inverse) {
  dispatch_float("rotaryEmbedding", x.dtype,
                 [&](auto tag) { rotate<typename decltype(tag)::type>(x, cos, sin, y, interleaved, inverse); });
}
