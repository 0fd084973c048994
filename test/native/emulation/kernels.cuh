// Small kernels with the idioms that ours are made of. Each takes the mistake to plant in it as a parameter; without
// one it is legal and right.
#pragma once
#include "../../../csrc/cuda/gpu.cuh"

namespace {

using namespace sg;

enum class Plant {
  None,
  NoBarrier,
  NoBarrierAtEnd,
  NoBarrierAfterWait,
  NoSyncwarp,
  NoFence,
  NoAtomic,
  NoCommit,
  WaitForTooFew,
  WrongCount,
  WrongMask,
  FullMask,
  InactiveSource,
  OutOfBounds,
  Uninitialised,
  Misaligned,
  Diverged,
};

__device__ inline float warp_sum(float v) {
  for (int offset = 16; offset; offset /= 2) v += __shfl_xor_sync(gpu::kFullWarp, v, offset);
  return v;
}

template <Plant kPlant>
__device__ float block_sum(float v, float* partial) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0 && !(kPlant == Plant::Uninitialised && threadIdx.x == 32)) partial[threadIdx.x / 32] = v;
  if (kPlant != Plant::NoBarrier) __syncthreads();
  v = 0;
  for (unsigned w = 0; w < blockDim.x / 32; w++) v += partial[w];
  if (kPlant != Plant::NoBarrierAtEnd) __syncthreads();
  return v;
}
// y[row] = sum of the squared deviations of a row from its mean; a block of 128 threads a row.
template <Plant kPlant>
__global__ void deviations(const float* x, float* y, int columns) {
  SG_SHARED(float, partial, [kPlant == Plant::OutOfBounds ? 3 : 4]);
  const float* const row = x + blockIdx.x * columns;
  float sum = 0;
  for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) sum += row[i];
  const float mean = block_sum<kPlant>(sum, &partial[0]) / float(columns);
  sum = 0;
  for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) sum += (row[i] - mean) * (row[i] - mean);
  sum = block_sum<kPlant>(sum, &partial[0]);
  if (threadIdx.x == 0) y[blockIdx.x] = sum;
}

// c = a b, square matrices of n; 16x16 threads, a tile a block.
template <Plant kPlant>
__global__ void product(const float* a, const float* b, float* c, int n) {
  SG_SHARED(float, as, [16][17]);
  SG_SHARED(float, bs, [16][17]);
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int row = int(blockIdx.y) * 16 + y, column = int(blockIdx.x) * 16 + x;
  float sum = 0;
  for (int k0 = 0; k0 < n; k0 += 16) {
    as[y][x] = row < n && k0 + x < n ? a[row * n + k0 + x] : 0;
    bs[y][x] = k0 + y < n && column < n ? b[(k0 + y) * n + column] : 0;
    if (kPlant == Plant::Diverged && y < 8) __syncthreads();
    else if (kPlant != Plant::NoBarrier) __syncthreads();
    for (int k = 0; k < 16; k++) sum += as[y][k] * bs[k][x];
    if (kPlant != Plant::NoBarrierAtEnd) __syncthreads();
  }
  if (row < n && column < n) c[row * n + column] = sum;
}

// y = the columns' sums of [tiles * 64, 32] numbers, through two stages of shared memory that fill in the background.
template <Plant kPlant>
__global__ void pipeline(const float* x, float* y, int tiles) {
  SG_SHARED(float4, stages, [2][512]);
  const auto fetch = [&](int tile) {
    for (int i = int(threadIdx.x); i < 512; i += int(blockDim.x))
      gpu::cp_async16(&stages[tile % 2][i], reinterpret_cast<const float4*>(x) + tile * 512 + i);
  };
  fetch(0);
  if (kPlant != Plant::NoCommit) gpu::cp_async_commit();
  float sum = 0;
  for (int tile = 0; tile < tiles; tile++) {
    if (tile + 1 < tiles) fetch(tile + 1);
    if (kPlant != Plant::NoCommit) gpu::cp_async_commit();
    gpu::cp_async_wait<kPlant == Plant::WaitForTooFew ? 2 : 1>();
    if (kPlant != Plant::NoBarrierAfterWait) __syncthreads();
    const float* const stage = reinterpret_cast<const float*>(stages[tile % 2]);
    if (threadIdx.x < 32)
      for (int r = 0; r < 64; r++) sum += stage[r * 32 + int(threadIdx.x)];
    if (kPlant != Plant::NoBarrierAtEnd) __syncthreads();
  }
  if (threadIdx.x < 32) y[threadIdx.x] = sum;
}

// The block that comes last adds up what all have left.
template <Plant kPlant>
__global__ void last_block_sums(const float* x, float* partial, unsigned* counter, float* y, int n) {
  SG_SHARED(bool, last);
  float v = 0;
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) v += x[i];
  v = warp_sum(v);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = v;
    if (kPlant != Plant::NoFence) __threadfence();
    if (kPlant == Plant::NoAtomic) last = (*counter)++ == gridDim.x - 1;
    else last = atomicAdd(counter, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last || threadIdx.x != 0) return;
  float sum = 0;
  for (unsigned b = 0; b < gridDim.x; b++) sum += partial[b];
  *y = sum;
}

// Every thread writes, fences and counts for itself; the last one adds up.
template <Plant kPlant>
__global__ void last_thread_sums(unsigned* values, unsigned* counter, unsigned* y) {
  const unsigned t = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
  values[t] = t;
  if (kPlant != Plant::NoFence) __threadfence();
  if (atomicAdd(counter, 1u) != n - 1) return;
  unsigned sum = 0;
  for (unsigned i = 0; i < n; i++) sum += values[i];
  *y = sum;
}

// Warp 0 fills two buffers in turn, warp 1 empties them: barriers 1 and 2 say "full", 3 and 4 "empty".
template <Plant kPlant>
__global__ void producer_consumer(const float* x, float* y, int rounds) {
  SG_SHARED(float, buffers, [2][32]);
  const int lane = int(threadIdx.x % 32);
  const int all = kPlant == Plant::WrongCount ? 96 : 64;
  for (int i = 0; i < rounds; i++) {
    const int at = i % 2;
    if (threadIdx.x < 32) {
      if (i >= 2 && kPlant != Plant::NoBarrierAtEnd) gpu::named_barrier_sync(3 + at, all);
      buffers[at][lane] = x[i * 32 + lane];
      if (kPlant != Plant::NoBarrier) gpu::named_barrier_arrive(1 + at, all);
    } else {
      if (kPlant != Plant::NoBarrier) gpu::named_barrier_sync(1 + at, all);
      y[i * 32 + lane] = 2 * buffers[at][lane];
      if (i + 2 < rounds && kPlant != Plant::NoBarrierAtEnd) gpu::named_barrier_arrive(3 + at, all);
    }
  }
}

// Neighbours exchange through shared memory, without a barrier of the block.
template <Plant kPlant>
__global__ void neighbours(float* y) {
  SG_SHARED(float, values, [64]);
  const unsigned t = threadIdx.x;
  values[t] = float(t);
  if (kPlant != Plant::NoSyncwarp) __syncwarp();
  const float other = values[t ^ 1];
  if (kPlant != Plant::NoBarrierAtEnd) __syncwarp();
  values[t] = other + 1;
  __syncwarp();
  y[t] = values[t ^ 1];
}

// Half warps on different paths, threads that leave early.
template <Plant kPlant>
__global__ void halves(int* y) {
  const int lane = int(threadIdx.x % 32);
  int v = int(threadIdx.x);
  if (threadIdx.x >= 80) return;
  if (lane < 16) v += __shfl_xor_sync(kPlant == Plant::WrongMask ? 0x00ff00ffu : 0x0000ffffu, v, 1);
  else if (threadIdx.x < 64) v += __shfl_xor_sync(0xffff0000u, v, kPlant == Plant::InactiveSource ? 16 : 2);
  if (kPlant == Plant::FullMask && threadIdx.x >= 64) v += __shfl_xor_sync(0xffffffffu, v, 4);
  __syncthreads();
  y[threadIdx.x] = v;
}

// y = a + b by 16-byte accesses and a tail.
template <Plant kPlant>
__global__ void add_vectors(const float* a, const float* b, float* y, int n) {
  if (kPlant == Plant::Misaligned) a++;
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (kPlant == Plant::OutOfBounds ? i < n : i + 4 <= n) {
    const float4 va = *reinterpret_cast<const float4*>(a + i), vb = *reinterpret_cast<const float4*>(b + i);
    *reinterpret_cast<float4*>(y + i) = make_float4(va.x + vb.x, va.y + vb.y, va.z + vb.z, va.w + vb.w);
  } else {
    for (int k = i; k < n; k++) y[k] = a[k] + b[k];
  }
}

template <Plant kPlant>
__global__ void histogram(const int* x, int* counts, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  if (kPlant == Plant::NoAtomic) counts[x[i]]++;
  else atomicAdd(&counts[x[i]], 1);
}

template <class T>
__global__ void write_numbers(T* y, int n, T first) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = first + T(i);
}
template <class T>
__global__ void copy_numbers(const T* x, T* y, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = x[i];
}

}  // namespace
