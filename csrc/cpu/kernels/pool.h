// Pooling of padded planes (conv_planes.h): every tap reads one run for a row of outputs, so outputs are lanes.
#include "loops.h"
#include "plane.h"

// Plane p of x, in the type of the lanes, with `border` around it where windows reach over the image.
template <class T, class A>
KT const A* pool_plane(const PoolPlanes& s, const View& x, int64_t p, A border) {
  const Planes& planes = s.planes;
  const int64_t size = planes.h.extent * planes.pitch;
  A* const to = scratch<A>(Scratch::kLocalA, size_t(size + Lanes<A>::W));
  if (s.has_border) std::fill_n(to, size, border);
  const T* const from = x.ptr<const T>() + p / x.shape[1] * x.strides[0] + p % x.shape[1] * x.strides[1];
  fill_plane(planes, from, x.strides[2], x.strides[3], 0, planes.h.extent, to);
  return to;
}

template <class V, class F>
KI void per_output(V v, int n, const F& f) {
  alignas(64) typename V::value values[V::W];
  store(values, v);
  for (int i = 0; i < n; i++) f(i, values[i]);
}

// The greatest element of each window, or its first NaN, and where in the image it is. lowest: -infinity.
template <class T, class A>
KT void max_pool(const PoolPlanes& s, const View& x, const View& y, const View& indices, int64_t p, A lowest) {
  using V = Lanes<A>;
  const A nowhere(kNoTap);
  const A* in = pool_plane<T>(s, x, p, lowest);
  T* to = y.ptr<T>() + p / x.shape[1] * y.strides[0] + p % x.shape[1] * y.strides[1];
  int64_t* to_index =
      indices.ptr<int64_t>() + p / x.shape[1] * indices.strides[0] + p % x.shape[1] * indices.strides[1];
  const int64_t width = y.shape[3];
  for (int64_t h = 0; h < y.shape[2];
       h++, in += s.planes.row_step(), to += y.strides[2], to_index += indices.strides[2]) {
    for (int64_t w = 0; w < width; w += V::W) {
      const int n = int(std::min<int64_t>(V::W, width - w));
      // An element that is not above -infinity replaces nothing: then it is the first of the window.
      V best(lowest), at(nowhere);
      for (int64_t t = 0; t < s.taps; t++) {
        const V v = load<V>(in + s.offsets[t] + w, n);
        const auto better = (!(v <= best)) & (best == best);
        best = select(better, v, best);
        at = select(better, V(A(s.places[t])), at);
      }
      if (y.strides[3] == 1) store(to + w, best, n);
      else per_output(best, n, [&](int i, A value) { to[(w + i) * y.strides[3]] = T(value); });
      // places are those of the taps of output 0
      const int64_t first = h * s.h.stride * s.w.size + w * s.w.stride;
      alignas(64) A place[V::W];
      store(place, at);
      int64_t* const out = to_index + w * indices.strides[3];
      if (any(at == V(nowhere))) {
        for (int i = 0; i < n; i++) {
          if (place[i] == nowhere)
            place[i] = A(s.h.window(h).begin * s.w.size + s.w.window(w + i).begin - first - i * s.w.stride);
        }
      }
      if (indices.strides[3] == 1 && n == V::W)
        for (int i = 0; i < V::W; i++) out[i] = first + i * s.w.stride + int64_t(place[i]);
      else
        for (int i = 0; i < n; i++) out[i * indices.strides[3]] = first + i * s.w.stride + int64_t(place[i]);
    }
  }
}

// lengths: of the windows in the direction of a row, as the divisor counts them
template <class T, class A>
KT void avg_pool(const PoolPlanes& s, const View& x, const View& y, int64_t p, const A* lengths) {
  using V = Lanes<A>;
  const A* in = pool_plane<T>(s, x, p, A(0));
  T* to = y.ptr<T>() + p / x.shape[1] * y.strides[0] + p % x.shape[1] * y.strides[1];
  const int64_t width = y.shape[3];
  for (int64_t h = 0; h < y.shape[2]; h++, in += s.planes.row_step(), to += y.strides[2]) {
    const V rows(A(s.length(s.h.window(h))));
    for (int64_t w = 0; w < width; w += V::W) {
      const int n = int(std::min<int64_t>(V::W, width - w));
      V sum(0);
      for (int64_t t = 0; t < s.taps; t++) sum += load<V>(in + s.offsets[t] + w, n);
      const V mean = sum / (rows * select(first<V>(n), load<V>(lengths + w, n), V(1)));
      if (y.strides[3] == 1) store(to + w, mean, n);
      else per_output(mean, n, [&](int i, A value) { to[(w + i) * y.strides[3]] = T(value); });
    }
  }
}
