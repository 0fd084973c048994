// Mistakes within a launch: barriers, warp functions, copies in the background, races between threads and blocks.
#include "kernels.cuh"
#include "suite.h"

namespace {

template <Plant kPlant>
void run_deviations() {
  Buffer<float> x(std::vector<float>(300, 1)), y(3);
  gpu::launch(deviations<kPlant>, 3, 128, 0, nullptr, x.data, y.data, 100);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_product() {
  Buffer<float> a(std::vector<float>(1600, 1)), b(std::vector<float>(1600, 1)), c(1600);
  gpu::launch(product<kPlant>, dim3(3, 3), dim3(16, 16), 0, nullptr, a.data, b.data, c.data, 40);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_pipeline() {
  Buffer<float> x(std::vector<float>(5 * 2048, 1)), y(32);
  gpu::launch(pipeline<kPlant>, 1, 128, 0, nullptr, x.data, y.data, 5);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_last_block() {
  Buffer<float> x(std::vector<float>(1000, 1)), partial(5), y(1);
  Buffer<unsigned> counter(std::vector<unsigned>{0});
  gpu::launch(last_block_sums<kPlant>, 5, 32, 0, nullptr, x.data, partial.data, counter.data, y.data, 1000);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_last_thread() {
  Buffer<unsigned> values(96), counter(std::vector<unsigned>{0}), y(1);
  gpu::launch(last_thread_sums<kPlant>, 2, 48, 0, nullptr, values.data, counter.data, y.data);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_producer_consumer() {
  Buffer<float> x(std::vector<float>(640, 1)), y(640);
  gpu::launch(producer_consumer<kPlant>, 1, 64, 0, nullptr, x.data, y.data, 20);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_neighbours() {
  Buffer<float> y(64);
  gpu::launch(neighbours<kPlant>, 1, 64, 0, nullptr, y.data);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_halves() {
  Buffer<int> y(80);
  gpu::launch(halves<kPlant>, 1, 96, 0, nullptr, y.data);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_histogram(unsigned blocks, unsigned threads) {
  Buffer<int> x(std::vector<int>(128, 0)), counts(std::vector<int>{0});
  gpu::launch(histogram<kPlant>, blocks, threads, 0, nullptr, x.data, counts.data, 128);
  (void)cudaDeviceSynchronize();
}

__global__ void waits_for_nobody() {
  if (threadIdx.x < 32) gpu::named_barrier_sync(2, 64);
}
__global__ void two_barriers_cross() {
  if (threadIdx.x < 32) {
    gpu::named_barrier_sync(1, 64);
    gpu::named_barrier_sync(2, 64);
  } else {
    gpu::named_barrier_sync(2, 64);
    gpu::named_barrier_sync(1, 64);
  }
}
__global__ void two_counts() { gpu::named_barrier_sync(1, threadIdx.x < 32 ? 64 : 96); }
__global__ void own_lane_missing(int* y) { y[threadIdx.x] = __shfl_sync(0x0000fffeu, int(threadIdx.x), 1); }
__global__ void lanes_at_two_places(int* y) {
  int v = int(threadIdx.x);
  if (threadIdx.x % 2) v = __shfl_xor_sync(~0u, v, 1);
  else v = __shfl_xor_sync(~0u, v, 2);
  y[threadIdx.x] = v;
}
__global__ void atomic_and_plain(int* y) {
  if (threadIdx.x == 40) *y = 5;
  else atomicAdd(y, 1);
}
template <class... Parameters>
void run(void (*kernel)(Parameters...), unsigned threads, std::type_identity_t<Parameters>... arguments) {
  gpu::launch(kernel, 1, threads, 0, nullptr, arguments...);
  (void)cudaDeviceSynchronize();
}

__global__ void plain_between_blocks(int* y) {
  if (threadIdx.x == 0) *y = int(blockIdx.x);
}
__global__ void reads_another_block(int* y) {  // a fence orders nothing without an atomic operation on both sides
  if (threadIdx.x == 0) {
    y[blockIdx.x] = 1;
    __threadfence();
    if (y[1 - blockIdx.x] == 7) y[blockIdx.x] = 2;
  }
}

}  // namespace

void block_faults(Suite& suite) {
  constexpr Caught kAlways = Caught::Always, kCheck = Caught::ByCheckBuild;
  suite.fault("no barrier between write and read", kCheck, run_deviations<Plant::NoBarrier>);
  suite.fault("no barrier before the next use (harmless by luck)", kCheck, run_deviations<Plant::NoBarrierAtEnd>);
  suite.fault("no barrier after the loads of a tile", kCheck, run_product<Plant::NoBarrier>);
  suite.fault("no barrier at the end of a tile", kCheck, run_product<Plant::NoBarrierAtEnd>);
  suite.fault("two stages: no barrier at the end", kCheck, run_pipeline<Plant::NoBarrierAtEnd>);
  suite.fault("two stages: no barrier after the wait", kCheck, run_pipeline<Plant::NoBarrierAfterWait>);
  suite.fault("two stages: waits for too few copies", kCheck, run_pipeline<Plant::WaitForTooFew>);
  suite.fault("two stages: no commit", kCheck, run_pipeline<Plant::NoCommit>);
  suite.fault("barriers on two paths", kAlways, run_product<Plant::Diverged>);
  suite.fault("shared memory between lanes without __syncwarp", kCheck, run_neighbours<Plant::NoSyncwarp>);
  suite.fault("the same before the next write", kCheck, run_neighbours<Plant::NoBarrierAtEnd>);
  suite.fault("a mask that misses lanes", kAlways, run_halves<Plant::WrongMask>);
  suite.fault("a full mask after lanes have left", kAlways, run_halves<Plant::FullMask>);
  suite.fault("shuffle from a lane outside of the mask", kAlways, run_halves<Plant::InactiveSource>);
  suite.fault("a lane outside of its own mask", kAlways, [] {
    Buffer<int> y(32);
    run(own_lane_missing, 32, y.data);
  });
  suite.fault("lanes shuffle at two places", kAlways, [] {
    Buffer<int> y(32);
    run(lanes_at_two_places, 32, y.data);
  });
  suite.fault("pipe of named barriers without its barrier", kCheck, run_producer_consumer<Plant::NoBarrier>);
  suite.fault("pipe of named barriers that overruns", kCheck, run_producer_consumer<Plant::NoBarrierAtEnd>);
  suite.fault("named barrier for too many threads", kAlways, run_producer_consumer<Plant::WrongCount>);
  suite.fault("named barrier that nobody else comes to", kAlways, [] { run(waits_for_nobody, 64); });
  suite.fault("named barriers in crossed order", kAlways, [] { run(two_barriers_cross, 64); });
  suite.fault("a named barrier with two counts", kAlways, [] { run(two_counts, 64); });
  suite.fault("last block without a fence", kCheck, run_last_block<Plant::NoFence>);
  suite.fault("last block with a plain counter", kCheck, run_last_block<Plant::NoAtomic>);
  suite.fault("last thread without a fence", kCheck, run_last_thread<Plant::NoFence>);
  suite.fault("plain sums between threads", kCheck, [] { run_histogram<Plant::NoAtomic>(1, 128); });
  suite.fault("plain sums between blocks", kCheck, [] { run_histogram<Plant::NoAtomic>(128, 1); });
  suite.fault("blocks write the same place", kCheck, [] {
    Buffer<int> y(1);
    gpu::launch(plain_between_blocks, 3, 32, 0, nullptr, y.data);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("blocks read each other after a fence alone", kCheck, [] {
    Buffer<int> y({0, 0});
    gpu::launch(reads_another_block, 2, 32, 0, nullptr, y.data);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("plain and atomic writes of one place", kCheck, [] {
    Buffer<int> y(std::vector<int>{0});
    run(atomic_and_plain, 64, y.data);
  });
}
