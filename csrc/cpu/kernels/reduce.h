// The reduction table compiled into loops over registers, for a type of memory each. Everything is a fold of rows into
// columns; a reduction along memory is one, too, with a few dozen columns that are folded together in the end.

#include "int_lanes.h"

// Partial results are kept in float64 or int64.
template <class T>
using wide_t = std::conditional_t<std::is_same_v<T, int64_t>, int64_t, double>;

#define SG_ROW(kDomain_, name, term_, fold_, identity_, result_) \
  struct Reduce_##name {                                         \
    static constexpr Domain kDomain = Domain::kDomain_;          \
    static constexpr double kIdentity = identity_;               \
    template <class L>                                           \
    KI static L term(L a) {                                      \
      return term_;                                              \
    }                                                            \
    template <class L>                                           \
    KI static L fold(L a, L b) {                                 \
      return fold_;                                              \
    }                                                            \
    template <class W>                                           \
    static W result(W a, [[maybe_unused]] double n) {            \
      return W(result_);                                         \
    }                                                            \
  };
SG_REDUCE(SG_ROW)
#undef SG_ROW

// What T is folded in: float for 16 bits.
template <class T>
using folded_t = typename lane_for<T>::value;

template <class Op, class T>
KI lane_for<T> identity_of() {
  return lane_for<T>(cast<folded_t<T>>(Op::kIdentity));
}

// acc[c] = fold(acc[c], term(x[r, c])), four rows at a time, so that acc is touched seldom and sums stay accurate
template <class Op, class T>
KT void fold_rows(void* acc, const void* from, int64_t row_stride, int64_t rows, int64_t cols) {
  using L = lane_for<T>;
  folded_t<T>* const a = static_cast<folded_t<T>*>(acc);
  const T* x = static_cast<const T*>(from);
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4, x += 4 * row_stride) {
    const T *x1 = x + row_stride, *x2 = x1 + row_stride, *x3 = x2 + row_stride;
    const auto four = [&](int64_t c, auto... rest) KL {
      const L low = Op::template fold<L>(Op::term(load<L>(x + c, rest...)), Op::term(load<L>(x1 + c, rest...)));
      const L high = Op::template fold<L>(Op::term(load<L>(x2 + c, rest...)), Op::term(load<L>(x3 + c, rest...)));
      store(a + c, Op::fold(load<L>(a + c, rest...), Op::fold(low, high)), rest...);
    };
    int64_t c = 0;
    for (; c + L::W <= cols; c += L::W) four(c);
    if (c < cols) four(c, int(cols - c));
  }
  for (; r < rows; r++, x += row_stride) {
    const auto one = [&](int64_t c, auto... rest) KL {
      store(a + c, Op::fold(load<L>(a + c, rest...), Op::term(load<L>(x + c, rest...))), rest...);
    };
    int64_t c = 0;
    for (; c + L::W <= cols; c += L::W) one(c);
    if (c < cols) one(c, int(cols - c));
  }
}

// n neighbours folded into one register, in four chains.
template <class Op, class T>
KI lane_for<T> fold_run(const T* x, int64_t n) {
  using L = lane_for<T>;
  const L identity = identity_of<Op, T>();
  if constexpr (L::W == 1) {  // GCC 12 miscompiles four scalar chains for AVX-512, and vectorises one by itself
    L a = identity;
    for (int64_t i = 0; i < n; i++) a = Op::fold(a, Op::term(load<L>(x + i)));
    return a;
  } else {
    L a = identity, b = identity, c = identity, d = identity;
    int64_t i = 0;
    for (; i + 4 * L::W <= n; i += 4 * L::W) {
      a = Op::fold(a, Op::term(load<L>(x + i)));
      b = Op::fold(b, Op::term(load<L>(x + i + L::W)));
      c = Op::fold(c, Op::term(load<L>(x + i + 2 * L::W)));
      d = Op::fold(d, Op::term(load<L>(x + i + 3 * L::W)));
    }
    for (; i + L::W <= n; i += L::W) a = Op::fold(a, Op::term(load<L>(x + i)));
    const int rest = int(n - i);
    if (rest) b = Op::fold(b, select(first<L>(rest), Op::term(load<L>(x + i, rest)), identity));
    return Op::template fold<L>(Op::fold(a, b), Op::fold(c, d));
  }
}

// wide[r] = the fold of row r. As many rows as a register has lanes are folded together by one transposition.
template <class Op, class T>
KT void fold_runs(void* wide, const void* from, int64_t row_stride, int64_t rows, int64_t n) {
  using L = lane_for<T>;
  const T* const x = static_cast<const T*>(from);
  wide_t<folded_t<T>>* const to = static_cast<wide_t<folded_t<T>>*>(wide);
  for (int64_t r = 0; r < rows; r += L::W) {
    L row[L::W];
    for (int64_t j = 0; j < L::W; j++)
      row[j] = r + j < rows ? fold_run<Op, T>(x + (r + j) * row_stride, n) : identity_of<Op, T>();
    if constexpr (L::W > 1) transpose(row);
    for (int half = L::W / 2; half > 0; half /= 2)
      for (int j = 0; j < half; j++) row[j] = Op::fold(row[j], row[j + half]);
    store(to + r, row[0], int(std::min<int64_t>(L::W, rows - r)));
  }
}

// wide[c] = fold(wide[c], part[c])
template <class Op, class T>
KI void fold_part(void* wide, const void* part, int64_t cols) {
  using W = wide_t<T>;
  using L = lane_for<W>;
  W* const to = static_cast<W*>(wide);
  const T* const from = static_cast<const T*>(part);
  int64_t c = 0;
  for (; c + L::W <= cols; c += L::W) store(to + c, Op::fold(load<L>(to + c), load<L>(from + c)));
  if (c < cols) {
    const int rest = int(cols - c);
    store(to + c, Op::fold(load<L>(to + c, rest), load<L>(from + c, rest)), rest);
  }
}

template <class Op, class T>
KT void fold_partial(void* wide, const void* part, int64_t cols) {
  fold_part<Op, T>(wide, part, cols);
}

// wide[c] = fold of wide[c] and `blocks` times kFlushRows rows of kDealt neighbours. The columns stay in registers,
// even and odd rows in two chains; only in chains as plain as these does GCC read memory in its order, as prefetching
// wants it.
template <class Op, class T>
KT void fold_blocks(void* wide, const void* from, int64_t blocks) {
  using L = lane_for<T>;
  constexpr int kTogether = std::min(4, kDealt / L::W), kCols = kTogether * L::W;
  wide_t<folded_t<T>>* const to = static_cast<wide_t<folded_t<T>>*>(wide);
  const T* x = static_cast<const T*>(from);
  for (int64_t i = 0; i < blocks; i++, x += kFlushRows * kDealt) {
    for (int c = 0; c < kDealt; c += kCols) {
      L even[kTogether], odd[kTogether];
      for (int k = 0; k < kTogether; k++) even[k] = odd[k] = identity_of<Op, T>();
      SG_UNROLL(1)
      for (int r = 0; r < kFlushRows; r += 2) {
        const T* const row = x + r * kDealt + c;
        SG_UNROLL(4)
        for (int k = 0; k < kTogether; k++) even[k] = Op::fold(even[k], Op::term(load<L>(row + k * L::W)));
        SG_UNROLL(4)
        for (int k = 0; k < kTogether; k++) odd[k] = Op::fold(odd[k], Op::term(load<L>(row + kDealt + k * L::W)));
      }
      folded_t<T> part[kCols];
      for (int k = 0; k < kTogether; k++) store(part + k * L::W, Op::fold(even[k], odd[k]));
      fold_part<Op, folded_t<T>>(to + c, part, kCols);
    }
  }
}

template <class Op, class W>
void finish(void* wide, int64_t cols, double n) {
  W* const w = static_cast<W*>(wide);
  for (int64_t c = 0; c < cols; c++) w[c] = Op::result(w[c], n);
}

template <class Op, class T>
inline ReduceKernels reduce_kernels_of() {
  using A = folded_t<T>;
  if constexpr (std::is_same_v<T, int64_t> && Op::kDomain == Domain::kFloat) return {};
  else {
    void (*blocks)(void*, const void*, int64_t) = nullptr;
    if constexpr (lane_for<T>::W > 1) blocks = fold_blocks<Op, T>;
    return {fold_rows<Op, T>,
            fold_runs<Op, T>,
            blocks,
            fold_partial<Op, A>,
            fold_partial<Op, wide_t<A>>,
            finish<Op, wide_t<A>>,
            Op::kIdentity,
            int64_t(sizeof(T))};
  }
}

template <class T>
inline ReduceKernels reduce_kernels_of(ReduceOp op) {
  switch (op) {
#define SG_ROW(domain, name, ...) \
  case ReduceOp::k_##name: return reduce_kernels_of<Reduce_##name, T>();
    SG_REDUCE(SG_ROW)
#undef SG_ROW
    default: return {};
  }
}

// `dtype`: a lane type, or of 16 bits
inline ReduceKernels find_reduce_kernels(ReduceOp op, DType dtype) {
  switch (dtype) {
    case DType::k_float32: return reduce_kernels_of<float>(op);
    case DType::k_float64: return reduce_kernels_of<double>(op);
    case DType::k_bfloat16: return reduce_kernels_of<bfloat16>(op);
    case DType::k_float16: return reduce_kernels_of<float16>(op);
    default: return reduce_kernels_of<int64_t>(op);
  }
}
