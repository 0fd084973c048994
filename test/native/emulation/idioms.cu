// What is legal must work and must not be reported: every kernel of kernels.cuh without a mistake, and idioms around
// them.
#include <numeric>

#include "kernels.cuh"
#include "suite.h"

namespace {

std::vector<float> numbers(size_t n) {
  std::vector<float> x(n);
  for (size_t i = 0; i < n; i++) x[i] = float(i * 7 % 13) - 6;
  return x;
}

bool deviations_work() {
  Buffer<float> x(numbers(300)), y(3);
  gpu::launch(deviations<Plant::None>, 3, 128, 0, nullptr, x.data, y.data, 100);
  const auto from = x.read(), got = y.read();
  for (size_t r = 0; r < 3; r++) {
    double mean = 0, sum = 0;
    for (size_t i = 0; i < 100; i++) mean += from[r * 100 + i] / 100;
    for (size_t i = 0; i < 100; i++) sum += (from[r * 100 + i] - mean) * (from[r * 100 + i] - mean);
    if (std::abs(got[r] - sum) > 1e-2) return false;
  }
  return true;
}

bool product_works() {
  constexpr size_t n = 37;
  Buffer<float> a(numbers(n * n)), b(numbers(n * n)), c(n * n);
  gpu::launch(product<Plant::None>, dim3(3, 3), dim3(16, 16), 0, nullptr, a.data, b.data, c.data, int(n));
  const auto from = a.read(), got = c.read();
  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) {
      float sum = 0;
      for (size_t k = 0; k < n; k++) sum += from[i * n + k] * from[k * n + j];
      if (got[i * n + j] != sum) return false;
    }
  return true;
}

bool pipeline_works() {
  Buffer<float> x(numbers(5 * 64 * 32)), y(32);
  gpu::launch(pipeline<Plant::None>, 1, 128, 0, nullptr, x.data, y.data, 5);
  const auto from = x.read(), got = y.read();
  for (size_t c = 0; c < 32; c++) {
    float sum = 0;
    for (size_t r = 0; r < 5 * 64; r++) sum += from[r * 32 + c];
    if (got[c] != sum) return false;
  }
  return true;
}

bool last_block_works() {
  Buffer<float> x(std::vector<float>(1000, 1)), partial(5), y(1);
  Buffer<unsigned> counter(std::vector<unsigned>{0});
  gpu::launch(last_block_sums<Plant::None>, 5, 32, 0, nullptr, x.data, partial.data, counter.data, y.data, 1000);
  return y.read()[0] == 1000;
}
bool last_thread_works() {
  Buffer<unsigned> values(96), counter(std::vector<unsigned>{0}), y(1);
  gpu::launch(last_thread_sums<Plant::None>, 2, 48, 0, nullptr, values.data, counter.data, y.data);
  return y.read()[0] == 96 * 95 / 2;
}

bool producer_consumer_works() {
  Buffer<float> x(numbers(640)), y(640);
  gpu::launch(producer_consumer<Plant::None>, 1, 64, 0, nullptr, x.data, y.data, 20);
  const auto from = x.read(), got = y.read();
  for (size_t i = 0; i < 640; i++)
    if (got[i] != 2 * from[i]) return false;
  return true;
}

bool neighbours_work() {
  Buffer<float> y(64);
  gpu::launch(neighbours<Plant::None>, 1, 64, 0, nullptr, y.data);
  const auto got = y.read();
  for (size_t t = 0; t < 64; t++)
    if (got[t] != float(t + 1)) return false;
  return true;
}

bool halves_work() {
  Buffer<int> y(80);
  gpu::launch(halves<Plant::None>, 1, 96, 0, nullptr, y.data);
  const auto got = y.read();
  for (int t = 0; t < 80; t++)
    if (got[size_t(t)] != (t % 32 < 16 ? t + (t ^ 1) : t + (t ^ 2))) return false;
  return true;
}

bool add_vectors_works() {
  Buffer<float> a(numbers(1003)), b(numbers(1003)), y(1003);
  gpu::launch(add_vectors<Plant::None>, 3, 96, 0, nullptr, a.data, b.data, y.data, 1003);
  const auto from = a.read(), got = y.read();
  for (size_t i = 0; i < 1003; i++)
    if (got[i] != 2 * from[i]) return false;
  return true;
}

bool histogram_works() {
  std::vector<int> values(500);
  for (size_t i = 0; i < 500; i++) values[i] = int(i % 3);
  Buffer<int> x(values), counts({0, 0, 0});
  gpu::launch(histogram<Plant::None>, 8, 64, 0, nullptr, x.data, counts.data, 500);
  return counts.read() == std::vector<int>{167, 167, 166};
}

// Neighbouring threads write halves of the same word; every thread reads what all of another warp wrote.
__global__ void narrow(uint8_t* bytes, bfloat16* halves, const float* x) {
  SG_SHARED(uint8_t, shared, [64]);
  const unsigned t = threadIdx.x;
  shared[t] = uint8_t(t);
  halves[t] = bfloat16(x[t]);
  __syncthreads();
  bytes[t] = shared[63 - t];
}
bool narrow_works() {
  Buffer<uint8_t> bytes(64);
  Buffer<bfloat16> halves(64);
  Buffer<float> x(numbers(64));
  gpu::launch(narrow, 1, 64, 0, nullptr, bytes.data, halves.data, x.data);
  const auto got = bytes.read();
  const auto from = x.read();
  const auto rounded = halves.read();
  for (size_t t = 0; t < 64; t++)
    if (got[t] != 63 - t || float(rounded[t]) != from[t]) return false;
  return true;
}

// Structs with padding, copied whole.
struct Padded {
  float value;
  int64_t index;
};
__global__ void padded(const float* x, Padded* y) {
  SG_SHARED(Padded, all, [64]);
  const int t = int(threadIdx.x);
  all[t].value = x[t];
  all[t].index = t;
  __syncthreads();
  Padded best = all[0];
  for (int i = 1; i < 64; i++)
    if (all[i].value > best.value) best = all[i];
  y[t] = best;
}
bool padded_works() {
  Buffer<float> x(numbers(64));
  Buffer<Padded> y(64);
  gpu::launch(padded, 1, 64, 0, nullptr, x.data, y.data);
  const auto got = y.read();
  return got[63].value == 6 && got[63].index == 11;
}

// Local arrays, tables of constants, parameters by value that hold arrays and pointers.
struct Table {
  float values[5];
  float* out;
  int64_t strides[8];
};
__constant__ const int kOrder[5] = {4, 2, 0, 1, 3};
__global__ void by_value(Table table) {
  float local[5];
  for (int i = 0; i < 5; i++) local[kOrder[i]] = table.values[i];
  for (int i = 0; i < 5; i++)
    table.out[int64_t(threadIdx.x) * table.strides[0] + i] = local[(i + int(threadIdx.x)) % 5];
}
bool by_value_works() {
  Buffer<float> y(10);
  gpu::launch(by_value, 1, 2, 0, nullptr, Table{{1, 2, 3, 4, 5}, y.data, {5}});
  return y.read() == std::vector<float>{3, 4, 2, 5, 1, 4, 2, 5, 1, 3};
}

// More shared memory than a kernel has without asking.
__global__ void reverse(const float* x, float* y, int n) {
  SG_DYNAMIC_SHARED(float, memory);
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) memory[i] = x[i];
  __syncthreads();
  for (int i = int(threadIdx.x); i < n; i += int(blockDim.x)) y[i] = memory[n - 1 - i];
}
bool reverse_works() {
  constexpr int n = 20000;
  Buffer<float> x(numbers(n)), y(n);
  gpu::launch(reverse, 1, 256, n * sizeof(float), nullptr, x.data, y.data, n);
  const auto from = x.read(), got = y.read();
  for (size_t i = 0; i < n; i++)
    if (got[i] != from[n - 1 - i]) return false;
  return true;
}

// Kernels that follow each other in a stream, or through an event in another one, and copies among them.
bool streams_work() {
  constexpr int n = 1000;
  cudaStream_t first, second;
  cudaEvent_t event, done;
  if (!ok(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking)) ||
      !ok(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking)) || !ok(cudaEventCreate(&event)) ||
      !ok(cudaEventCreate(&done)))
    return false;
  Buffer<float> x(n), y(n);
  bool right = true;
  for (int round = 0; round < 3; round++) {
    gpu::launch(write_numbers<float>, 4, 256, 0, first, x.data, n, float(round));
    right &= ok(cudaEventRecord(event, first)) && ok(cudaStreamWaitEvent(second, event, 0));
    gpu::launch(copy_numbers<float>, 4, 256, 0, second, x.data, y.data, n);
    right &= ok(cudaEventRecord(done, second)) && ok(cudaStreamWaitEvent(first, done, 0));
  }
  right &= ok(cudaStreamSynchronize(first));
  gpu::launch(write_numbers<float>, 4, 256, 0, second, x.data, n, 9);  // the host has waited: no event is needed
  const auto got = y.read();
  for (size_t i = 0; i < n; i++) right &= got[i] == float(i + 2);
  return right && x.read()[0] == 9 && ok(cudaStreamDestroy(first)) && ok(cudaStreamDestroy(second)) &&
         ok(cudaEventDestroy(event)) && ok(cudaEventDestroy(done));
}

// Pinned memory of the host, written by a kernel.
bool pinned_works() {
  float *host, *seen;
  if (!ok(cudaHostAlloc(reinterpret_cast<void**>(&host), 400, cudaHostAllocMapped)) ||
      !ok(cudaHostGetDevicePointer(reinterpret_cast<void**>(&seen), host, 0)))
    return false;
  gpu::launch(write_numbers<float>, 1, 128, 0, nullptr, seen, 100, 5);
  const bool right = ok(cudaDeviceSynchronize()) && host[99] == 104;
  return ok(cudaFreeHost(host)) && right;
}

}  // namespace

void idiom_cases(Suite& suite) {
  suite.works("sums of a block, twice", deviations_work);
  suite.works("a product in tiles, ragged", product_works);
  suite.works("two stages that fill in the background", pipeline_works);
  suite.works("the last block adds up: fence and counter", last_block_works);
  suite.works("the last thread adds up", last_thread_works);
  suite.works("producer and consumer on named barriers", producer_consumer_works);
  suite.works("shared memory and __syncwarp", neighbours_work);
  suite.works("half warps on two paths, early exits, a partial warp", halves_work);
  suite.works("vectors with a tail", add_vectors_works);
  suite.works("atomic counts", histogram_works);
  suite.works("bytes and halves of the same word", narrow_works);
  suite.works("structs with padding", padded_works);
  suite.works("parameters by value, constants, local arrays", by_value_works);
  suite.works("80 KB of dynamic shared memory", reverse_works);
  suite.works("streams and events", streams_work);
  suite.works("a kernel writes pinned memory", pinned_works);
}
