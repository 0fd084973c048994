// Products with few rows (decoding: one token at a time) or few columns. Packing b would cost more than the product, so
// b is read once, where it lies. Sums go to a block of E and then through the general epilogue.

// Whether that pays for the few rows of `small` and a `big` of this layout.
template <class T>
static bool is_thin(const Operand<T>& small, const Operand<T>& big) {
  const int64_t limit = big.along_rows() ? 32 : !big.across_rows() ? 0 : kPaired<T> ? 8 : 16;
  return small.width <= std::min(limit, std::max<int64_t>(1, big.width / 4));
}

// n elements, `step` apart, to a contiguous row
template <class T, class To>
KT void copy_row(const T* s, int64_t step, int64_t n, To* d) {
  int64_t i = 0;
  if constexpr (!std::is_same_v<T, To>) {
    using V = lanes_of<T>;
    if (step == 1)
      for (; i + V::W <= n; i += V::W) store(d + i, load<V>(s + i));
  }
  for (; i < n; i++) {
    if constexpr (std::is_same_v<T, To>) d[i] = s[i * step];
    else d[i] = To(s[i * step]);
  }
}

// sums[i] = the sum over K of a's row i
template <class T>
KT void sum_rows(const Operand<T>& a, accumulate_t<T>* sums, bool parallel) {
  using V = lanes_of<T>;
  for_tasks(parallel, ceil_div(a.width, 16), [&](int task) KT {
    for (int64_t i = task * 16; i < std::min<int64_t>(a.width, task * 16 + 16); i++) {
      const T* p = a.data + i * a.across;
      V sum(0);
      accumulate_t<T> rest = 0;
      int64_t k = 0;
      if (a.along == 1)
        for (; k + V::W <= a.depth; k += V::W) sum += load<V>(p + k);
      for (; k < a.depth; k++) rest += accumulate_t<T>(p[k * a.along]);
      sums[i] = reduce_add(sum) + rest;
    }
  });
}

// sums[i * stride + j] = a row i . b row j for M x N of them, each contiguous along K. a holds floats, or bf16 if the
// products are of pairs.
template <int M, int N, class T, class A>
KT void dot_block(const A* a, int64_t a_row, const T* b, int64_t b_row, int64_t depth, accumulate_t<T>* sums,
                  int64_t stride) {
  using V = lanes_of<T>;
  constexpr int step = V::W * kUnit<T>;
  V r[M * N];
  SG_UNROLL(16)
  for (int i = 0; i < M * N; i++) r[i] = V(0);
  const auto add = [&](auto get) KL {
    V y[N];
    SG_UNROLL(16)
    for (int j = 0; j < N; j++) y[j] = get(b + j * b_row);
    SG_UNROLL(4)
    for (int i = 0; i < M; i++) {
      const V x = get(a + i * a_row);
      SG_UNROLL(16)
      for (int j = 0; j < N; j++) r[i * N + j] = dot<kPaired<T>>(x, y[j], r[i * N + j]);
    }
  };
  int64_t k = 0;
  for (; k + step <= depth; k += step) add([=](const auto* p) KL { return load_units(p + k); });
  if (k < depth) add([=](const auto* p) KL { return load_units(p + k, int(depth - k)); });
  if constexpr (M * N == V::W) {  // all horizontal sums at once
    transpose(r);
    SG_UNROLL(4)
    for (int half = V::W / 2; half; half /= 2)
      for (int i = 0; i < half; i++) r[i] += r[i + half];
    accumulate_t<T> lanes[V::W];
    store(lanes, r[0]);
    for (int i = 0; i < M; i++) std::copy_n(lanes + i * N, N, sums + i * stride);
  } else {
    for (int i = 0; i < M; i++)
      for (int j = 0; j < N; j++) sums[i * stride + j] = reduce_add(r[i * N + j]);
  }
}

// sums[i * stride + j] = a row i . b row j; a: m rows of `depth`, b: n rows. As many rows at a time as there are, and
// columns to fill a register with the sums.
template <class T, class A>
KT void dot_columns(const A* a, int64_t m, const T* b, int64_t b_row, int64_t n, int64_t depth, accumulate_t<T>* sums,
                    int64_t stride) {
  constexpr int W = lanes_of<T>::W;
  const auto band = [&](auto rows, int64_t i, int64_t j) KT {
    constexpr int M = rows, N = W / M;
    for (int64_t x = j; x < j + W; x += N)
      dot_block<M, N>(a + i * depth, depth, b + x * b_row, b_row, depth, sums + i * stride + x, stride);
  };
  int64_t j = 0;
  for (; j + W <= n; j += W) {
    int64_t i = 0;
    if constexpr (W >= 4)
      for (; i + 4 <= m; i += 4) band(std::integral_constant<int, 4>(), i, j);
    for (; i + 2 <= m; i += 2) band(std::integral_constant<int, 2>(), i, j);
    if (i < m) band(std::integral_constant<int, 1>(), i, j);
  }
  for (; j < n; j++)
    for (int64_t i = 0; i < m; i++)
      dot_block<1, 1>(a + i * depth, depth, b + j * b_row, b_row, depth, sums + i * stride + j, stride);
}

// sums = a b for M rows and NV registers of columns, b contiguous across K: the micro-kernel with b unpacked. a:
// [K][sa].
template <int M, int NV, class T>
KT void row_block(const accumulate_t<T>* a, int64_t sa, const T* b, int64_t b_row, int64_t depth, int n,
                  accumulate_t<T>* sums, int64_t stride) {
  using V = lanes_of<T>;
  V r[M][NV];
  SG_UNROLL(12)
  for (int i = 0; i < M; i++)
    for (int j = 0; j < NV; j++) r[i][j] = V(0);
  if (n >= NV * V::W) multiply_add<M, false, false>(r, a, sa, b, b_row, depth);
  else
    for (int64_t k = 0; k < depth; k++, a += sa, b += b_row) {
      const V y = load<V>(b, n);
      for (int i = 0; i < M; i++) r[i][0] = fma(V(a[i]), y, r[i][0]);
    }
  for (int i = 0; i < M; i++)
    for (int j = 0; j < NV && n > j * V::W; j++) store(sums + i * stride + j * V::W, r[i][j], n - j * V::W);
}

// sums[i * stride + j] = a column i . b column j; a: [K][m]. Columns outside, so that b comes from memory once.
template <class T>
KT void row_columns(const accumulate_t<T>* a, int64_t m, const T* b, int64_t b_row, int64_t n, int64_t depth,
                    accumulate_t<T>* sums, int64_t stride) {
  constexpr int W = lanes_of<T>::W;
  const auto columns = [&](auto registers, int64_t j) KT {
    constexpr int NV = registers;
    const int count = int(std::min<int64_t>(NV * W, n - j));
    const auto band = [&](auto rows, int64_t i) KT {
      row_block<rows, NV>(a + i, m, b + j, b_row, depth, count, sums + i * stride + j, stride);
    };
    int64_t i = 0;
    if constexpr (kTileRows >= 12) {
      for (; i + 6 <= m; i += 6) band(std::integral_constant<int, 6>(), i);
      for (; i + 4 <= m; i += 4) band(std::integral_constant<int, 4>(), i);
    }
    for (; i + 2 <= m; i += 2) band(std::integral_constant<int, 2>(), i);
    if (i < m) band(std::integral_constant<int, 1>(), i);
  };
  int64_t j = 0;
  for (; j + 4 * W <= n; j += 4 * W) columns(std::integral_constant<int, 4>(), j);
  for (; j < n; j += W) columns(std::integral_constant<int, 1>(), j);
}
