// Copies, casts and fills. A cast is the identity of the pointwise table; a copy within one dtype moves bits, whatever
// they mean, in boxes that are square where one side is transposed.
#include <algorithm>
#include <cstring>
#include <utility>

#include "../core/cast.h"
#include "../ops/pointwise.h"
#include "blocks.h"
#include "cpu_device.h"
#include "nest.h"
#include "rows.h"

namespace sg {

namespace {

// As many neighbours as 16 bytes hold, a register on every machine.
template <class T>
struct Neighbours {
  static constexpr int kCount = 16 / sizeof(T);
  typedef T type __attribute__((vector_size(16)));

  // a, b, a, b… from element `first` of both
  template <int kFirst, int... i>
  static type interleave(type a, type b, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, (kFirst + i / 2 + i % 2 * kCount)...);
  }
};

// to[r, c] = from[c, r], a square of registers: the rows of the two halves interleaved, until all have met.
template <class T>
inline void transpose_square(const T* from, int64_t from_col, T* to, int64_t to_row) {
  using N = Neighbours<T>;
  constexpr int kCount = N::kCount;
  constexpr auto kAll = std::make_integer_sequence<int, kCount>();
  typename N::type a[kCount], b[kCount];
  for (int c = 0; c < kCount; c++) std::memcpy(&a[c], from + c * from_col, 16);
  for (int half = 1; half < kCount; half *= 2) {
    for (int i = 0; i < kCount / 2; i++) {
      b[2 * i] = N::template interleave<0>(a[i], a[i + kCount / 2], kAll);
      b[2 * i + 1] = N::template interleave<kCount / 2>(a[i], a[i + kCount / 2], kAll);
    }
    std::copy(b, b + kCount, a);
  }
  for (int r = 0; r < kCount; r++) std::memcpy(to + r * to_row, &a[r], 16);
}

// Rows and columns change places in a buffer, since the lines of the target often share one set of the cache.
template <class T>
void transpose_tile(const T* from, int64_t from_col, T* to, int64_t to_row) {
  constexpr int kCount = Neighbours<T>::kCount;
  static_assert(kTile % kCount == 0);
  alignas(64) T buffer[kTile * kTile];
  for (int c = 0; c < kTile; c += kCount) {
    for (int k = 0; k < kCount; k++) prefetch_run(from + (c + k + kTile) * from_col, kTile);
    for (int r = 0; r < kTile; r += kCount)
      transpose_square(from + r + c * from_col, from_col, buffer + r * kTile + c, kTile);
  }
  for (int r = 0; r < kTile; r++) std::memcpy(to + r * to_row, buffer + r * kTile, kTile * sizeof(T));
}

template <class T>
void copy_box(const T* from, int64_t from_row, int64_t from_col, T* to, int64_t to_row, int64_t to_col, int64_t rows,
              int64_t cols) {
  if (from_col == 1 && to_col == 1) {
    for (int64_t r = 0; r < rows; r++) std::memcpy(to + r * to_row, from + r * from_row, size_t(cols) * sizeof(T));
  } else if (from_row == 1 && to_col == 1 && rows == kTile && cols == kTile) {
    transpose_tile(from, from_col, to, to_row);
  } else if (rows >= cols) {
    for (int64_t c = 0; c < cols; c++)
      for (int64_t r = 0; r < rows; r++) to[r * to_row + c * to_col] = from[r * from_row + c * from_col];
  } else {
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++) to[r * to_row + c * to_col] = from[r * from_row + c * from_col];
  }
}

// y[i] = x[i], both of T's size
template <class T>
void move(const View& x, const View& y) {
  Nest<2> nest(y.ndim, y.shape, {y.strides, x.strides});
  if (nest.col_stride(0) == 1 && nest.col_stride(1) == 1) {
    nest.widen(kGrainElements);
    nest.heighten(kGrainElements);
  }
  nest.parallel([&](const Box<2>& b) {
    copy_box(x.ptr<const T>() + b.at[1], nest.row_stride(1), nest.col_stride(1), y.ptr<T>() + b.at[0],
             nest.row_stride(0), nest.col_stride(0), b.rows, b.cols);
  });
}

void move(const View& x, const View& y) {
  if (x.data == y.data && std::equal(x.strides, x.strides + x.ndim, y.strides)) return;
  dispatch_bytes(y.dtype, [&](auto tag) { move<typename decltype(tag)::type>(x, y); });
}

// The view [begin, begin + size) of dimension d.
View narrow(const View& v, int d, int64_t begin, int64_t size) {
  View part = v;
  part.data = address(v.data, begin * v.strides[d], v.dtype);
  part.shape[d] = size;
  return part;
}

// Copies the columns [first, last) of a row; the others become 0.
template <class T>
void copy_columns(const T* from, int64_t from_col, T* to, int64_t to_col, int64_t first, int64_t last, int64_t cols) {
  if (from_col != 1 || to_col != 1) {
    for (int64_t c = 0; c < cols; c++) to[c * to_col] = c >= first && c < last ? from[c * from_col] : T(0);
    return;
  }
  std::fill(to, to + first, T(0));
  if (from != to) std::copy(from + first, from + last, to + first);
  std::fill(to + last, to + cols, T(0));
}

}  // namespace

void CpuDevice::copy(In x, Out y) {
  if (x.dtype == y.dtype && !x.is_scalar()) return move(x, y);
  View input = x;
  pointwise(PointwiseOp::k_identity, {&input, 1}, y, lane_dtype(x.is_scalar() ? y.dtype : x.dtype));
}

void CpuDevice::fill(Out y, double value) {
  View number;
  number.scalar = value;
  pointwise(PointwiseOp::k_identity, {&number, 1}, y, lane_dtype(y.dtype));
}

void CpuDevice::arange(Out y, double start, double step) {
  SG_ASSERT(y.ndim == 1);
  dispatch_all(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* const to = y.ptr<T>();
    parallel_for(y.shape[0], kGrainElements, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) to[i * y.strides[0]] = cast<T>(start + double(i) * step);
    });
  });
}

void CpuDevice::cat(Out y, double dim, Ins xs) {
  int64_t begin = 0;
  for (int k = 0; k < xs.count; k++) {
    const int64_t size = xs[k].shape[int(dim)];
    move(xs[k], narrow(y, int(dim), begin, size));
    begin += size;
  }
}

void CpuDevice::triangle(In x, Out y, double diagonal, double upper) {
  // Row r keeps columns [r + diagonal, cols) of an upper triangle, [0, r + diagonal] of a lower one.
  const int64_t height = y.size(-2), cols = y.size(-1), shift = cast<int64_t>(std::clamp(diagonal, -0x1p53, 0x1p53));
  if (y.numel() == 0) return;
  Rows rows(y);
  rows.add(x.strides);
  dispatch_bytes(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(rows.count(), std::max<int64_t>(1, kGrainElements / cols), [&](int64_t begin, int64_t end) {
      Rows row = rows;
      row.seek(begin);
      for (int64_t i = begin; i < end; i++, row.next()) {
        const int64_t edge = std::clamp<int64_t>(i % height + shift + (upper ? 0 : 1), 0, cols);
        copy_columns(x.ptr<const T>() + row[1], x.stride(-1), y.ptr<T>() + row[0], y.stride(-1), upper ? edge : 0,
                     upper ? cols : edge, cols);
      }
    });
  });
}

}  // namespace sg
