// Converting loads and stores of boxes. Runs of neighbours go through registers; a box with a short or transposed inner
// dimension is walked along its columns, so that the loop without overhead is the long one.

// The conversions that have a register form.
template <class A, class B>
inline constexpr bool kLaneConvertible =
    (std::is_same_v<A, float> || std::is_same_v<A, double> || is_float16_kind(DTypeOf<A>::value)) &&
    (std::is_same_v<B, float> || std::is_same_v<B, double> || is_float16_kind(DTypeOf<B>::value));

template <class From, class To>
KT void convert_run(const From* from, int64_t n, To* to) {
  if constexpr (std::is_same_v<From, To>) std::memcpy(to, from, size_t(n) * sizeof(To));
  else if constexpr (kLaneConvertible<From, To>) {
    using V = lanes_of<std::conditional_t<sizeof(From) == 8 || sizeof(To) == 8, double, float>>;
    int64_t i = 0;
    for (; i + V::W <= n; i += V::W) store(to + i, load<V>(from + i));
    if (i < n) store(to + i, load<V>(from + i, int(n - i)), int(n - i));
  } else if constexpr (std::is_same_v<From, bool>) {  // as bytes, which the compiler vectorises
    const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(from);
    for (int64_t i = 0; i < n; i++) to[i] = cast<To>(bytes[i] != 0 ? 1 : 0);
  } else {
    for (int64_t i = 0; i < n; i++) to[i] = cast<To>(from[i]);
  }
}

// Column by column, out of a transposed operand: known bounds make it twice as fast.
template <class From, class To>
KI void convert_transposed(const From* from, int64_t from_col, To* to, int64_t to_row, int64_t rows, int64_t cols) {
  for (int64_t c = 0; c < cols; c++) {
    prefetch_run(from + (c + cols) * from_col, rows);
    for (int64_t r = 0; r < rows; r++) to[r * to_row + c] = cast<To>(from[r + c * from_col]);
  }
}

template <class From, class To>
KT void convert_box(const From* from, int64_t from_row, int64_t from_col, To* to, int64_t to_row, int64_t to_col,
                    int64_t rows, int64_t cols) {
  if (to_col == 1 && from_col == 1 && (cols >= 16 || rows == 1)) {
    for (int64_t r = 0; r < rows; r++) convert_run(from + r * from_row, cols, to + r * to_row);
  } else if (to_col == 1 && from_row == 1 && rows == kTile && cols == kTile) {
    convert_transposed(from, from_col, to, to_row, kTile, kTile);
  } else if (rows >= cols) {
    for (int64_t c = 0; c < cols; c++)
      for (int64_t r = 0; r < rows; r++) to[r * to_row + c * to_col] = cast<To>(from[r * from_row + c * from_col]);
  } else {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++) to[r * to_row + c * to_col] = cast<To>(from[r * from_row + c * from_col]);
  }
}

template <class Lane, class T>
KT void load_block(Strided from, int64_t rows, int64_t cols, void* to) {
  convert_box(static_cast<const T*>(from.data), from.row_stride, from.col_stride, static_cast<Lane*>(to), cols, 1, rows,
              cols);
}

template <class Lane, class T>
KT void store_block(const void* from, int64_t rows, int64_t cols, Strided to) {
  convert_box(static_cast<const Lane*>(from), cols, 1, static_cast<T*>(to.data), to.row_stride, to.col_stride, rows,
              cols);
}

inline LoadBlock find_loader(DType dtype, DType lane) {
#define SG_ROW(name, T) {load_block<float, T>, load_block<double, T>, load_block<int64_t, T>},
  static constexpr LoadBlock table[kDTypes][3] = {SG_DTYPES(SG_ROW)};
#undef SG_ROW
  return table[int(dtype)][lane == DType::k_float32 ? 0 : lane == DType::k_float64 ? 1 : 2];
}

inline StoreBlock find_storer(DType lane, DType dtype) {
#define SG_ROW(name, T) {store_block<float, T>, store_block<double, T>, store_block<int64_t, T>},
  static constexpr StoreBlock table[kDTypes][3] = {SG_DTYPES(SG_ROW)};
#undef SG_ROW
  return table[int(dtype)][lane == DType::k_float32 ? 0 : lane == DType::k_float64 ? 1 : 2];
}
