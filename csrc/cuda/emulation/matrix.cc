// ldmatrix and mma as the PTX ISA describes their fragments. With g = lane / 4 and t = lane % 4, a lane holds of
// A (16x16): rows g and g + 8, columns 2t, 2t + 1 and those + 8; of B (16x8): rows 2t, 2t + 1 and those + 8, column g;
// of C (16x8): rows g and g + 8, columns 2t and 2t + 1.
#include <cstring>

#include "block.h"
#include "checker.h"
#include "ptx.h"

namespace sg::emulation {
namespace {

struct MatrixLoad {
  uint32_t* registers;
  const void* row;
  int matrices;
  bool transposed;
};
void load_matrices(void* const* lanes, unsigned) {
  for (int m = 0; m < static_cast<MatrixLoad*>(lanes[0])->matrices; m++) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; row++) memcpy(matrix[row], static_cast<MatrixLoad*>(lanes[m * 8 + row])->row, 16);
    for (int lane = 0; lane < 32; lane++) {
      auto& load = *static_cast<MatrixLoad*>(lanes[lane]);
      const int i = lane / 4, j = lane % 4 * 2;
      load.registers[m] = load.transposed ? matrix[j][i] | uint32_t(matrix[j + 1][i]) << 16
                                          : matrix[i][j] | uint32_t(matrix[i][j + 1]) << 16;
    }
  }
}

struct Product {
  float* acc;
  const uint32_t* a;
  uint32_t b[2];
};
template <class Half>
float half_of(uint32_t word, int high) {
  Half half;
  half.bits = uint16_t(high ? word >> 16 : word);
  return float(half);
}
template <class Half>
void multiply(void* const* lanes, unsigned) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const auto& p = *static_cast<Product*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 8; i++) a[g + (i / 2 & 1) * 8][t * 2 + (i & 1) + i / 4 * 8] = half_of<Half>(p.a[i / 2], i & 1);
    for (int i = 0; i < 4; i++) b[t * 2 + (i & 1) + i / 2 * 8][g] = half_of<Half>(p.b[i / 2], i & 1);
    for (int i = 0; i < 4; i++) c[g + i / 2 * 8][t * 2 + (i & 1)] = p.acc[i];
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
  for (int lane = 0; lane < 32; lane++) {
    const auto& p = *static_cast<Product*>(lanes[lane]);
    for (int i = 0; i < 4; i++) p.acc[i] = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + (i & 1)];
  }
}

}  // namespace

void ldmatrix(uint32_t* registers, int matrices, bool transposed, const void* row, Site site) {
  if (lane() < unsigned(matrices) * 8) {  // the other lanes' addresses are not used
    if (reinterpret_cast<uintptr_t>(row) % 16) {
      report("ldmatrix at %s: the row's address %p is not aligned to 16 bytes", describe(site).c_str(), row);
      abandon_block();
    }
    checker::access(row, 16, Access::Read, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
  }
  MatrixLoad load{registers, row, matrices, transposed};
  collective(~0u, Collective::LoadMatrix, &load, load_matrices, site);
}

void mma_16816(float* acc, const uint32_t* a, uint32_t b0, uint32_t b1, bool bf16, Site site) {
  Product product{acc, a, {b0, b1}};
  collective(~0u, Collective::MultiplyMatrix, &product, bf16 ? multiply<bfloat16> : multiply<float16>, site);
}

}  // namespace sg::emulation
