// Copies in the background, ldmatrix and mma, each against its definition and together in a small product.
#include <cmath>

#include "../../../csrc/cuda/gpu.cuh"
#include "suite.h"

namespace {

using namespace sg;

__global__ void copies(const char* x, char* y) {
  SG_SHARED(uint4, memory, [6]);
  char* const shared = reinterpret_cast<char*>(memory);
  gpu::cp_async16(shared, x);
  gpu::cp_async16(shared + 16, x + 16, 5);
  gpu::cp_async_commit();
  gpu::cp_async8(shared + 32, x + 32);
  gpu::cp_async8(shared + 40, x + 40, 0);
  gpu::cp_async_commit();
  gpu::cp_async4(shared + 48, x + 48);
  gpu::cp_async4(shared + 52, x + 52, 1);
  gpu::cp_async_commit();
  gpu::cp_async_wait<2>();
  for (int i = 0; i < 32; i++) y[i] = shared[i];
  gpu::cp_async_wait<0>();
  for (int i = 32; i < 56; i++) y[i] = shared[i];
}
bool copies_work() {
  std::vector<char> x(56), expected(56);
  for (size_t i = 0; i < 56; i++) {
    x[i] = char(i + 1);
    const bool zero = (i >= 21 && i < 32) || (i >= 40 && i < 48) || i >= 53;
    expected[i] = zero ? 0 : x[i];
  }
  Buffer<char> from(x), y(56);
  gpu::launch(copies, 1, 1, 0, nullptr, from.data, y.data);
  return y.read() == expected;
}

// Four 8x8 matrices below each other, rows of 8; what lane l gets of matrix m as two numbers.
template <int kMatrices, bool kTransposed>
__global__ void load(uint32_t* y) {
  SG_SHARED(uint4, memory, [32]);
  uint16_t* const rows = reinterpret_cast<uint16_t*>(memory);
  const int lane = int(threadIdx.x);
  for (int i = 0; i < 8; i++) rows[lane * 8 + i] = uint16_t(lane * 8 + i);
  __syncwarp();
  uint32_t r[4] = {};
  uint32_t pair[2];
  const void* const row = rows + lane % (8 * kMatrices) * 8;
  if constexpr (kMatrices == 1 && !kTransposed) gpu::ldmatrix_x1(r[0], row);
  if constexpr (kMatrices == 1 && kTransposed) gpu::ldmatrix_x1_trans(r[0], row);
  if constexpr (kMatrices == 2) {
    if constexpr (kTransposed) gpu::ldmatrix_x2_trans(pair, row);
    else gpu::ldmatrix_x2(pair, row);
    r[0] = pair[0];
    r[1] = pair[1];
  }
  if constexpr (kMatrices == 4 && !kTransposed) gpu::ldmatrix_x4(r, row);
  if constexpr (kMatrices == 4 && kTransposed) gpu::ldmatrix_x4_trans(r, row);
  for (int m = 0; m < kMatrices; m++) y[lane * kMatrices + m] = r[m];
}
template <int kMatrices, bool kTransposed>
bool load_works() {
  Buffer<uint32_t> y(32 * kMatrices);
  gpu::launch(load<kMatrices, kTransposed>, 1, 32, 0, nullptr, y.data);
  const auto got = y.read();
  bool right = true;
  for (uint32_t lane = 0; lane < 32; lane++)
    for (uint32_t m = 0; m < kMatrices; m++) {
      const uint32_t row = lane / 4, column = lane % 4 * 2, first = m * 64;
      const uint32_t low = kTransposed ? first + column * 8 + row : first + row * 8 + column;
      const uint32_t high = kTransposed ? low + 8 : low + 1;
      right &= got[lane * kMatrices + m] == (low | high << 16);
    }
  return right;
}

// C[16x8] = A[16x16] B[16x8] + 1, both operands by ldmatrix: A's quarters in the order of its fragment, B transposed.
template <class Half>
__global__ void multiply(const Half* a, const Half* b, float* c) {
  SG_SHARED(uint4, memory, [48]);
  Half* const as = reinterpret_cast<Half*>(memory);
  Half* const bs = as + 256;
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 32; i += 32) gpu::cp_async16(as + i * 8, a + i * 8);
  if (lane < 16) gpu::cp_async16(bs + lane * 8, b + lane * 8);
  gpu::cp_async_commit();
  gpu::cp_async_wait<0>();
  __syncwarp();
  uint32_t af[4], bf[2];
  gpu::ldmatrix_x4(af, as + lane % 16 * 16 + lane / 16 * 8);
  gpu::ldmatrix_x2_trans(bf, bs + lane % 16 * 8);
  float acc[4] = {1, 1, 1, 1};
  if constexpr (std::is_same_v<Half, bfloat16>) gpu::mma_bf16_16816(acc, af, bf[0], bf[1]);
  else gpu::mma_f16_16816(acc, af, bf[0], bf[1]);
  for (int i = 0; i < 4; i++) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = acc[i];
}
template <class Half>
bool multiply_works() {
  std::vector<Half> a(256), b(128);
  for (size_t i = 0; i < 256; i++) a[i] = Half(float(int(i * 37 % 19) - 9) / 8);
  for (size_t i = 0; i < 128; i++) b[i] = Half(float(int(i * 53 % 23) - 11) / 4);
  Buffer<Half> da(a), db(b);
  Buffer<float> c(128);
  gpu::launch(multiply<Half>, 1, 32, 0, nullptr, da.data, db.data, c.data);
  const auto got = c.read();
  bool right = true;
  for (size_t i = 0; i < 16; i++)
    for (size_t j = 0; j < 8; j++) {
      double sum = 1;
      for (size_t k = 0; k < 16; k++) sum += double(float(a[i * 16 + k])) * double(float(b[k * 8 + j]));
      right &= std::fabs(got[i * 8 + j] - sum) < 1e-4;
    }
  return right;
}

}  // namespace

void matrix_cases(Suite& suite) {
  suite.works("cp.async of 16, 8 and 4 bytes, zero-filled", copies_work);
  suite.works("ldmatrix x1", load_works<1, false>);
  suite.works("ldmatrix x2", load_works<2, false>);
  suite.works("ldmatrix x4", load_works<4, false>);
  suite.works("ldmatrix x1 transposed", load_works<1, true>);
  suite.works("ldmatrix x2 transposed", load_works<2, true>);
  suite.works("ldmatrix x4 transposed", load_works<4, true>);
  suite.works("mma bfloat16", multiply_works<bfloat16>);
  suite.works("mma float16", multiply_works<float16>);
}
