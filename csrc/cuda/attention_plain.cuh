// The products of plain attention: blocks of 256 threads with 4 x 4 results each, operands staged in shared memory as
// numbers of the accumulation type.
#pragma once
#include "attention_scores.cuh"

namespace sg::gpu {

inline constexpr int kTile = 64, kPlainThreads = 256, kStep = 16;
inline constexpr int kPitch = kTile + 4;  // of rows in shared memory
// How many tiles of columns a block makes of the output and of dQ.
template <class E>
inline constexpr int kColumnGroups = sizeof(E) == 4 ? 2 : 1;

// A thread's results are these and the next three rows and columns of a tile.
SG_DEVICE int tile_row() { return int(threadIdx.x) / 16 * 4; }
SG_DEVICE int tile_column() { return int(threadIdx.x) % 16 * 4; }

template <class E>
struct alignas(16) Stage {
  E a[kStep][kPitch], b[kStep][kPitch];
};

// Up to kTile rows of one head from `first` on.
template <class T>
struct PlainRows {
  T* data;
  int64_t stride;
  int count;
  SG_DEVICE PlainRows(const HeadRows& x, int batch, int head, int first, int all)
      : data(head_of<T>(x, batch, head) + first * x.row), stride(x.row), count(min(kTile, all - first)) {}

  template <class E>
  SG_DEVICE void store(const E (&values)[4][4], int column0, int size) const {
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
      for (int c = 0; c < 4; c++)
        if (tile_row() + r < count && column0 + tile_column() + c < size)
          data[(tile_row() + r) * stride + column0 + tile_column() + c] = T(values[r][c]);
  }
};

template <class E>
SG_DEVICE void scale_tile(E (&values)[4][4], E by) {
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++) values[r][c] *= by;
}

template <class E>
SG_DEVICE void multiply_outer(E (&acc)[4][4], const E (&a)[4], const E (&b)[4]) {
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++) acc[r][c] = std::fma(a[r], b[c], acc[r][c]);
}

// acc += A B^T: rows of both, over their features. Threads without results only stage, here and below.
template <class T, class E>
SG_DEVICE void multiply_features(E (&acc)[4][4], PlainRows<T> a, PlainRows<T> b, int size, Stage<E>& stage) {
  for (int k0 = 0; k0 < size; k0 += kStep) {
    __syncthreads();  // what was staged before is read
    for (int i = threadIdx.x; i < kTile * kStep; i += kPlainThreads) {
      const int row = i / kStep, k = i % kStep;
      const bool inside = k0 + k < size;
      stage.a[k][row] = inside && row < a.count ? E(a.data[row * a.stride + k0 + k]) : E(0);
      stage.b[k][row] = inside && row < b.count ? E(b.data[row * b.stride + k0 + k]) : E(0);
    }
    __syncthreads();
    if (tile_row() >= a.count || tile_column() >= b.count) continue;
#pragma unroll 4
    for (int k = 0; k < kStep; k++) {
      E x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = stage.a[k][tile_row() + i], y[i] = stage.b[k][tile_column() + i];
      multiply_outer(acc, x, y);
    }
  }
}

// acc += P X: P [rows][kTile] in shared memory with steps between rows and columns, and kTile columns of X's rows.
template <class T, class E>
SG_DEVICE void multiply_tile(E (&acc)[4][4], const E* p, int rows, int row_step, int column_step, PlainRows<T> x,
                             int column0, int size, Stage<E>& stage) {
  if (column0 >= size) return;
  for (int k0 = 0; k0 < x.count; k0 += kStep) {
    __syncthreads();  // what was staged before is read, and P is complete
    for (int i = threadIdx.x; i < kTile * kStep; i += kPlainThreads) {
      const int k = i / kTile, column = i % kTile;
      const bool inside = k0 + k < x.count && column0 + column < size;
      stage.b[k][column] = inside ? E(x.data[(k0 + k) * x.stride + column0 + column]) : E(0);
    }
    __syncthreads();
    if (tile_row() >= rows || column0 + tile_column() >= size) continue;
#pragma unroll 4
    for (int k = 0; k < kStep; k++) {
      E a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        a[i] = p[(tile_row() + i) * row_step + (k0 + k) * column_step], b[i] = stage.b[k][tile_column() + i];
      multiply_outer(acc, a, b);
    }
  }
}

}  // namespace sg::gpu
