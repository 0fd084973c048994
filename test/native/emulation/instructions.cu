// Warp functions, barriers with predicates, atomics and intrinsics against what their descriptions say.
#include <cmath>

#include "../../../csrc/cuda/gpu.cuh"
#include "suite.h"

namespace {

using namespace sg;

__global__ void shuffles(int* y) {
  const int lane = int(threadIdx.x), v = 100 + lane;
  const int results[] = {
      __shfl_sync(~0u, v, 5),         __shfl_sync(~0u, v, 3, 8),       __shfl_xor_sync(~0u, v, 16),
      __shfl_xor_sync(~0u, v, 3, 4),  __shfl_up_sync(~0u, v, 2),       __shfl_up_sync(~0u, v, 1, 8),
      __shfl_down_sync(~0u, v, 4),    __shfl_down_sync(~0u, v, 1, 16), int(__shfl_xor_sync(~0u, double(v), 1)),
      __shfl_sync(~0u, v, lane + 33),
  };
  for (int i = 0; i < 10; i++) y[lane * 10 + i] = results[i];
}
bool shuffles_work() {
  Buffer<int> y(320);
  gpu::launch(shuffles, 1, 32, 0, nullptr, y.data);
  const auto got = y.read();
  bool right = true;
  for (int lane = 0; lane < 32; lane++) {
    const int sources[] = {5,
                           lane / 8 * 8 + 3,
                           lane ^ 16,
                           lane ^ 3,
                           lane >= 2 ? lane - 2 : lane,
                           lane % 8 >= 1 ? lane - 1 : lane,
                           lane + 4 < 32 ? lane + 4 : lane,
                           lane % 16 + 1 < 16 ? lane + 1 : lane,
                           lane ^ 1,
                           (lane + 33) % 32};
    for (int i = 0; i < 10; i++) right &= got[size_t(lane * 10 + i)] == 100 + sources[i];
  }
  return right;
}

__global__ void votes(unsigned* y) {
  const unsigned lane = threadIdx.x;
  int all = -1;
  const unsigned results[] = {
      __ballot_sync(~0u, lane % 3 == 0),
      unsigned(__any_sync(~0u, lane == 31)),
      unsigned(__any_sync(~0u, lane == 32)),
      unsigned(__all_sync(~0u, lane < 32)),
      unsigned(__all_sync(~0u, lane < 31)),
      __match_any_sync(~0u, lane % 4),
      __match_all_sync(~0u, 7u, &all),
      unsigned(all),
      __reduce_add_sync(~0u, lane),
      __reduce_max_sync(~0u, lane ^ 21),
      __reduce_min_sync(~0u, lane + 3),
      __reduce_or_sync(~0u, 1u << lane),
      __reduce_and_sync(~0u, lane | 64),
      __reduce_xor_sync(~0u, lane * 5),
      unsigned(__reduce_add_sync(~0u, -int(lane))),
      unsigned(__reduce_min_sync(~0u, -int(lane))),
  };
  for (int i = 0; i < 16; i++) y[lane * 16 + i] = results[i];
}
bool votes_work() {
  Buffer<unsigned> y(32 * 16);
  gpu::launch(votes, 1, 32, 0, nullptr, y.data);
  const auto got = y.read();
  unsigned thirds = 0, parity = 0;
  for (unsigned lane = 0; lane < 32; lane++) {
    if (lane % 3 == 0) thirds |= 1u << lane;
    parity ^= lane * 5;
  }
  bool right = true;
  for (unsigned lane = 0; lane < 32; lane++) {
    const unsigned expected[] = {thirds, 1, 0,   1,  0,      0x11111111u << lane % 4, ~0u,          1u, 496,
                                 31,     3, ~0u, 64, parity, unsigned(-496),          unsigned(-31)};
    for (unsigned i = 0; i < 16; i++) right &= got[lane * 16 + i] == expected[i];
  }
  return right;
}

__global__ void counting_barriers(int* y) {
  const int t = int(threadIdx.x);
  y[t * 4] = __syncthreads_count(t % 5 == 0);
  y[t * 4 + 1] = __syncthreads_and(t < 100);
  y[t * 4 + 2] = __syncthreads_or(t == 99);
  y[t * 4 + 3] = __syncthreads_or(t == 100);
}
bool counting_barriers_work() {
  Buffer<int> y(400);
  gpu::launch(counting_barriers, 1, 100, 0, nullptr, y.data);
  const auto got = y.read();
  bool right = true;
  for (size_t t = 0; t < 100; t++)
    right &= got[t * 4] == 20 && got[t * 4 + 1] != 0 && got[t * 4 + 2] != 0 && got[t * 4 + 3] == 0;
  return right;
}

__global__ void atomics(int* i, unsigned* u, float* f, unsigned long long* l, double* d) {
  const int t = int(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(i, t);
  atomicSub(i + 1, t);
  atomicMin(i + 2, -t);
  atomicMax(i + 3, t);
  atomicAnd(u, ~(1u << t % 32));
  atomicOr(u + 1, 1u << t % 32);
  atomicXor(u + 2, 1u << t % 32);
  atomicInc(u + 3, 9);
  atomicAdd(f, 0.5f);
  atomicAdd(l, 3ull);
  atomicAdd(d, 0.25);
  atomicCAS(i + 4, 7, 8);
  atomicExch(i + 5, 42);
}
bool atomics_work() {
  Buffer<int> i({0, 0, 0, 0, 7, 0});
  Buffer<unsigned> u({~0u, 0, 0, 0});
  Buffer<float> f(std::vector<float>{0});
  Buffer<unsigned long long> l(std::vector<unsigned long long>{0});
  Buffer<double> d(std::vector<double>{0});
  gpu::launch(atomics, 3, 64, 0, nullptr, i.data, u.data, f.data, l.data, d.data);
  return i.read() == std::vector<int>{18336, -18336, -191, 191, 8, 42} &&
         u.read() == std::vector<unsigned>{0, ~0u, 0, 2} && f.read()[0] == 96 && l.read()[0] == 576 &&
         d.read()[0] == 48;
}

__global__ void bits(unsigned* y) {
  int n = 0;
  y[n++] = unsigned(__popc(0xf0f0u));
  y[n++] = unsigned(__clz(0x00010000));
  y[n++] = unsigned(__ffs(0x50));
  y[n++] = __brev(1u);
  y[n++] = __umulhi(0x80000000u, 6u);
  y[n++] = unsigned(__umul64hi(1ull << 63, 6ull));
  y[n++] = __byte_perm(0x33221100u, 0x77665544u, 0x7531u);
  y[n++] = __funnelshift_l(0x80000001u, 0x7u, 4u);
  y[n++] = __funnelshift_r(0x80000001u, 0x7u, 4u);
  y[n++] = __float_as_uint(1.0f);
  y[n++] = unsigned(__float2int_rn(2.5f));
  y[n++] = unsigned(min(3, 2) + max(4, 5));
  y[n++] = gpu::pack_bf16(1.f, -2.f);
  y[n++] = gpu::pack_f16(1.f, -2.f);
  y[n++] = bfloat16(1.00390625f).bits;  // between two numbers: to even
  y[n++] = float16(65520.f).bits;       // overflows
}
bool bits_work() {
  Buffer<unsigned> y(16);
  gpu::launch(bits, 1, 1, 0, nullptr, y.data);
  return y.read() == std::vector<unsigned>{8,           15,          5,           0x80000000u, 3, 3,
                                           0x77553311u, 0x78u,       0x78000000u, 0x3f800000u, 2, 7,
                                           0xc0003f80u, 0xc0003c00u, 0x3f80u,     0x7c00u};
}

__global__ void mathematics(const float* x, float* y) {
  const int t = int(threadIdx.x);
  const float v = x[t];
  y[t * 4] = gpu::fast_exp2(v);
  y[t * 4 + 1] = gpu::fast_log2(v);
  y[t * 4 + 2] = rsqrtf(v);
  y[t * 4 + 3] = __expf(v);
}
bool mathematics_works() {
  std::vector<float> x(64);
  for (size_t i = 0; i < 64; i++) x[i] = 0.25f + float(i) * 0.125f;
  Buffer<float> from(x), y(256);
  gpu::launch(mathematics, 1, 64, 0, nullptr, from.data, y.data);
  const auto got = y.read();
  bool right = true;
  for (size_t i = 0; i < 64; i++) {
    const double v = x[i], expected[] = {std::exp2(v), std::log2(v), 1 / std::sqrt(v), std::exp(v)};
    for (size_t k = 0; k < 4; k++)
      right &= std::fabs(got[i * 4 + k] - expected[k]) <= 2e-6 * std::fabs(expected[k]) + 1e-6;
  }
  return right;
}

__global__ void places(int* y) {
  const int block = int(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  y[block * 24 + thread] = int(threadIdx.z * 100 + threadIdx.y * 10 + threadIdx.x);
}
bool places_work() {
  Buffer<int> y(24 * 24);
  gpu::launch(places, dim3(2, 3, 4), dim3(4, 3, 2), 0, nullptr, y.data);
  const auto got = y.read();
  bool right = true;
  for (size_t i = 0; i < got.size(); i++) {
    const int t = int(i % 24);
    right &= got[i] == t / 12 * 100 + t / 4 % 3 * 10 + t % 4;
  }
  return right;
}

__global__ void clocks(uint64_t* y) {
  y[0] = gpu::global_nanoseconds();
  y[1] = gpu::global_nanoseconds();
}
bool clocks_work() {
  Buffer<uint64_t> y(2);
  gpu::launch(clocks, 1, 1, 0, nullptr, y.data);
  const auto got = y.read();
  return got[0] > 0 && got[1] >= got[0];
}

}  // namespace

void instruction_cases(Suite& suite) {
  suite.works("shuffles of all kinds and widths", shuffles_work);
  suite.works("votes, matches and reductions of a warp", votes_work);
  suite.works("barriers that count", counting_barriers_work);
  suite.works("atomic operations", atomics_work);
  suite.works("bits, conversions, 16-bit numbers", bits_work);
  suite.works("approximate mathematics", mathematics_works);
  suite.works("three-dimensional grids and blocks", places_work);
  suite.works("the clock", clocks_work);
}
