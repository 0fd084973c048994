// What is made of the words of Philox.
#include "philox.h"

static_assert(4 * kPhiloxLanes <= kPhiloxPadding);

template <class T>
KT void unit_from_words(const uint32_t* words, int64_t n, T* u) {
  for (int64_t i = 0; i < n; i++) u[i] = unit<T>(words + i * int64_t(sizeof(T) / 4));
}

// low + width * u, at most top
template <class T>
KT void uniform_values(const uint32_t* words, int64_t n, T low, T width, T top, T* y) {
  unit_from_words(words, n, y);
  for (int64_t i = 0; i < n; i++) {
    const T v = low + width * y[i];
    y[i] = v > top ? top : v;
  }
}

// Box and Muller: each pair of uniform numbers (u, v) gives r cos(2 pi v), r sin(2 pi v) with r = sqrt(-2 ln u), u > 0.
template <class T>
KT void normal_values(const uint32_t* words, int64_t n, T mean, T std, T* y) {
  using V = lanes_of<T>;
  T u[kBoxElements], v[kBoxElements / 2];
  unit_from_words(words, n, u);
  for (int64_t i = 0; i < n / 2; i++) {
    v[i] = u[2 * i + 1];
    u[i] = positive_unit<T>(words + 2 * i * (sizeof(T) / 4));
  }
  for (int64_t i = 0; i < n / 2; i += V::W) {
    const V radius = sqrt(log(load<V>(u + i)) * V(-2)) * V(std), angle = load<V>(v + i) * V(6.283185307179586);
    store(u + i, fma(radius, cos(angle), V(mean)));
    store(v + i, fma(radius, sin(angle), V(mean)));
  }
  for (int64_t i = 0; i < n / 2; i++) {
    y[2 * i] = u[i];
    y[2 * i + 1] = v[i];
  }
}

// The high half of a 64 by 64 bit product: every number of the range differs in probability by less than range / 2^64.
KT inline void randint_values(const uint32_t* words, int64_t n, int64_t low, uint64_t range, int64_t* y) {
  for (int64_t i = 0; i < n; i++) y[i] = low + int64_t((unsigned __int128)word_pair(words + 2 * i) * range >> 64);
}

template <class T>
KT void dropout_values(const T* x, const uint32_t* words, int64_t n, uint32_t threshold, T scale, T* y) {
  for (int64_t i = 0; i < n; i++) y[i] = words[i] >= threshold ? x[i] * scale : T(0);
}
