// Tiles of 16-bit rows in shared memory and the operands of matrix instructions that are read from them. A row is D / 8
// chunks of 16 bytes; chunk c of row r lies at place c ^ mix(r), so that the same chunk of 8 neighbouring rows, which
// ldmatrix reads at a time, covers all 32 banks, without padding that would cost shared memory.
#pragma once
#include "lanes.cuh"

namespace sg::gpu {

// What the matrix instructions of a 16-bit type are called.
template <class T>
struct Tensorial;
template <>
struct Tensorial<bfloat16> {
  SG_DEVICE static uint32_t pack(float low, float high) { return pack_bf16(low, high); }
  SG_DEVICE static void mma(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_bf16_16816(acc, a, b0, b1);
  }
};
template <>
struct Tensorial<float16> {
  SG_DEVICE static uint32_t pack(float low, float high) { return pack_f16(low, high); }
  SG_DEVICE static void mma(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_f16_16816(acc, a, b0, b1);
  }
};

template <int D>
struct TileLayout {
  static_assert(D == 64 || D == 96 || D == 128);
  // Rows of 64 or 128 begin at the same bank; of 96, every second one does.
  static constexpr bool kAligned = D % 64 == 0;
  SG_DEVICE static int mix(int row) { return kAligned ? row & 7 : row >> 1 & 3; }
  SG_DEVICE static int at(int row, int chunk) { return row * D + ((chunk ^ mix(row)) << 3); }

  // Copies: so many lanes share a row, in so many steps, and the place of a lane's chunk is the same 8 rows further.
  static constexpr int kLanes = kAligned ? D / 8 : 4, kSteps = D / 8 / kLanes;
};

// A lane's place for ldmatrix at (row 0, column k), k a multiple of 16. By columns: the four 8x8 matrices are those of
// two neighbouring B operands stored [n][k]. By rows: of an A operand [m][k] or, transposed, two B operands [k][n].
template <int D>
struct LanePlace {
  int row, column;
  SG_DEVICE static LanePlace by_rows(int lane) { return of(lane & 15, lane >> 4); }
  SG_DEVICE static LanePlace by_columns(int lane) { return of((lane >> 4) * 8 + (lane & 7), lane >> 3 & 1); }
  SG_DEVICE int operator()(int k) const {
    if constexpr ((D & (D - 1)) == 0) return column ^ k;
    else return row + (column ^ k);
  }

 private:
  SG_DEVICE static LanePlace of(int r, int chunk) {
    const int in_row = (chunk ^ TileLayout<D>::mix(r)) << 3;
    if constexpr ((D & (D - 1)) == 0) return {0, r * D + in_row};
    else return {r * D, in_row};
  }
};

// Starts copying rows of `size` <= D features from memory. What lies past the rows and features there are becomes 0.
// The caller commits the group.
template <int kRows, int D, int kThreads, class T>
SG_DEVICE void load_tile_async(T* tile, const T* source, int row_stride, int first_row, int row_count, int size) {
  using Layout = TileLayout<D>;
  constexpr int kRowsAPass = kThreads / Layout::kLanes;
  static_assert(kRowsAPass % 8 == 0 && kRows % kRowsAPass == 0);
  const int thread = keep_in_loop(threadIdx.x), chunk = thread % Layout::kLanes, row = thread / Layout::kLanes;
  T* const to = tile + Layout::at(row, chunk);
  const T* from = source + int64_t(first_row + row) * row_stride + chunk * 8;
#pragma unroll
  for (int pass = 0; pass < kRows / kRowsAPass; pass++) {
    const bool inside = first_row + row + pass * kRowsAPass < row_count;
#pragma unroll
    for (int step = 0; step < Layout::kSteps; step++) {
      const bool reads = inside && (chunk + step * Layout::kLanes) * 8 < size;
      // What is not read must still have a valid address.
      cp_async16(to + pass * kRowsAPass * D + step * Layout::kLanes * 8,
                 reads ? from + step * Layout::kLanes * 8 : source, reads ? 16 : 0);
    }
    from += int64_t(kRowsAPass) * row_stride;
  }
}

// acc[m][n] += A B^T for rows A [16 kM][D] and B [8 kN][D]: scores (queries, keys), dP (dO, values).
template <int D, class T, int kM, int kN>
SG_DEVICE void multiply_rows(float (&acc)[kM][kN][4], const T* a_rows, const T* b_rows, LanePlace<D> by_rows,
                             LanePlace<D> by_columns) {
  // Fully unrolled, the compiler would keep an address for every step and spill.
#pragma unroll 2
  for (int k = 0; k < D; k += 16) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; m++) ldmatrix_x4(a[m], a_rows + by_rows(k) + m * 16 * D);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, b_rows + by_columns(k) + n * 8 * D);
#pragma unroll
      for (int m = 0; m < kM; m++) {
        Tensorial<T>::mma(acc[m][n], a[m], b[0], b[1]);
        Tensorial<T>::mma(acc[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// The same with the rows of A held in registers.
template <int D, int kM>
struct HeldRows {
  uint32_t operand[D / 16][kM][4];
  template <class T>
  SG_DEVICE void load(const T* a_rows, LanePlace<D> by_rows) {
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
      for (int m = 0; m < kM; m++) ldmatrix_x4(operand[k][m], a_rows + by_rows(k * 16) + m * 16 * D);
  }
  template <class T, int kN>
  SG_DEVICE void multiply(float (&acc)[kM][kN][4], const T* b_rows, LanePlace<D> by_columns) const {
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, b_rows + by_columns(k * 16) + n * 8 * D);
#pragma unroll
        for (int m = 0; m < kM; m++) {
          Tensorial<T>::mma(acc[m][n], operand[k][m], b[0], b[1]);
          Tensorial<T>::mma(acc[m][n + 1], operand[k][m], b[2], b[3]);
        }
      }
  }
};

// acc[m][d] += P rows, with P [16 kM][8 kN] in accumulators and rows [8 kN][D]. The accumulators of two neighbouring
// 16x8 tiles are what an A operand of width 16 wants in the same lanes, so P never leaves the registers.
template <int D, class T, int kM, int kN>
SG_DEVICE void multiply_registers(float (&acc)[kM][D / 8][4], const float (&p)[kM][kN][4], const T* b_rows,
                                  LanePlace<D> by_rows) {
#pragma unroll
  for (int n = 0; n < kN; n += 2) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; m++) {
      const float(&left)[4] = p[m][n], (&right)[4] = p[m][n + 1];
      a[m][0] = Tensorial<T>::pack(left[0], left[1]);
      a[m][1] = Tensorial<T>::pack(left[2], left[3]);
      a[m][2] = Tensorial<T>::pack(right[0], right[1]);
      a[m][3] = Tensorial<T>::pack(right[2], right[3]);
    }
#pragma unroll
    for (int d = 0; d < D; d += 16) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, b_rows + by_rows(d) + n * 8 * D);
#pragma unroll
      for (int m = 0; m < kM; m++) {
        Tensorial<T>::mma(acc[m][d / 8], a[m], b[0], b[1]);
        Tensorial<T>::mma(acc[m][d / 8 + 1], a[m], b[2], b[3]);
      }
    }
  }
}

template <class T>
struct alignas(4) Pair {
  T low, high;
};

// Writes a warp's accumulators (16 kM rows), each row times its factor, through its own rows of a tile, so that memory
// sees 16 bytes at a time. Only this warp may still be reading those rows.
template <int D, class T, int kM>
SG_DEVICE void store_warp_rows(T* warp_tile, const float (&acc)[kM][D / 8][4], const float (&factor)[kM][2],
                               T* destination, int row_stride, int first_row, int row_count, int size) {
  using Layout = TileLayout<D>;
  constexpr int kRowsAPass = kWarpSize / Layout::kLanes;
  const int lane = threadIdx.x % kWarpSize, group = lane >> 2, quad = lane & 3;
  __syncwarp();  // the warp's last ldmatrix of these rows is done
#pragma unroll
  for (int m = 0; m < kM; m++)
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int d = 0; d < D / 8; d++) {
        const float f = factor[m][half];
        *reinterpret_cast<Pair<T>*>(warp_tile + Layout::at(m * 16 + half * 8 + group, d) + quad * 2) = {
            T(acc[m][d][2 * half] * f), T(acc[m][d][2 * half + 1] * f)};
      }
  __syncwarp();
#pragma unroll
  for (int pass = 0; pass < 16 * kM / kRowsAPass; pass++) {
    const int row = pass * kRowsAPass + lane / Layout::kLanes;
    if (first_row + row >= row_count) continue;
    T* const to = destination + int64_t(first_row + row) * row_stride;
#pragma unroll
    for (int step = 0; step < Layout::kSteps; step++) {
      const int chunk = lane % Layout::kLanes + step * Layout::kLanes;
      if (chunk * 8 < size)
        *reinterpret_cast<Pack<T>*>(to + chunk * 8) =
            *reinterpret_cast<const Pack<T>*>(warp_tile + Layout::at(row, chunk));
    }
  }
}

}  // namespace sg::gpu
