// What the expressions of the pointwise table use beyond vmath: the integer lane, and functions of more than one step.
// Like vmath it is compiled once per instruction set (KI marks every function) and has no include guard. Templates take
// any lane type L: a register of floats or doubles, or Int.

// A 64-bit integer whose arithmetic wraps around; every integer dtype and bool is computed in it and cut on the store.
struct Int {
  using value = int64_t;
  static constexpr int W = 1;
  int64_t v;
  Int() = default;
  KI explicit Int(int64_t x) : v(x) {}
  KI static Int wrap(uint64_t x) { return Int(int64_t(x)); }
  friend KI Int operator+(Int a, Int b) { return wrap(uint64_t(a.v) + uint64_t(b.v)); }
  friend KI Int operator-(Int a, Int b) { return wrap(uint64_t(a.v) - uint64_t(b.v)); }
  friend KI Int operator*(Int a, Int b) { return wrap(uint64_t(a.v) * uint64_t(b.v)); }
  friend KI Int operator-(Int a) { return wrap(0 - uint64_t(a.v)); }
  friend KI Int operator~(Int a) { return Int(~a.v); }
  friend KI Int operator&(Int a, Int b) { return Int(a.v & b.v); }
  friend KI Int operator|(Int a, Int b) { return Int(a.v | b.v); }
  friend KI Int operator^(Int a, Int b) { return Int(a.v ^ b.v); }
  // A count outside [0, 64) shifts everything out.
  friend KI Int operator<<(Int a, Int b) { return wrap(uint64_t(b.v) > 63 ? 0 : uint64_t(a.v) << b.v); }
  friend KI Int operator>>(Int a, Int b) { return Int(a.v >> (uint64_t(b.v) > 63 ? 63 : b.v)); }
  friend KI bool operator==(Int a, Int b) { return a.v == b.v; }
  friend KI bool operator!=(Int a, Int b) { return a.v != b.v; }
  friend KI bool operator<(Int a, Int b) { return a.v < b.v; }
  friend KI bool operator<=(Int a, Int b) { return a.v <= b.v; }
  friend KI bool operator>(Int a, Int b) { return a.v > b.v; }
  friend KI bool operator>=(Int a, Int b) { return a.v >= b.v; }
};
KI Int select(bool m, Int a, Int b) { return m ? a : b; }
KI Int abs(Int a) { return a.v < 0 ? -a : a; }
KI Int ceil(Int a) { return a; }
KI Int floor(Int a) { return a; }
KI Int round(Int a) { return a; }
KI Int trunc(Int a) { return a; }
KI Int pow(Int base, Int exponent) {
  if (exponent.v < 0) {  // the true value, truncated; 0 to a negative power gives 0
    if (base.v == 1 || base.v == -1) return exponent.v & 1 ? base : Int(1);
    return Int(0);
  }
  Int result(1);
  for (uint64_t e = uint64_t(exponent.v); e; e >>= 1) {
    if (e & 1) result = result * base;
    base = base * base;
  }
  return result;
}
#ifndef SG_DEVICE  // a GPU's kernel looks at its divisors itself: it cannot throw
KI void require_divisor(const char* op, Int b) {
  if (b.v == 0) fail(ErrorCode::Value, op, ": integer division by zero");
}
#else
KI void require_divisor(const char*, Int) {}
#endif
KI Int fmod(Int a, Int b) {
  require_divisor("fmod", b);
  return Int(b.v == -1 ? 0 : a.v % b.v);  // the lowest number divided by -1 traps
}
KI Int remainder(Int a, Int b) {
  require_divisor("remainder", b);
  const int64_t r = b.v == -1 ? 0 : a.v % b.v;
  return Int(r != 0 && (r < 0) != (b.v < 0) ? r + b.v : r);
}
KI Int floor_divide(Int a, Int b) {
  require_divisor("floorDivide", b);
  if (b.v == -1) return -a;
  return Int(a.v / b.v - (a.v % b.v != 0 && (a.v < 0) != (b.v < 0)));
}

// Functions that no training step waits for: the C library, lane by lane.
#define SG_PER_LANE(name)                                    \
  template <class L>                                         \
  KI L name(L a) {                                           \
    return per_lane([](auto x) { return std::name(x); }, a); \
  }
SG_PER_LANE(tan)
SG_PER_LANE(asin)
SG_PER_LANE(acos)
SG_PER_LANE(atan)
SG_PER_LANE(sinh)
SG_PER_LANE(cosh)
SG_PER_LANE(asinh)
SG_PER_LANE(acosh)
SG_PER_LANE(atanh)
SG_PER_LANE(erfc)
#undef SG_PER_LANE
#define SG_PER_LANE(name)                                                  \
  template <class L>                                                       \
  KI L name(L a, L b) {                                                    \
    return per_lane([](auto x, auto y) { return std::name(x, y); }, a, b); \
  }
SG_PER_LANE(atan2)
SG_PER_LANE(hypot)
SG_PER_LANE(fmod)
#undef SG_PER_LANE

template <class L, class M>
KI L flag(M m) {
  return select(m, L(1), L(0));
}
template <class L>
KI L sign(L a) {
  return select(a > L(0), L(1), select(a < L(0), L(-1), L(0)));
}
// A NaN on either side is the result.
template <class L>
KI L maximum(L a, L b) {
  return select((a > b) | (a != a), a, b);
}
template <class L>
KI L minimum(L a, L b) {
  return select((a < b) | (a != a), a, b);
}
template <class L>
KI L clamp(L x, L low, L high) {
  return minimum(maximum(x, low), high);
}
template <class L>
KI L lerp(L a, L b, L w) {  // exact at both ends
  return select(abs(w) < L(0.5), fma(w, b - a, a), fnma(b - a, L(1) - w, b));
}

// Division with the sign rules of Python: the remainder has the divisor's sign.
template <class L>
KI L remainder(L a, L b) {
  const L r = fmod(a, b);
  return select((r != L(0)) & ((r < L(0)) ^ (b < L(0))), r + b, r);
}
template <class L>
KI L floor_divide(L a, L b) {
  const L r = fmod(a, b), exact = (a - r) / b;
  const L below = select((r != L(0)) & ((r < L(0)) ^ (b < L(0))), exact - L(1), exact);
  const L down = floor(below), nearest = select(below - down > L(0.5), down + L(1), down);
  return select(b == L(0), a / b, select(below == L(0), copysign(L(0), a / b), nearest));
}

template <class L>
KI L logaddexp(L a, L b) {
  return select(a == b, a + L(0.69314718055994531), maximum(a, b) + log1p(exp(-abs(a - b))));
}
template <class L>
KI L xlogy(L x, L y) {
  return select(y != y, y, select(x == L(0), L(0), x * log(y)));
}

// ---- activations
template <class L>
KI L log_sigmoid(L x) {
  return minimum(x, L(0)) - log1p(exp(-abs(x)));
}
template <class L>
KI L softplus(L x) {
  return maximum(x, L(0)) + log1p(exp(-abs(x)));
}
template <class L>
KI L silu(L x) {
  return x / (exp(-x) + L(1));
}
template <class L>
KI L silu_backward(L dy, L x) {
  const L s = sigmoid(x);
  return dy * s * fma(x, L(1) - s, L(1));
}
// tanh(log(1 + e)) = n / (n + 2) with n = e (e + 2); from x = 20 on it rounds to 1 in float64.
template <class L>
KI L mish(L x) {
  const L e = exp(minimum(x, L(20))), n = e * (e + L(2));
  return x * (n / (n + L(2)));
}
template <class L>
KI L mish_backward(L dy, L x) {
  const L e = exp(minimum(x, L(20))), n = e * (e + L(2)), d = n + L(2);
  const L slope = e / (e + L(1)) * L(4) * (n + L(1)) / (d * d);  // sigmoid(x) (1 - tanh^2)
  return select(x > L(20), dy, dy * fma(x, slope, n / d));
}
inline constexpr double kSeluScale = 1.0507009873554804934193349852946, kSeluAlpha = 1.6732632423543772848170429916717;
template <class L>
KI L selu(L x) {
  return select(x > L(0), L(kSeluScale) * x, L(kSeluScale * kSeluAlpha) * expm1(x));
}
template <class L>
KI L selu_backward(L dy, L x) {
  return dy * select(x > L(0), L(kSeluScale), L(kSeluScale * kSeluAlpha) * exp(x));
}
template <class L>
KI L hardsigmoid(L x) {
  return clamp(x + L(3), L(0), L(6)) / L(6);
}
template <class L>
KI L hardswish_backward(L dy, L x) {
  return select(x <= L(-3), L(0), select(x >= L(3), dy, dy * (x / L(3) + L(0.5))));
}
// dy where low < x < high
template <class L>
KI L inside(L dy, L x, L low, L high) {
  return select((x > low) & (x < high), dy, L(0));
}
template <class L>
KI L erf_backward(L dy, L x) {
  return dy * L(1.1283791670955126) * exp(-x * x);
}

// ---- losses
template <class L>
KI L smooth_l1(L x, L y, L beta) {
  const L d = abs(x - y);
  return select(d < beta, L(0.5) * d * d / beta, d - L(0.5) * beta);
}
template <class L>
KI L smooth_l1_derivative(L x, L y, L beta) {
  const L d = x - y;
  return select(abs(d) < beta, d / beta, sign(d));
}
template <class L>
KI L huber(L x, L y, L delta) {
  const L d = abs(x - y);
  return select(d <= delta, L(0.5) * d * d, delta * (d - L(0.5) * delta));
}
template <class L>
KI L bce_with_logits(L x, L target) {
  return maximum(x, L(0)) - x * target + log1p(exp(-abs(x)));
}

// ---- gradients of binary operations
template <class L>
KI L maximum_backward(L dy, L x, L other) {  // a tie is shared
  return select(x < other, L(0), select(x == other, dy * L(0.5), dy));
}
template <class L>
KI L pow_backward(L dy, L base, L exponent) {
  return select(exponent == L(0), L(0), dy * (exponent * pow(base, exponent - L(1))));
}
template <class L>
KI L pow_backward_exponent(L dy, L base, L exponent) {
  return select((base == L(0)) & (exponent >= L(0)), L(0), dy * pow(base, exponent) * log(base));
}
