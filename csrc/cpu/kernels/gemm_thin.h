// Products with few rows (decoding: one token at a time) or few columns. Packing b would cost more than the product, so
// b is read once, where it lies. Sums go to a block of E and then through the general epilogue.

static constexpr int kThin = 16;

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

// sums[i * stride + j] = a row i . b column j, j < n: both contiguous along K. a: rows of `a_row` (float, or bf16
// pairs).
template <int M, int N, class T, class A>
KT void dot_block(const A* a, int64_t a_row, const T* b, int64_t b_row, int64_t depth, accumulate_t<T>* sums,
                  int64_t stride) {
  using V = lanes_of<T>;
  constexpr int step = V::W * kUnit<T>;
  V r[M][N];
  SG_UNROLL(4)
  for (int i = 0; i < M; i++) SG_UNROLL(4)
  for (int j = 0; j < N; j++) r[i][j] = V(0);
  const auto add = [&](auto get) KL {
    V y[N];
    SG_UNROLL(4)
    for (int j = 0; j < N; j++) y[j] = get(b + j * b_row);
    SG_UNROLL(4)
    for (int i = 0; i < M; i++) {
      const V x = get(a + i * a_row);
      SG_UNROLL(4)
      for (int j = 0; j < N; j++) r[i][j] = dot<kPaired<T>>(x, y[j], r[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + step <= depth; k += step) add([=](const auto* p) KL { return load_units(p + k); });
  if (k < depth) add([=](const auto* p) KL { return load_units(p + k, int(depth - k)); });
  for (int i = 0; i < M; i++)
    for (int j = 0; j < N; j++) sums[i * stride + j] = reduce_add(r[i][j]);
}

// sums[i * stride + j] = a row i . b row j; a: m rows of `depth`, b: n rows
template <class T, class A>
KT void dot_columns(const A* a, int64_t m, const T* b, int64_t b_row, int64_t n, int64_t depth, accumulate_t<T>* sums,
                    int64_t stride) {
  constexpr int M = kTileRows >= 12 ? 4 : 2;
  for (int64_t j = 0; j < n; j += 4)
    for (int64_t i = 0; i < m; i += M) {
      const A* x = a + i * depth;
      const T* y = b + j * b_row;
      accumulate_t<T>* s = sums + i * stride + j;
      if (j + 4 <= n && i + M <= m) dot_block<M, 4>(x, depth, y, b_row, depth, s, stride);
      else if (j + 4 <= n) {
        for (int64_t k = 0; k < m - i; k++)
          dot_block<1, 4>(x + k * depth, depth, y, b_row, depth, s + k * stride, stride);
      } else {
        for (int64_t k = 0; k < std::min<int64_t>(M, m - i); k++)
          for (int64_t l = 0; l < n - j; l++)
            dot_block<1, 1>(x + k * depth, depth, y + l * b_row, b_row, depth, s + k * stride + l, stride);
      }
    }
}

// b contiguous across K: the micro-kernel with b unpacked. a: [K][sa] of E.
template <int M, int NV, class T>
KI void row_block(const accumulate_t<T>* a, int64_t sa, const T* b, int64_t b_row, int64_t depth, int n,
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

// sums[i * stride + j] = a column i . b column j
template <class T>
KT void row_columns(const accumulate_t<T>* a, int64_t m, const T* b, int64_t b_row, int64_t n, int64_t depth,
                    accumulate_t<T>* sums, int64_t stride) {
  constexpr int W = lanes_of<T>::W, tall = kTileRows / 2;
  const auto band = [&](auto rows, auto registers, int64_t i) KT {
    constexpr int M = rows, NV = registers;
    int64_t j = 0;
    for (; j + NV * W <= n; j += NV * W)
      row_block<M, NV>(a + i, m, b + j, b_row, depth, NV * W, sums + i * stride + j, stride);
    for (; j < n; j += W)
      row_block<M, 1>(a + i, m, b + j, b_row, depth, int(std::min<int64_t>(W, n - j)), sums + i * stride + j, stride);
  };
  int64_t i = 0;
  for (; i + tall <= m; i += tall) band(std::integral_constant<int, tall>(), std::integral_constant<int, 2>(), i);
  for (; i + 2 <= m; i += 2) band(std::integral_constant<int, 2>(), std::integral_constant<int, 4>(), i);
  if (i < m) band(std::integral_constant<int, 1>(), std::integral_constant<int, 4>(), i);
}
