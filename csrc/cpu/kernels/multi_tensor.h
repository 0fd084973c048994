// Global norm, scaling and clamping of many tensors, each in one pass.
#include "loops.h"

// What n elements contribute to the norm of this order (1, 2 or infinity), in double: squares of large float32
// gradients stay finite, and the sum is exact to rounding for any number of elements.
template <class T>
KT double norm_part(double order, const T* x, int64_t n) {
  if (order == 2)
    return sum<vd>(n, [&](int64_t i, auto... rest) KL {
      const vd v = load<vd>(x + i, rest...);
      return v * v;
    });
  if (order == 1) return sum<vd>(n, [&](int64_t i, auto... rest) KL { return abs(load<vd>(x + i, rest...)); });
  vd top(0);
  vd::mask nan = vd(0) != vd(0);
  each<vd>(n, [&](int64_t i, auto... rest) KL {
    const vd v = abs(load<vd>(x + i, rest...));
    top = max(top, v);
    nan = nan | (v != v);
  });
  return any(nan) ? std::numeric_limits<double>::quiet_NaN() : reduce_max(top);
}

template <class V>
KI typename V::mask not_finite(V v) {
  return !(abs(v) <= V(std::numeric_limits<typename V::value>::max()));
}

// Whether all n elements are finite.
template <class T>
KT bool all_finite(const T* x, int64_t n) {
  using V = lanes_of<T>;
  typename V::mask bad = V(0) != V(0);
  each<V>(n, [&](int64_t i, auto... rest) KL { bad = bad | not_finite(load<V>(x + i, rest...)); });
  return !any(bad);
}

// The same of the elements before they are scaled.
template <class A>
KT bool scale_finite(A* x, int64_t n, A factor) {
  using V = lanes_of<A>;
  typename V::mask bad = V(0) != V(0);
  each<V>(n, [&](int64_t i, auto... rest) KL {
    const V v = load<V>(x + i, rest...);
    bad = bad | not_finite(v);
    store(x + i, v * V(factor), rest...);
  });
  return !any(bad);
}

template <class A>
KT void scale_block(A* x, int64_t n, A factor) {
  using V = lanes_of<A>;
  each<V>(n, [&](int64_t i, auto... rest) KL { store(x + i, load<V>(x + i, rest...) * V(factor), rest...); });
}

// NaN stays NaN: min and max return their second argument then.
template <class A>
KT void clamp_block(A* x, int64_t n, A low, A high) {
  using V = lanes_of<A>;
  each<V>(n, [&](int64_t i, auto... rest)
                 KL { store(x + i, min(V(high), max(V(low), load<V>(x + i, rest...))), rest...); });
}
