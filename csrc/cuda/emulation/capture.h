// Capture of streams into graphs, with the rules of CUDA: what may not be called meanwhile, how events carry a capture
// over to other streams, and that everything has to come back to the first stream.
#pragma once
#include <thread>

#include "stream.h"

namespace sg::emulation {

struct Node {
  Operation operation;
  std::vector<int> after;
  int device;
};

struct Capture {
  CUgraph_st* graph;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  CUstream_st* origin;
  uint64_t id;
  bool invalid = false;
  std::vector<CUstream_st*> streams;
};

cudaError_t begin_capture(CUstream_st* stream, cudaStreamCaptureMode mode);
cudaError_t end_capture(CUstream_st* stream, CUgraph_st** graph);
cudaError_t capture_operation(CUstream_st* stream, Operation operation);
cudaError_t capture_record(CUstream_st* stream, CUevent_st* event);
// Only where the stream or the event is part of a capture.
cudaError_t capture_wait(CUstream_st* stream, const CUevent_st* event);
cudaError_t launch_graph(CUstream_st* stream, const std::vector<Node>& nodes);

void invalidate(const std::shared_ptr<Capture>& capture);
// What calls that may wait for the device must ask first; returns the error and ends the captures it breaks.
cudaError_t refuse_while_capturing();
cudaError_t refuse_implicit_dependency(const CUstream_st* stream);
cudaStreamCaptureMode exchange_capture_mode(cudaStreamCaptureMode mode);

}  // namespace sg::emulation

struct CUgraph_st {
  std::vector<sg::emulation::Node> nodes;
};
struct CUgraphExec_st {
  std::vector<sg::emulation::Node> nodes;
};
