// Elementary functions on lanes. No include guard: included once in each instruction set's namespace.
// Float lanes: own polynomials (fitted with Lawson's algorithm); the comments give the worst error measured against
// long double over a sweep of the whole range, all instruction sets, in units in the last place. Infinities, NaN and
// signed zeros behave as in the C library. Double lanes: the C library, lane by lane, for full accuracy.

template <class F, class T>
KI Lanes<T> per_lane(F f, Lanes<T> a) {
  T x[Lanes<T>::W];
  store(x, a);
  for (int i = 0; i < Lanes<T>::W; i++) x[i] = f(x[i]);
  return load<Lanes<T>>(x);
}
template <class F, class T>
KI Lanes<T> per_lane(F f, Lanes<T> a, Lanes<T> b) {
  T x[Lanes<T>::W], y[Lanes<T>::W];
  store(x, a);
  store(y, b);
  for (int i = 0; i < Lanes<T>::W; i++) x[i] = f(x[i], y[i]);
  return load<Lanes<T>>(x);
}
template <class V>
KI V iota() {
  typename V::value x[V::W];
  for (int i = 0; i < V::W; i++) x[i] = typename V::value(i);
  return load<V>(x);
}
// c[0] + c[1] x + c[2] x^2 ...
template <int N>
KI vf polynomial(vf x, const float (&c)[N]) {
  vf p = c[N - 1];
  SG_UNROLL(16)
  for (int i = N - 2; i >= 0; i--) p = fma(p, x, vf(c[i]));
  return p;
}

#define SG_PER_LANE(name)                                      \
  KI vd name(vd a) {                                           \
    return per_lane([](double x) { return std::name(x); }, a); \
  }
SG_PER_LANE(exp)
SG_PER_LANE(exp2)
SG_PER_LANE(expm1)
SG_PER_LANE(log)
SG_PER_LANE(log2)
SG_PER_LANE(log10)
SG_PER_LANE(log1p)
SG_PER_LANE(tanh)
SG_PER_LANE(erf)
SG_PER_LANE(sin)
SG_PER_LANE(cos)
#undef SG_PER_LANE
template <class T>
KI Lanes<T> pow(Lanes<T> a, Lanes<T> b) {
  return per_lane([](T x, T y) { return T(std::pow(x, y)); }, a, b);
}

// ---- exponentials. The clamps keep NaN (min and max return their second argument where either is NaN).
static constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;
static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // high has few bits: n * high is exact

// For softmax and GELU: 2^x, 2.7 ulp; 0 below 2^-150, but never infinite.
KI vf fast_exp2(vf x) {
  static constexpr float c[] = {1.000000072f,   0.6931469671f,   0.2402211972f,
                                0.05550713283f, 9.675541311e-3f, 1.327646908e-3f};
  x = min(vf(127.9f), max(vf(-200), x));
  const vf n = round(x);
  return scale(polynomial(x - n, c), n);
}
KI vd fast_exp2(vd x) { return exp2(x); }
KI vf exp2(vf x) {
  static constexpr float c[] = {
      1.f, 0.6931471879f, 0.2402264979f, 0.05550357434f, 9.618237508e-3f, 1.339073546e-3f, 1.540350825e-4f};
  x = min(vf(129), max(vf(-151), x));
  const vf n = round(x);
  return scale(polynomial(x - n, c), n);
}
// e^r - 1 on |r| <= ln2 / 2
KI vf expm1_reduced(vf r) {
  static constexpr float c[] = {0.4999999955f, 0.1666657728f, 0.04166685347f, 8.363146339e-3f, 1.390128346e-3f};
  return fma(r * r, polynomial(r, c), r);
}
KI vf exp(vf x) {
  x = min(vf(89), max(vf(-104), x));
  const vf n = round(x * kLog2e), r = fnma(n, vf(kLn2Low), fnma(n, vf(kLn2High), x));
  return scale(expm1_reduced(r) + 1.f, n);
}
KI vf expm1(vf x) {
  const vf y = min(vf(88), max(vf(-104), x));
  const vf n = round(y * kLog2e), q = expm1_reduced(fnma(n, vf(kLn2Low), fnma(n, vf(kLn2High), y)));
  const vf power = scale(vf(1), n);
  const vf result = select(n == vf(0), q, fma(power, q, power - 1.f));
  return select(x == vf(0), x, select(x > vf(88), exp(x), result));
}

// ---- logarithms
// log(x) = e ln2 + f + tail for x > 0 finite, f + 1 in [sqrt(1/2), sqrt(2)]
KI vf log_split(vf x, vf& e, vf& f) {
  static constexpr float c[] = {0.3333333126f,  -0.2499998119f, 0.200006881f,   -0.1666915068f, 0.1425115485f,
                                -0.1239670729f, 0.1163467723f,  -0.1165988725f, 0.07332437277f};
  vf m = mantissa(x, e);
  const auto large = m > vf(1.41421356f);
  m = select(large, m * 0.5f, m);
  e = select(large, e + 1.f, e);
  f = m - 1.f;
  const vf f2 = f * f;
  return fma(f2, vf(-0.5f), f * f2 * polynomial(f, c));
}
KI vf log_special(vf x, vf y) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  y = select(x == vf(0), vf(-inf), y);
  return select((x < vf(0)) | (x != x), vf(nan), select(x == vf(inf), x, y));
}
KI vf log(vf x) {
  vf e, f;
  const vf tail = log_split(x, e, f);
  return log_special(x, fma(e, vf(kLn2High), f + fma(e, vf(kLn2Low), tail)));
}
KI vf log2(vf x) {
  vf e, f;
  const vf tail = log_split(x, e, f);
  return log_special(x, fma(f + tail, vf(kLog2e), e));
}
KI vf log10(vf x) { return log(x) * 0.434294482f; }
// log(1 + x), with what rounding 1 + x lost added back
KI vf log1p(vf x) {
  const vf u = x + 1.f, lost = (x - (u - 1.f)) / u;
  const vf result = log(u) + select((u > vf(0)) & (u < vf(std::numeric_limits<float>::max())), lost, vf(0));
  return select(x == vf(0), x, result);
}

// ---- sigmoid family
template <class V>
KI V sigmoid(V x) {
  return V(1) / (exp(-x) + V(1));
}
KI vf tanh(vf x) {
  static constexpr float c[] = {-0.3333332844f, 0.1333271922f, -0.05384331001f, 0.02096151508f, -6.045396367e-3f};
  const vf t = abs(x), s = x * x;
  const vf far = 1.f - vf(2) / (exp(t + t) + 1.f);
  return copysign(select(t < vf(0.63f), fma(t * s, polynomial(s, c), t), far), x);
}
// erfc(t) for t >= 0.9, 0 beyond 4.05 (where erf is 1 in float)
KI vf erfc_tail(vf t) {
  static constexpr float c[] = {2.856682066e-4f,  -1.130095148f,  -0.6320598711f,   -0.1098621649f, 0.02629846835f,
                                -4.716799021e-3f, 5.87747696e-4f, -4.499236637e-5f, 1.583675525e-6f};
  return select(t > vf(4.05f), vf(0), exp(polynomial(t, c)));
}
KI vf erf_near(vf x) {
  static constexpr float c[] = {0.1283791667f,   -0.3761263386f,   0.112836965f,   -0.02685941348f,
                                5.200989967e-3f, -8.141480225e-4f, 8.362306827e-5f};
  return fma(x, polynomial(x * x, c), x);
}
KI vf erf(vf x) {
  const vf t = abs(x);
  return select(t < vf(0.92f), erf_near(x), select(x == x, copysign(1.f - erfc_tail(t), x), x));
}

// ---- GELU. The tanh form is x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3): one exponential, no cancellation near
// 0.
static constexpr float kGeluScale = 2 * 0.7978845608f, kGeluCube = 0.044715f;
KI vf gelu_sigmoid(vf x, vf x2) {
  const vf t = x * fma(x2, vf(-kGeluScale * kLog2e * kGeluCube), vf(-kGeluScale * kLog2e));
  return select(t > vf(126), vf(0), fast_rcp(fast_exp2(t) + 1.f));
}
KI vd gelu_sigmoid(vd x, vd x2) {
  return sigmoid(x * fma(x2, vd(2 * 0.7978845608028654 * 0.044715), vd(2 * 0.7978845608028654)));
}
template <class V>
KI V gelu_tanh(V x) {
  return x * gelu_sigmoid(x, x * x);
}
template <class V>
KI V gelu_tanh_grad(V x) {
  const double c = 2 * 0.7978845608028654;
  const V x2 = x * x, s = gelu_sigmoid(x, x2), slope = fma(x2, V(3 * 0.044715 * c), V(c));
  return fma(x * s * (V(1) - s), slope, s);
}
// The exact form is x Phi(x), Phi the normal distribution function.
KI vf normal_cdf(vf x) {
  const vf z = x * 0.707106781f, t = abs(z), half_tail = erfc_tail(t) * 0.5f;
  const vf far = select(x < vf(0), half_tail, 1.f - half_tail);
  return select(t < vf(0.92f), fma(erf_near(z), vf(0.5f), vf(0.5f)), far);
}
KI vd normal_cdf(vd x) {
  return per_lane([](double v) { return 0.5 * std::erfc(v * -0.7071067811865476); }, x);
}
template <class V>
KI V gelu_erf(V x) {
  return x * normal_cdf(x);
}
template <class V>
KI V gelu_erf_grad(V x) {
  return fma(x * V(0.3989422804014327), exp(x * x * V(-0.5)), normal_cdf(x));
}

// ---- trigonometry: Cody and Waite's reduction by pi / 2 in three parts, the C library beyond 8192
KI vf sincos_reduced(vf x, float shift) {
  static constexpr float s[] = {-0.1666666458f, 8.332733181e-3f, -1.9584832e-4f};
  static constexpr float c[] = {0.04166666458f, -1.388828918e-3f, 2.454507886e-5f};
  const vf q = round(x * 0.636619772f);
  vf r = fnma(q, vf(1.5703125f), x);
  r = fnma(q, vf(4.837512969970703125e-4f), r);
  r = fnma(q, vf(7.549789954891882e-8f), r);
  const vf turn = q + shift, quadrant = turn - floor(turn * 0.25f) * 4.f;
  const vf r2 = r * r, sine = fma(r * r2, polynomial(r2, s), r);
  const vf cosine = fma(r2 * r2, polynomial(r2, c), fma(r2, vf(-0.5f), vf(1)));
  const vf y = select((quadrant == vf(1)) | (quadrant == vf(3)), cosine, sine);
  return select(quadrant >= vf(2), -y, y);
}
KI vf sin(vf x) {
  if (any(!(abs(x) <= vf(8192)))) return per_lane([](float v) { return std::sin(v); }, x);
  return select(x == vf(0), x, sincos_reduced(x, 0));
}
KI vf cos(vf x) {
  if (any(!(abs(x) <= vf(8192)))) return per_lane([](float v) { return std::cos(v); }, x);
  return sincos_reduced(x, 1);
}
