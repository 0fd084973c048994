// The matrix products that convolutions are, with operands that are read from the images where they lie. A block makes
// a tile of 64 x 64 results from operands staged in shared memory; a thread has 4 x 4 of them and reads its part of the
// next step while this one is computed.
#pragma once
#include "../ops/conv.h"
#include "lanes.cuh"
#include "planes.cuh"

namespace sg::gpu {

inline constexpr int kProductTile = 64, kProductStep = 16, kProductThreads = 256;

// A `Product` has rows(), columns() and depth(), of each group, types Row, Column and Depth of what is known of an
// index of each (inside: whether it exists), and value(row, depth), value(depth, column) and store(). kColumnsFirst:
// neighbouring columns, and not places of the depth, are neighbours in memory.
template <class Product>
__global__ void __launch_bounds__(kProductThreads)
    product_kernel(const Product product, int row_tiles, int column_tiles, int groups, int64_t depth_a_part) {
  using E = typename Product::E;
  constexpr int kTile = kProductTile, kStep = kProductStep, kEach = kTile * kStep / kProductThreads;
  constexpr int kRowsAPass = kTile / kEach;
  SG_SHARED(E, a_tile, [kStep][kTile + 4]);
  SG_SHARED(E, b_tile, [kStep][kTile + 4]);
  int block = blockIdx.x;
  const int row_tile = block % row_tiles;
  block /= row_tiles;
  const int column_tile = block % column_tiles;
  block /= column_tiles;
  const int group = block % groups, part = block / groups;
  const int64_t row0 = int64_t(row_tile) * kTile, column0 = int64_t(column_tile) * kTile;
  const int64_t begin = part * depth_a_part, end = min(begin + depth_a_part, product.depth());

  // This thread's share of what is staged: of A one place of the depth for kEach rows, of B the same, or kEach places
  // of the depth for one column.
  const int thread = threadIdx.x, a_depth = thread % kStep, a_row = thread / kStep;
  constexpr bool kColumnsFirst = Product::kColumnsFirst;
  constexpr int kColumns = kColumnsFirst ? 1 : kEach;
  const int b_depth = kColumnsFirst ? thread / kTile : a_depth, b_column = kColumnsFirst ? thread % kTile : a_row;
  typename Product::Row rows[kEach];
  typename Product::Column columns[kColumns];
#pragma unroll
  for (int i = 0; i < kEach; i++) rows[i] = product.row(group, row0 + a_row + i * kRowsAPass);
#pragma unroll
  for (int i = 0; i < kColumns; i++) columns[i] = product.column(group, column0 + b_column + i * kRowsAPass);

  E a[kEach], b[kEach], acc[4][4] = {};
  const auto read = [&](int64_t from) {
    const auto depth = product.place(from + a_depth, end);
#pragma unroll
    for (int i = 0; i < kEach; i++) a[i] = product.value(rows[i], depth);
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      if constexpr (kColumnsFirst)
        b[i] = product.value(product.place(from + b_depth + i * (kStep / kEach), end), columns[0]);
      else b[i] = product.value(depth, columns[i]);
    }
  };
  if (begin < end) read(begin);
  const int ty = thread / 16 * 4, tx = thread % 16 * 4;
  const bool has_results = row0 + ty < product.rows() && column0 + tx < product.columns();
  for (int64_t k0 = begin; k0 < end; k0 += kStep) {
    __syncthreads();  // the step before is read
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      a_tile[a_depth][a_row + i * kRowsAPass] = a[i];
      if constexpr (kColumnsFirst) b_tile[b_depth + i * (kStep / kEach)][b_column] = b[i];
      else b_tile[a_depth][b_column + i * kRowsAPass] = b[i];
    }
    __syncthreads();
    if (k0 + kStep < end) read(k0 + kStep);
    if (!has_results) continue;
#pragma unroll
    for (int k = 0; k < kStep; k++) {
      E x[4], y[4];
#pragma unroll
      for (int i = 0; i < 4; i++) x[i] = a_tile[k][ty + i], y[i] = b_tile[k][tx + i];
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) acc[r][c] = std::fma(x[r], y[c], acc[r][c]);
    }
  }
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int c = 0; c < 4; c++)
      if (row0 + ty + r < product.rows() && column0 + tx + c < product.columns())
        product.store(part, group, row0 + ty + r, column0 + tx + c, acc[r][c]);
}

inline int64_t product_tiles(int64_t n) { return (n + kProductTile - 1) / kProductTile; }

template <class Product>
void run_product(const Product& product, int64_t groups, int64_t parts, int64_t depth_a_part, cudaStream_t stream) {
  const int64_t rows = product_tiles(product.rows()), columns = product_tiles(product.columns());
  launch(product_kernel<Product>, unsigned(rows * columns * groups * parts), kProductThreads, 0, stream, product,
         int(rows), int(columns), int(groups), depth_a_part);
}

}  // namespace sg::gpu
