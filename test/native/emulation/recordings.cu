// What every wrapper of PTX gives for fixed inputs, as words: from a GPU the truth, from the emulator what its models
// say. Each wrapper is a small kernel of its own, so that a difference names the instruction and not a use of it.
#include <cstdio>
#include <cstring>
#include <limits>

#include "../../../csrc/cuda/gpu.cuh"
#include "suite.h"

namespace {

using namespace sg;
using Words = std::vector<uint32_t>;

uint32_t word_of(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  return word;
}
// Numbers that need not be random, only unlike each other: -1 to 1 with 12 bits.
float varied(size_t i) { return float(int(uint32_t(i * 2654435761u) >> 20) - 2048) / 2048; }

template <class Kernel>
Words run(Kernel kernel, const Words& inputs, size_t outputs, int threads) {
  Buffer<uint32_t> x(inputs), y(Words(outputs, 0));
  gpu::launch(kernel, 1, threads, 0, nullptr, x.data, y.data);
  return y.read();
}
Words counted(size_t n) {
  Words words(n);
  for (size_t i = 0; i < n; i++) words[i] = uint32_t(i * 0x01010101u + 0x04030201u);
  return words;
}

// ---- copies in the background: whole, and with zeros behind the bytes that there are
template <int kBytes>
__global__ void copy(const uint32_t* x, uint32_t* y) {
  SG_SHARED(uint4, memory, [8]);
  char* const to = reinterpret_cast<char*>(memory);
  const char* const from = reinterpret_cast<const char*>(x);
  const int sizes[] = {kBytes, kBytes - 1, 1, 0};
  for (int i = 0; i < 4; i++) {
    if constexpr (kBytes == 16) gpu::cp_async16(to + i * 16, from + i * 16, sizes[i]);
    if constexpr (kBytes == 8) gpu::cp_async8(to + i * 8, from + i * 8, sizes[i]);
    if constexpr (kBytes == 4) gpu::cp_async4(to + i * 4, from + i * 4, sizes[i]);
    gpu::cp_async_commit();
  }
  gpu::cp_async_wait<2>();
  const uint32_t* const words = reinterpret_cast<const uint32_t*>(memory);
  for (int i = 0; i < kBytes / 2; i++) y[i] = words[i];
  gpu::cp_async_wait<0>();
  for (int i = kBytes / 2; i < kBytes; i++) y[i] = words[i];
}

// ---- ldmatrix of four matrices with distinct elements, rows named in an order of their own
template <int kMatrices, bool kTransposed>
__global__ void load(const uint32_t* x, uint32_t* y) {
  SG_SHARED(uint4, memory, [32]);
  uint32_t* const words = reinterpret_cast<uint32_t*>(memory);
  const int lane = int(threadIdx.x);
  for (int i = 0; i < 4; i++) words[lane * 4 + i] = x[lane * 4 + i];
  __syncwarp();
  const void* const row = memory + (lane * 5 + 3) % 32;
  uint32_t one, two[2], four[4];
  if constexpr (kMatrices == 1) {
    if constexpr (kTransposed) gpu::ldmatrix_x1_trans(one, row);
    else gpu::ldmatrix_x1(one, row);
    y[lane] = one;
  } else if constexpr (kMatrices == 2) {
    if constexpr (kTransposed) gpu::ldmatrix_x2_trans(two, row);
    else gpu::ldmatrix_x2(two, row);
    for (int i = 0; i < 2; i++) y[lane * 2 + i] = two[i];
  } else {
    if constexpr (kTransposed) gpu::ldmatrix_x4_trans(four, row);
    else gpu::ldmatrix_x4(four, row);
    for (int i = 0; i < 4; i++) y[lane * 4 + i] = four[i];
  }
}

// ---- mma: ten words a lane are A's four, B's two and the accumulators
template <bool kBfloat16>
__global__ void multiply(const uint32_t* x, uint32_t* y) {
  const uint32_t* const mine = x + threadIdx.x * 10;
  const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]};
  float acc[4];
  for (int i = 0; i < 4; i++) acc[i] = __uint_as_float(mine[6 + i]);
  if constexpr (kBfloat16) gpu::mma_bf16_16816(acc, a, mine[4], mine[5]);
  else gpu::mma_f16_16816(acc, a, mine[4], mine[5]);
  for (int i = 0; i < 4; i++) y[threadIdx.x * 4 + i] = __float_as_uint(acc[i]);
}
// Operands: `value(i)` for the elements of A and B, `start(i)` for the accumulators.
template <class Half>
Words operands(float (*value)(size_t), float (*start)(size_t)) {
  Words words;
  for (size_t lane = 0; lane < 32; lane++) {
    for (size_t i = 0; i < 6; i++) {
      const size_t at = (lane * 6 + i) * 2;
      words.push_back(Half(value(at)).bits | uint32_t(Half(value(at + 1)).bits) << 16);
    }
    for (size_t i = 0; i < 4; i++) words.push_back(word_of(start(lane * 4 + i)));
  }
  return words;
}
float whole(size_t i) { return float(int(i * 37 % 17) - 8); }
float wide(size_t i) { return varied(i) * float(1 << i % 11); }
float none(size_t) { return 0; }
float large(size_t i) { return varied(i + 7) * 1e6f; }

// ---- scalars
__global__ void exponential(const uint32_t* x, uint32_t* y) {
  y[threadIdx.x] = __float_as_uint(gpu::fast_exp2(__uint_as_float(x[threadIdx.x])));
}
__global__ void logarithm(const uint32_t* x, uint32_t* y) {
  y[threadIdx.x] = __float_as_uint(gpu::fast_log2(__uint_as_float(x[threadIdx.x])));
}
template <bool kBfloat16>
__global__ void pack(const uint32_t* x, uint32_t* y) {
  const float low = __uint_as_float(x[threadIdx.x]), high = __uint_as_float(x[(threadIdx.x + 1) % blockDim.x]);
  y[threadIdx.x] = kBfloat16 ? gpu::pack_bf16(low, high) : gpu::pack_f16(low, high);
}
__global__ void keep(const uint32_t* x, uint32_t* y) {
  y[threadIdx.x] = uint32_t(gpu::keep_in_loop(int(x[threadIdx.x])));
}
__global__ void clock_moves_on(const uint32_t*, uint32_t* y) {
  const uint64_t first = gpu::global_nanoseconds();
  *y = gpu::global_nanoseconds() >= first && first > 0;
}
// Warp 0 writes, warp 1 reads: two barriers, one a direction.
__global__ void hand_over(const uint32_t* x, uint32_t* y) {
  SG_SHARED(uint32_t, place, [32]);
  const int lane = int(threadIdx.x) % 32;
  for (int i = 0; i < 4; i++) {
    if (threadIdx.x < 32) {
      if (i > 0) gpu::named_barrier_sync(2, 64);
      place[lane] = x[i * 32 + lane];
      gpu::named_barrier_arrive(1, 64);
    } else {
      gpu::named_barrier_sync(1, 64);
      y[i * 32 + lane] = place[31 - lane];
      if (i < 3) gpu::named_barrier_arrive(2, 64);
    }
  }
}

Words floats(std::vector<float> special, float from, float to) {
  Words words;
  for (const float x : special) words.push_back(word_of(x));
  while (words.size() < 256) words.push_back(word_of(from + (to - from) * (varied(words.size()) + 1) / 2));
  return words;
}

}  // namespace

bool record(const char* path) {
  FILE* const file = fopen(path, "w");
  if (!file) return false;
  cudaDeviceProp gpu{};
  bool right = cudaGetDeviceProperties(&gpu, 0) == cudaSuccess;
  fprintf(file, "{\n  \"device\": \"%s\",\n  \"outputs\": {", gpu.name);
  const char* separator = "\n";
  const auto add = [&](const char* name, const Words& words) {
    right &= cudaDeviceSynchronize() == cudaSuccess;
    fprintf(file, "%s    \"%s\": \"", separator, name);
    for (const uint32_t word : words) fprintf(file, "%08x", unsigned(word));
    fputc('"', file);
    separator = ",\n";
  };
  add("cp_async16", run(copy<16>, counted(64), 16, 1));
  add("cp_async8", run(copy<8>, counted(64), 8, 1));
  add("cp_async4", run(copy<4>, counted(64), 4, 1));
  add("ldmatrix_x1", run(load<1, false>, counted(128), 32, 32));
  add("ldmatrix_x2", run(load<2, false>, counted(128), 64, 32));
  add("ldmatrix_x4", run(load<4, false>, counted(128), 128, 32));
  add("ldmatrix_x1_trans", run(load<1, true>, counted(128), 32, 32));
  add("ldmatrix_x2_trans", run(load<2, true>, counted(128), 64, 32));
  add("ldmatrix_x4_trans", run(load<4, true>, counted(128), 128, 32));
  add("mma_bf16_16816", run(multiply<true>, operands<bfloat16>(whole, whole), 128, 32));
  add("mma_f16_16816", run(multiply<false>, operands<float16>(whole, whole), 128, 32));
  add("mma_bf16_16816 rounded", run(multiply<true>, operands<bfloat16>(wide, none), 128, 32));
  add("mma_f16_16816 rounded", run(multiply<false>, operands<float16>(wide, none), 128, 32));
  add("mma_bf16_16816 onto large", run(multiply<true>, operands<bfloat16>(wide, large), 128, 32));
  add("mma_f16_16816 onto large", run(multiply<false>, operands<float16>(wide, large), 128, 32));
  const float infinity = std::numeric_limits<float>::infinity(), tiny = 1e-40f;
  add("fast_exp2", run(exponential, floats({0, -0.f, 1, -1, 127, 128, -126, -infinity, infinity}, -20, 20), 256, 256));
  add("fast_log2", run(logarithm, floats({1, 2, 0.5f, 0, infinity, 1e-38f}, 1e-3f, 1e3f), 256, 256));
  const std::vector<float> edges = {1,       1.00390625f, 1.01171875f, -0.f, 65504, 65519.99f, 65520,
                                    3.4e38f, -3.4e38f,    infinity,    tiny, 6e-8f, 2.9e-8f,   -infinity};
  add("pack_bf16", run(pack<true>, floats(edges, -4, 4), 256, 256));
  add("pack_f16", run(pack<false>, floats(edges, -4, 4), 256, 256));
  add("keep_in_loop", run(keep, counted(32), 32, 32));
  add("named_barrier", run(hand_over, counted(128), 128, 64));
  add("global_nanoseconds", run(clock_moves_on, counted(1), 1, 1));
  fprintf(file, "\n  }\n}\n");
  return fclose(file) == 0 && right;
}
