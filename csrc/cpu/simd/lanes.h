// Lanes<T> is one register of float or double lanes, Mask<T> one truth value a lane. Operators behave like the scalar's
// (comparisons give masks), so a functor templated over its number type works for float, double, vf and vd alike.
// No include guard: included once in each instruction set's namespace, after LaneRaw, broadcast and the cmp_*.

template <class T>
struct Mask {
  typename LaneRaw<T>::mask m;
  friend KI Mask operator&(Mask a, Mask b) { return {(decltype(a.m))(a.m & b.m)}; }
  friend KI Mask operator|(Mask a, Mask b) { return {(decltype(a.m))(a.m | b.m)}; }
  friend KI Mask operator^(Mask a, Mask b) { return {(decltype(a.m))(a.m ^ b.m)}; }
  friend KI Mask operator!(Mask a) { return {(decltype(a.m))(~a.m)}; }
};

template <class T>
struct Lanes {
  using value = T;
  using mask = Mask<T>;
  using raw = typename LaneRaw<T>::type;
  static constexpr int W = sizeof(raw) / sizeof(T);
  raw v;

  Lanes() = default;
  KI Lanes(raw x) : v(x) {}
  KI Lanes(T x) : v(broadcast(x)) {}

  friend KI Lanes operator+(Lanes a, Lanes b) { return raw(a.v + b.v); }
  friend KI Lanes operator-(Lanes a, Lanes b) { return raw(a.v - b.v); }
  friend KI Lanes operator*(Lanes a, Lanes b) { return raw(a.v * b.v); }
  friend KI Lanes operator/(Lanes a, Lanes b) { return raw(a.v / b.v); }
  friend KI Lanes operator-(Lanes a) { return raw(-a.v); }
  friend KI Lanes& operator+=(Lanes& a, Lanes b) { return a = a + b; }
  friend KI Lanes& operator-=(Lanes& a, Lanes b) { return a = a - b; }
  friend KI Lanes& operator*=(Lanes& a, Lanes b) { return a = a * b; }
  friend KI Lanes& operator/=(Lanes& a, Lanes b) { return a = a / b; }
  friend KI mask operator<(Lanes a, Lanes b) { return {cmp_lt(a.v, b.v)}; }
  friend KI mask operator<=(Lanes a, Lanes b) { return {cmp_le(a.v, b.v)}; }
  friend KI mask operator>(Lanes a, Lanes b) { return {cmp_lt(b.v, a.v)}; }
  friend KI mask operator>=(Lanes a, Lanes b) { return {cmp_le(b.v, a.v)}; }
  friend KI mask operator==(Lanes a, Lanes b) { return {cmp_eq(a.v, b.v)}; }
  friend KI mask operator!=(Lanes a, Lanes b) { return {cmp_ne(a.v, b.v)}; }  // true where either is NaN
};

using vf = Lanes<float>;
using vd = Lanes<double>;

// The register a storage type is computed in: lanes_of<bfloat16> is vf, lanes_of<double> is vd.
template <class T>
using lanes_of = Lanes<std::conditional_t<std::is_same_v<T, double>, double, float>>;

template <class T, int N>
KI void transpose_by_lanes(Lanes<T> (&r)[N]) {
  T t[N][N];
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) t[j][i] = r[i].v[j];
  std::memcpy(&r, t, sizeof t);
}
