// Graphs: what is captured, replayed, carried to other streams by events, and what is refused meanwhile.
#include <thread>

#include "kernels.cuh"
#include "suite.h"

namespace {

constexpr int kNumbers = 64;

// A capture that ends whatever happens, and all that belongs to it.
struct Session {
  cudaStream_t stream, other;
  cudaEvent_t forked, joined;
  cudaGraph_t graph = nullptr;
  Buffer<float> x{std::vector<float>(kNumbers, 0)}, y{std::vector<float>(kNumbers, 0)};
  Session() {
    (void)cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    (void)cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    (void)cudaEventCreateWithFlags(&forked, cudaEventDisableTiming);
    (void)cudaEventCreateWithFlags(&joined, cudaEventDisableTiming);
  }
  ~Session() {
    cudaStreamCaptureStatus status;
    if (cudaStreamIsCapturing(stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone) (void)end();
    if (graph) (void)cudaGraphDestroy(graph);
    (void)cudaStreamDestroy(stream);
    (void)cudaStreamDestroy(other);
    (void)cudaEventDestroy(forked);
    (void)cudaEventDestroy(joined);
    (void)cudaGetLastError();
  }
  bool begin(cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    return ok(cudaStreamBeginCapture(stream, mode));
  }
  cudaError_t end() { return cudaStreamEndCapture(stream, &graph); }
  void write(cudaStream_t s, float first) {
    gpu::launch(write_numbers<float>, 1, kNumbers, 0, s, x.data, kNumbers, first);
  }
  void copy(cudaStream_t s) { gpu::launch(copy_numbers<float>, 1, kNumbers, 0, s, x.data, y.data, kNumbers); }
};

bool replays() {
  Session s;
  if (!s.begin()) return false;
  s.write(s.stream, 5);
  s.copy(s.stream);
  bool right = ok(cudaMemsetAsync(s.x.data, 0, 4, s.stream)) && ok(s.end());
  right &= s.y.read()[1] == 0;  // nothing has run
  size_t nodes = 0;
  cudaGraphExec_t executable;
  right &= ok(cudaGraphGetNodes(s.graph, nullptr, &nodes)) && nodes == 3;
  right &= ok(cudaGraphInstantiate(&executable, s.graph, 0));
  for (int round = 0; round < 3; round++) {
    right &= ok(cudaMemsetAsync(s.y.data, 0, kNumbers * 4, s.stream)) && ok(cudaGraphLaunch(executable, s.stream));
    right &= ok(cudaStreamSynchronize(s.stream)) && s.y.read()[1] == 6 && s.x.read()[0] == 0;
  }
  right &= ok(cudaGraphLaunch(executable, s.stream)) && ok(cudaGraphExecDestroy(executable));
  return right && ok(cudaStreamSynchronize(s.stream));
}

bool forks_and_joins() {
  Session s;
  if (!s.begin()) return false;
  s.write(s.stream, 5);
  bool right = ok(cudaEventRecord(s.forked, s.stream)) && ok(cudaStreamWaitEvent(s.other, s.forked, 0));
  s.copy(s.other);
  cudaStreamCaptureStatus status;
  right &= ok(cudaStreamIsCapturing(s.other, &status)) && status == cudaStreamCaptureStatusActive;
  right &= ok(cudaEventRecord(s.joined, s.other)) && ok(cudaStreamWaitEvent(s.stream, s.joined, 0));
  s.write(s.stream, 7);
  right &= ok(s.end());
  right &= ok(cudaStreamIsCapturing(s.other, &status)) && status == cudaStreamCaptureStatusNone;
  cudaGraphExec_t executable;
  right &= ok(cudaGraphInstantiate(&executable, s.graph, 0)) && ok(cudaGraphLaunch(executable, s.stream));
  right &= ok(cudaStreamSynchronize(s.stream)) && s.y.read()[1] == 6 && s.x.read()[1] == 8;
  return right && ok(cudaGraphExecDestroy(executable));
}

bool unjoined_work_is_refused() {
  Session s;
  bool right = s.begin() && ok(cudaEventRecord(s.forked, s.stream)) && ok(cudaStreamWaitEvent(s.other, s.forked, 0));
  s.copy(s.other);
  return right && s.end() == cudaErrorStreamCaptureUnjoined && s.graph == nullptr;
}

bool illegal(cudaStreamCaptureMode mode, cudaError_t expected, const std::function<cudaError_t(Session&)>& call) {
  Session s;
  if (!s.begin(mode)) return false;
  s.write(s.stream, 1);
  const cudaError_t got = call(s);
  return got == expected && s.end() == cudaErrorStreamCaptureInvalidated && s.graph == nullptr;
}
cudaError_t allocate() {
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, 64);
  if (p) (void)cudaFree(p);
  return error;
}

bool illegal_calls() {
  constexpr auto kGlobal = cudaStreamCaptureModeGlobal, kLocal = cudaStreamCaptureModeThreadLocal;
  constexpr auto kUnsupported = cudaErrorStreamCaptureUnsupported;
  return illegal(kLocal, kUnsupported, [](Session& s) { return cudaStreamSynchronize(s.stream); }) &&
         illegal(kLocal, kUnsupported, [](Session& s) { return cudaStreamQuery(s.stream); }) &&
         illegal(kGlobal, kUnsupported, [](Session& s) { return cudaStreamSynchronize(s.other); }) &&
         illegal(kLocal, kUnsupported, [](Session&) { return allocate(); }) &&
         illegal(kGlobal, kUnsupported, [](Session&) { return cudaDeviceSynchronize(); }) &&
         illegal(kLocal, kUnsupported,
                 [](Session& s) {
                   float ordinary = 0;
                   return cudaMemcpyAsync(s.x.data, &ordinary, 4, cudaMemcpyHostToDevice, s.stream);
                 }) &&
         illegal(kLocal, cudaErrorCapturedEvent,
                 [](Session& s) {
                   (void)cudaEventRecord(s.forked, s.stream);
                   return cudaEventQuery(s.forked);
                 }) &&
         illegal(kLocal, cudaErrorStreamCaptureIsolation,
                 [](Session& s) {
                   (void)cudaEventRecord(s.forked, s.other);
                   return cudaStreamWaitEvent(s.stream, s.forked, 0);
                 }) &&
         illegal(kGlobal, kUnsupported, [](Session&) {
           cudaError_t error = cudaSuccess;
           std::thread([&] { error = allocate(); }).join();  // another thread breaks a global capture
           return error;
         });
}

bool legal_calls() {
  Session s;
  if (!s.begin(cudaStreamCaptureModeThreadLocal)) return false;
  s.write(s.stream, 1);
  bool right = true;
  std::thread([&] { right = ok(allocate()); }).join();  // a thread-local one is only this thread's
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  right &= ok(cudaThreadExchangeStreamCaptureMode(&mode)) && ok(allocate());
  right &= ok(cudaThreadExchangeStreamCaptureMode(&mode)) && mode == cudaStreamCaptureModeRelaxed;
  gpu::launch(copy_numbers<float>, 1, kNumbers, 0, s.other, s.x.data, s.y.data,
              kNumbers);  // a stream that is not captured
  right &= ok(s.end());
  Session relaxed;
  right &= relaxed.begin(cudaStreamCaptureModeRelaxed) && ok(allocate());
  return right && ok(relaxed.end());
}

bool wrong_ends() {
  Session s;
  bool right = cudaStreamEndCapture(s.stream, &s.graph) == cudaErrorIllegalState;
  right &= s.begin() && !ok(cudaStreamBeginCapture(s.stream, cudaStreamCaptureModeRelaxed));
  cudaError_t from_elsewhere = cudaSuccess;
  std::thread([&] {
    cudaGraph_t graph;
    from_elsewhere = cudaStreamEndCapture(s.stream, &graph);
  }).join();
  right &= from_elsewhere == cudaErrorStreamCaptureWrongThread && ok(s.end());
  return right && cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) == cudaErrorStreamCaptureUnsupported;
}

}  // namespace

void capture_cases(Suite& suite) {
  suite.works("a graph is replayed", replays);
  suite.works("a capture forks and joins by events", forks_and_joins);
  suite.works("work that is not joined is refused", unjoined_work_is_refused);
  suite.works("illegal calls break a capture", illegal_calls);
  suite.works("legal calls during a capture", legal_calls);
  suite.works("captures that end wrongly", wrong_ends);
}
