// The runtime's functions: laziness of streams, copies, events, devices, memory, errors. What only the emulator
// promises (work is not done before somebody waits) is left out on a GPU.
#include <atomic>
#include <cstring>
#include <string>
#include <thread>

#include "kernels.cuh"
#include "suite.h"
#ifdef SG_CUDA_EMULATION
#include "../../../csrc/cuda/emulation/library.h"
#endif

namespace {

constexpr int kNumbers = 256;
#ifdef SG_CUDA_EMULATION
constexpr bool kLazy = true;
#else
constexpr bool kLazy = false;
#endif

struct Stream {
  cudaStream_t handle;
  explicit Stream(unsigned flags = cudaStreamNonBlocking) { (void)cudaStreamCreateWithFlags(&handle, flags); }
  ~Stream() { (void)cudaStreamDestroy(handle); }
};
struct Event {
  cudaEvent_t handle;
  explicit Event(unsigned flags = cudaEventDefault) { (void)cudaEventCreateWithFlags(&handle, flags); }
  ~Event() { (void)cudaEventDestroy(handle); }
};
template <class T>
struct Pinned {
  T* data;
  explicit Pinned(size_t count) { (void)cudaMallocHost(reinterpret_cast<void**>(&data), count * sizeof(T)); }
  ~Pinned() { (void)cudaFreeHost(data); }
};
void fill(cudaStream_t stream, float* x, float first) {
  gpu::launch(write_numbers<float>, 1, kNumbers, 0, stream, x, kNumbers, first);
}

bool reading_too_early_shows() {
  Stream s;
  Buffer<float> x(kNumbers);
  Pinned<float> host(kNumbers);
  host.data[0] = -1;
  fill(s.handle, x.data, 5);
  if (!ok(cudaMemcpyAsync(host.data, x.data, kNumbers * 4, cudaMemcpyDeviceToHost, s.handle))) return false;
  const bool early = !kLazy || host.data[0] == -1;
  return early && ok(cudaStreamSynchronize(s.handle)) && host.data[0] == 5 && host.data[255] == 260;
}

bool pageable_copies_are_staged() {
  Stream s;
  Buffer<float> x(kNumbers);
  std::vector<float> in(kNumbers, 3), out(kNumbers);
  if (!ok(cudaMemcpyAsync(x.data, in.data(), kNumbers * 4, cudaMemcpyHostToDevice, s.handle))) return false;
  in.assign(kNumbers, 4);  // the copy has its own
  if (!ok(cudaMemcpyAsync(out.data(), x.data, kNumbers * 4, cudaMemcpyDeviceToHost, s.handle))) return false;
  return out[0] == 3 && out[255] == 3;  // and has arrived
}

bool events_order_and_tell() {
  Stream a, b;
  Event e, never;
  Buffer<float> x(kNumbers), y(kNumbers);
  bool right = ok(cudaEventQuery(never.handle));  // not recorded: complete
  fill(a.handle, x.data, 1);
  right &= ok(cudaEventRecord(e.handle, a.handle)) && ok(cudaStreamWaitEvent(b.handle, e.handle, 0));
  gpu::launch(copy_numbers<float>, 1, kNumbers, 0, b.handle, x.data, y.data, kNumbers);
  right &= ok(cudaStreamSynchronize(b.handle)) && ok(cudaEventQuery(e.handle));
  Event start, end;
  right &= ok(cudaEventRecord(start.handle, a.handle));
  fill(a.handle, x.data, 2);
  right &= ok(cudaEventRecord(end.handle, a.handle)) && ok(cudaEventSynchronize(end.handle));
  float milliseconds = -1;
  right &= ok(cudaEventElapsedTime(&milliseconds, start.handle, end.handle)) && milliseconds >= 0;
  Event untimed(cudaEventDisableTiming);
  right &= ok(cudaEventRecord(untimed.handle, a.handle)) && ok(cudaEventSynchronize(untimed.handle));
  right &= cudaEventElapsedTime(&milliseconds, start.handle, untimed.handle) == cudaErrorInvalidResourceHandle;
  return right && y.read()[3] == 4;
}

bool polling_gets_there() {
  Stream s;
  Event e;
  Buffer<float> x(kNumbers);
  fill(s.handle, x.data, 1);
  if (!ok(cudaEventRecord(e.handle, s.handle))) return false;
  for (int i = 0; i < 1000000; i++) {
    const cudaError_t state = cudaEventQuery(e.handle);
    if (state == cudaSuccess) return ok(cudaStreamQuery(s.handle));
    if (state != cudaErrorNotReady) return false;
  }
  return false;
}

bool default_stream_orders() {
  Stream blocking(cudaStreamDefault);
  Buffer<float> x(kNumbers), y(kNumbers), z(kNumbers);
  fill(blocking.handle, x.data, 1);
  gpu::launch(copy_numbers<float>, 1, kNumbers, 0, nullptr, x.data, y.data, kNumbers);
  gpu::launch(copy_numbers<float>, 1, kNumbers, 0, blocking.handle, y.data, z.data, kNumbers);
  return ok(cudaStreamSynchronize(blocking.handle)) && z.read()[9] == 10;
}

bool host_functions_run_in_order() {
  Stream s;
  Buffer<float> x(kNumbers);
  struct State {
    std::atomic<int> calls{0};
    cudaError_t inside = cudaErrorUnknown;
    int device = -1;
  } state;
  fill(s.handle, x.data, 1);
  const auto function = [](void* p) { static_cast<State*>(p)->calls++; };
  const auto callback = [](cudaStream_t, cudaError_t status, void* p) {
    static_cast<State*>(p)->inside = status;
    static_cast<State*>(p)->calls += 10;
  };
  bool right =
      ok(cudaLaunchHostFunc(s.handle, function, &state)) && ok(cudaStreamAddCallback(s.handle, callback, &state, 0));
  right &= !kLazy || state.calls == 0;
  return right && ok(cudaStreamSynchronize(s.handle)) && state.calls == 11 && ok(state.inside);
}

bool copies_in_two_dimensions() {
  std::vector<int> from(60), to(40, -1);
  for (size_t i = 0; i < 60; i++) from[i] = int(i);
  Buffer<int> x(60), y(60);
  bool right = ok(cudaMemcpy2D(x.data, 48, from.data(), 40, 40, 5, cudaMemcpyHostToDevice));  // rows of 10 into 12
  right &= ok(cudaMemcpy2DAsync(y.data, 16, x.data, 48, 16, 5, cudaMemcpyDeviceToDevice, nullptr));
  right &= ok(cudaMemcpy2D(to.data(), 32, y.data, 16, 16, 5, cudaMemcpyDeviceToHost));
  for (size_t r = 0; r < 5; r++)
    for (size_t c = 0; c < 8; c++) right &= to[r * 8 + c] == (c < 4 ? int(r * 10 + c) : -1);
  return right && cudaMemcpy2D(x.data, 8, from.data(), 40, 40, 5, cudaMemcpyHostToDevice) == cudaErrorInvalidPitchValue;
}

bool fills() {
  Stream s;
  Buffer<unsigned> x(64);
  bool right = ok(cudaMemset(x.data, 0, 256)) && ok(cudaDeviceSynchronize()) &&
               ok(cudaMemsetAsync(x.data + 8, 0xab, 16, s.handle));
  const auto got = x.read();
  return right && got[7] == 0 && got[8] == 0xabababab && got[11] == 0xabababab && got[12] == 0;
}

bool devices_are_separate() {
  int count = 0;
  if (!ok(cudaGetDeviceCount(&count))) return false;
  if (count < 2) return true;
  bool right = cudaSetDevice(count) == cudaErrorInvalidDevice;
  Buffer<float> x(kNumbers);
  Stream of_first;
  fill(of_first.handle, x.data, 7);
  right &= ok(cudaStreamSynchronize(of_first.handle)) && ok(cudaSetDevice(1));
  {
    Stream of_second;
    Buffer<float> y(kNumbers);
    cudaPointerAttributes where;
    right &= ok(cudaPointerGetAttributes(&where, y.data)) && where.device == 1 && where.type == cudaMemoryTypeDevice;
    right &= gpu::try_launch(write_numbers<float>, 1, 32, 0, of_first.handle, y.data, 32, 0) != cudaSuccess;
    (void)cudaGetLastError();
    right &= ok(cudaMemcpyPeerAsync(y.data, 1, x.data, 0, kNumbers * 4, of_second.handle));
    right &= ok(cudaStreamSynchronize(of_second.handle)) && y.read()[3] == 10;
    int may = 0;
    if (ok(cudaDeviceCanAccessPeer(&may, 1, 0)) && may) {
      right &= ok(cudaDeviceEnablePeerAccess(0, 0));
      right &= cudaDeviceEnablePeerAccess(0, 0) == cudaErrorPeerAccessAlreadyEnabled;
      gpu::launch(copy_numbers<float>, 1, kNumbers, 0, of_second.handle, x.data, y.data, kNumbers);
      right &= ok(cudaDeviceSynchronize()) && ok(cudaDeviceDisablePeerAccess(0)) && y.read()[5] == 12;
    }
  }
  int device = -1;
  std::thread([&] { (void)cudaGetDevice(&device); }).join();
  return right && device == 0 && ok(cudaSetDevice(0));  // a new thread starts on the first
}

bool memory_runs_out() {
  size_t free = 0, total = 0, after = 0;
  void* p = nullptr;
  bool right = ok(cudaMemGetInfo(&free, &total)) && free <= total;
  right &= cudaMalloc(&p, total + 1) == cudaErrorMemoryAllocation && p == nullptr;
  right &= cudaGetLastError() == cudaErrorMemoryAllocation && ok(cudaGetLastError());
  right &= ok(cudaMalloc(&p, 8 << 20)) && ok(cudaMemGetInfo(&after, &total)) && free - after >= 8 << 20;
  right &= ok(cudaFree(p)) && ok(cudaMemGetInfo(&after, &total)) && ok(cudaFree(nullptr));
  return right && after == free;
}

bool memory_of_the_pool() {
  Stream s;
  Buffer<float> y(kNumbers);
  float* x;
  if (!ok(cudaMallocAsync(reinterpret_cast<void**>(&x), kNumbers * 4, s.handle))) return false;
  fill(s.handle, x, 4);
  gpu::launch(copy_numbers<float>, 1, kNumbers, 0, s.handle, x, y.data, kNumbers);
  return ok(cudaFreeAsync(x, s.handle)) && ok(cudaStreamSynchronize(s.handle)) && y.read()[2] == 6;
}

bool registered_memory() {
  std::vector<float> host(kNumbers + 1024);
  Buffer<float> y(kNumbers);
  bool right = ok(cudaHostRegister(host.data(), host.size() * 4, cudaHostRegisterMapped));
  right &= cudaHostRegister(host.data(), 64, 0) == cudaErrorHostMemoryAlreadyRegistered;
  float* seen = nullptr;
  right &= ok(cudaHostGetDevicePointer(reinterpret_cast<void**>(&seen), host.data(), 0));
  host[0] = 12;
  gpu::launch(copy_numbers<float>, 1, 1, 0, nullptr, seen, y.data, 1);
  right &= ok(cudaMemset(y.data + 1, 0, kNumbers * 4 - 4)) && y.read()[0] == 12;
  return right && ok(cudaHostUnregister(host.data())) &&
         cudaHostUnregister(host.data()) == cudaErrorHostMemoryNotRegistered;
}

bool wrong_calls_are_refused() {
  Buffer<float> x(kNumbers);
  std::vector<float> host(kNumbers);
  Stream s;
  bool right = true;
  const auto refused = [&](cudaError_t got, cudaError_t expected) {
    right &= got == expected;
    (void)cudaGetLastError();
  };
  refused(gpu::try_launch(write_numbers<float>, 1, 1025, 0, nullptr, x.data, 1, 0), cudaErrorInvalidConfiguration);
  refused(gpu::try_launch(write_numbers<float>, 0, 32, 0, nullptr, x.data, 1, 0), cudaErrorInvalidConfiguration);
  refused(gpu::try_launch(write_numbers<float>, dim3(1, 65536), 32, 0, nullptr, x.data, 1, 0),
          cudaErrorInvalidConfiguration);
  refused(gpu::try_launch(write_numbers<float>, 1, 32, 300000, nullptr, x.data, 1, 0), cudaErrorInvalidValue);
  refused(cudaMemcpy(x.data, host.data(), 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  refused(cudaMemcpy(nullptr, host.data(), 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  refused(cudaMemset(host.data(), 0, 16), cudaErrorInvalidValue);
  refused(cudaSetDevice(-1), cudaErrorInvalidDevice);
  refused(cudaFree(x.data + 1), cudaErrorInvalidValue);
  try {
    gpu::launch(write_numbers<float>, 1, 2000, 0, s.handle, x.data, 1, 0);
    right = false;
  } catch (const Error& error) { right &= std::strstr(error.what(), "block 2000x1x1") != nullptr; }
  (void)cudaGetLastError();
  return right && std::string(cudaGetErrorName(cudaErrorNotReady)) == "cudaErrorNotReady" &&
         std::string(cudaGetErrorString(cudaErrorMemoryAllocation)) == "out of memory";
}

bool devices_are_described() {
  cudaDeviceProp p;
  int sms = 0, runtime = 0, driver = 0, blocks = 0, least = 0, greatest = 0;
  char bus[32];
  cudaFuncAttributes attributes;
  return ok(cudaGetDeviceProperties(&p, 0)) && p.warpSize == 32 && p.major >= 8 &&
         ok(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0)) && sms == p.multiProcessorCount &&
         ok(cudaRuntimeGetVersion(&runtime)) && runtime >= 12000 && ok(cudaDriverGetVersion(&driver)) &&
         ok(cudaDeviceGetPCIBusId(bus, sizeof bus, 0)) && std::strlen(bus) >= 12 &&
         ok(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(write_numbers<float>))) &&
         ok(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, write_numbers<float>, 256, 0)) && blocks >= 1 &&
         ok(cudaDeviceGetStreamPriorityRange(&least, &greatest)) && greatest <= least;
}

bool threads_call_at_once() {
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < 4; t++)
    threads.emplace_back([&right, t] {
      Stream s;
      Event e;
      Buffer<float> x(kNumbers);
      Pinned<float> host(kNumbers);
      bool good = true;
      for (int round = 0; round < 50 && good; round++) {
        fill(s.handle, x.data, float(t * 1000 + round));
        good = ok(cudaMemcpyAsync(host.data, x.data, kNumbers * 4, cudaMemcpyDeviceToHost, s.handle)) &&
               ok(cudaEventRecord(e.handle, s.handle)) && ok(cudaEventSynchronize(e.handle)) &&
               host.data[1] == float(t * 1000 + round + 1);
      }
      right += good;
    });
  for (std::thread& thread : threads) thread.join();
  return right == 4;
}

#ifdef SG_CUDA_EMULATION
// Work of a library in the stream of each of two threads, which is ready only when the other one has come.
struct Meeting {
  std::atomic<int>*arrived, *released;
  float* data;
  bool counted = false;
};
int everybody_is_there(void* p) {
  Meeting& meeting = *static_cast<Meeting*>(p);
  if (!meeting.counted) (*meeting.arrived)++;
  meeting.counted = true;
  return *meeting.arrived == 2;
}
void double_numbers(void* p) {
  float* const x = static_cast<Meeting*>(p)->data;
  if (!sgEmulationAccess(x, kNumbers * 4, 0, "doubling") || !sgEmulationAccess(x, kNumbers * 4, 1, "doubling")) return;
  for (int i = 0; i < kNumbers; i++) x[i] *= 2;
}
void release_meeting(void* p) { (*static_cast<Meeting*>(p)->released)++; }

bool libraries_wait_for_each_other() {
  std::atomic<int> arrived{0}, released{0}, right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; t++)
    threads.emplace_back([&] {
      Stream s;
      Buffer<float> x(kNumbers);
      Meeting meeting{&arrived, &released, x.data};
      fill(s.handle, x.data, 1);
      const bool good = ok(sgEmulationEnqueue(s.handle, everybody_is_there, double_numbers, release_meeting, &meeting));
      right += good && ok(cudaStreamSynchronize(s.handle)) && x.read()[2] == 6;
    });
  for (std::thread& thread : threads) thread.join();
  return right == 2 && released == 2;
}
#endif

}  // namespace

void runtime_cases(Suite& suite) {
  suite.works("reading before synchronising shows", reading_too_early_shows);
  suite.works("copies of ordinary memory are staged", pageable_copies_are_staged);
  suite.works("events order, are asked, take times", events_order_and_tell);
  suite.works("polling alone gets there", polling_gets_there);
  suite.works("the default stream orders blocking ones", default_stream_orders);
  suite.works("host functions and callbacks", host_functions_run_in_order);
  suite.works("copies in two dimensions", copies_in_two_dimensions);
  suite.works("fills", fills);
  suite.works("devices, peers, devices of threads", devices_are_separate);
  suite.works("memory runs out and comes back", memory_runs_out);
  suite.works("memory of the pool", memory_of_the_pool);
  suite.works("registered memory of the host", registered_memory);
  suite.works("wrong calls are refused", wrong_calls_are_refused);
  suite.works("devices and kernels are described", devices_are_described);
  suite.works("four threads call at once", threads_call_at_once);
#ifdef SG_CUDA_EMULATION
  suite.works("work of libraries that wait for each other", libraries_wait_for_each_other);
#endif
}
