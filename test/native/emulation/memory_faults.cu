// Mistakes with memory and between streams: bounds, lifetime, first values, alignment, whose memory it is, and work
// that nothing orders.
#include "kernels.cuh"
#include "suite.h"
#ifdef SG_CUDA_EMULATION
#include "../../../csrc/cuda/emulation/library.h"
#endif

namespace {

template <Plant kPlant>
void run_deviations() {
  Buffer<float> x(std::vector<float>(300, 1)), y(3);
  gpu::launch(deviations<kPlant>, 3, 128, 0, nullptr, x.data, y.data, 100);
  (void)cudaDeviceSynchronize();
}
template <Plant kPlant>
void run_add(size_t n) {
  Buffer<float> a(std::vector<float>(n, 1)), b(std::vector<float>(n, 1)), y(n);
  gpu::launch(add_vectors<kPlant>, 3, 96, 0, nullptr, a.data, b.data, y.data, int(n));
  (void)cudaDeviceSynchronize();
}
void copy_on_device(const float* x, float* y, int n) {
  gpu::launch(copy_numbers<float>, 1, 128, 0, nullptr, x, y, n);
  (void)cudaDeviceSynchronize();
}

void use_after_free() {
  Buffer<float> y(64);
  float* freed;
  {
    Buffer<float> x(std::vector<float>(64, 1));
    freed = x.data;
  }
  copy_on_device(freed, y.data, 64);
}
void use_after_free_in_a_stream() {
  Buffer<float> y(64);
  cudaStream_t stream;
  (void)cudaStreamCreate(&stream);
  float* x;
  (void)cudaMallocAsync(reinterpret_cast<void**>(&x), 256, stream);
  (void)cudaMemsetAsync(x, 0, 256, stream);
  (void)cudaFreeAsync(x, stream);
  gpu::launch(copy_numbers<float>, 1, 64, 0, stream, x, y.data, 64);
  (void)cudaStreamSynchronize(stream);
  (void)cudaStreamDestroy(stream);
}
void read_uninitialised() {
  Buffer<float> x(64), y(64);
  (void)cudaMemset(x.data, 0, 63 * 4);
  copy_on_device(x.data, y.data, 64);
}
void read_host_memory() {
  Buffer<float> y(64);
  std::vector<float> x(64, 1);
  copy_on_device(x.data(), y.data, 64);
}
void read_another_device() {
  Buffer<float> y(64);
  (void)cudaSetDevice(1);
  {
    Buffer<float> x(std::vector<float>(64, 1));
    (void)cudaSetDevice(0);
    copy_on_device(x.data, y.data, 64);
  }
}
void copy_another_device() {
  Buffer<float> y(64);
  (void)cudaSetDevice(1);
  Buffer<float> x(64);
  (void)cudaSetDevice(0);
  (void)cudaMemcpyAsync(y.data, x.data, 256, cudaMemcpyDeviceToDevice, nullptr);
  (void)cudaDeviceSynchronize();
}
void copy_out_of_bounds() {
  Buffer<float> x(64), y(100);
  (void)cudaMemcpyAsync(y.data, x.data, 260, cudaMemcpyDeviceToDevice, nullptr);
  (void)cudaDeviceSynchronize();
}
void touch_from_host() {
  Buffer<float> x(std::vector<float>(64, 1));
  volatile float* const p = x.data;
  p[3] = p[3] + 1;
}

__global__ void past_dynamic_memory(float* y, int n) {
  SG_DYNAMIC_SHARED(float, memory);
  for (int i = 0; i < n; i++) memory[i] = 1;
  y[0] = memory[0];
}
__global__ void past_local_array(float* y, int n) {
  float local[4] = {1, 2, 3, 4};
  y[0] = local[n];
}
__global__ void divides(int* y, int by) { y[0] = 7 / by; }
__global__ void anothers_local_memory(float* y) {
  SG_SHARED(float*, pointer);
  float mine = float(threadIdx.x);
  if (threadIdx.x == 0) pointer = &mine;
  __syncthreads();
  if (threadIdx.x == 1) y[0] = *pointer;
  __syncthreads();
}
__global__ void too_many_arrays(float* y) {
  SG_SHARED(float, first, [30000]);
  SG_SHARED(float, second, [30000]);
  first[0] = second[0] = 1;
  y[0] = first[0] + second[0];
}
__global__ void misaligned_copy(const float* x, float* y) {
  SG_SHARED(float4, memory, [2]);
  gpu::cp_async16(memory, x + 1);
  gpu::cp_async_commit();
  gpu::cp_async_wait<0>();
  y[0] = memory[0].x;
}

// Two streams, and what is left out between them.
class TwoStreams {
 public:
  cudaStream_t first, second;
  Buffer<float> x{std::vector<float>(256, 1)}, y{std::vector<float>(256, 1)};
  TwoStreams() {
    (void)cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
    (void)cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  }
  ~TwoStreams() {
    (void)cudaStreamDestroy(first);
    (void)cudaStreamDestroy(second);
  }
};
void read_without_event() {
  TwoStreams s;
  gpu::launch(write_numbers<float>, 1, 256, 0, s.first, s.x.data, 256, 1);
  gpu::launch(copy_numbers<float>, 1, 256, 0, s.second, s.x.data, s.y.data, 256);
  (void)cudaDeviceSynchronize();
}
void write_without_event() {
  TwoStreams s;
  gpu::launch(copy_numbers<float>, 1, 256, 0, s.first, s.x.data, s.y.data, 256);
  gpu::launch(write_numbers<float>, 1, 256, 0, s.second, s.x.data, 256, 1);
  (void)cudaDeviceSynchronize();
}
void copy_without_event() {
  TwoStreams s;
  gpu::launch(write_numbers<float>, 1, 256, 0, s.first, s.x.data, 256, 1);
  (void)cudaMemcpyAsync(s.y.data, s.x.data, 1024, cudaMemcpyDeviceToDevice, s.second);
  (void)cudaDeviceSynchronize();
}
void event_too_early() {
  TwoStreams s;
  cudaEvent_t event;
  (void)cudaEventCreate(&event);
  (void)cudaEventRecord(event, s.first);
  gpu::launch(write_numbers<float>, 1, 256, 0, s.first, s.x.data, 256, 1);
  (void)cudaStreamWaitEvent(s.second, event, 0);
  gpu::launch(copy_numbers<float>, 1, 256, 0, s.second, s.x.data, s.y.data, 256);
  (void)cudaDeviceSynchronize();
  (void)cudaEventDestroy(event);
}

}  // namespace

void memory_faults(Suite& suite) {
  constexpr Caught kAlways = Caught::Always, kCheck = Caught::ByCheckBuild;
  suite.fault("reads past the end of device memory", kCheck, [] { run_add<Plant::OutOfBounds>(1003); });
  suite.fault("misaligned float4", kCheck, [] { run_add<Plant::Misaligned>(1004); });
  suite.fault("writes past a shared array", kCheck, run_deviations<Plant::OutOfBounds>);
  suite.fault("reads shared memory that nobody wrote", kCheck, run_deviations<Plant::Uninitialised>);
  suite.fault("writes past dynamic shared memory", kCheck, [] {
    Buffer<float> y(1);
    gpu::launch(past_dynamic_memory, 1, 1, 400, nullptr, y.data, 101);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("reads past a local array", kCheck, [] {
    Buffer<float> y(1);
    gpu::launch(past_local_array, 1, 1, 0, nullptr, y.data, 4);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("integer division by zero", kCheck, [] {
    Buffer<int> y(1);
    gpu::launch(divides, 1, 1, 0, nullptr, y.data, 0);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("another thread's local memory", kCheck, [] {
    Buffer<float> y(1);
    gpu::launch(anothers_local_memory, 1, 32, 0, nullptr, y.data);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("more shared arrays than a block may have", kAlways, [] {
    Buffer<float> y(1);
    gpu::launch(too_many_arrays, 1, 1, 0, nullptr, y.data);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("cp.async from a misaligned place", kAlways, [] {
    Buffer<float> x(std::vector<float>(8, 1)), y(1);
    gpu::launch(misaligned_copy, 1, 1, 0, nullptr, x.data, y.data);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("use after free", kCheck, use_after_free);
  suite.fault("use after cudaFreeAsync", kCheck, use_after_free_in_a_stream);
  suite.fault("reads device memory that nobody wrote", kCheck, read_uninitialised);
  suite.fault("a kernel reads the host's memory", kCheck, read_host_memory);
  suite.fault("a kernel reads another device's memory", kCheck, read_another_device);
  suite.fault("a copy from another device's memory", kAlways, copy_another_device);
  suite.fault("a copy past the end", kAlways, copy_out_of_bounds);
  suite.fault("the host touches device memory", kCheck, touch_from_host);
  suite.fault("streams: read before the write, no event", kCheck, read_without_event);
  suite.fault("streams: write before the read, no event", kCheck, write_without_event);
  suite.fault("streams: copy without an event", kCheck, copy_without_event);
  suite.fault("streams: an event recorded too early", kCheck, event_too_early);
#ifdef SG_CUDA_EMULATION
  suite.fault("a library reads past the end", kAlways, [] {
    Buffer<float> x(std::vector<float>(64, 1));
    const auto run = [](void* p) { (void)sgEmulationAccess(p, 257, 0, "a library"); };
    (void)sgEmulationEnqueue(nullptr, nullptr, run, nullptr, x.data);
    (void)cudaDeviceSynchronize();
  });
  suite.fault("a part that its allocator took back", kCheck, [] {
    Buffer<float> x(std::vector<float>(128, 1)), y(64);
    sgEmulationMark(x.data + 32, 128, 0, nullptr);
    copy_on_device(x.data, y.data, 64);
  });
#endif
}
