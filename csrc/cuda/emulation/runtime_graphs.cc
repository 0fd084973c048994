// Capture and graphs.
#include <set>

#include "runtime.h"

using namespace sg::emulation;

namespace {
std::set<cudaGraph_t> graphs;
std::set<cudaGraphExec_t> executables;
}  // namespace

SG_CUDART cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  return result(begin_capture(stream, mode));
}
SG_CUDART cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  const cudaError_t error = end_capture(stream, graph);
  if (*graph) graphs.insert(*graph);
  return result(error);
}
SG_CUDART cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  const Lock lock(runtime_mutex);
  const CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  *status = !stream->capture           ? cudaStreamCaptureStatusNone
            : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  *mode = exchange_capture_mode(*mode);
  return cudaSuccess;
}

SG_CUDART cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  const Lock lock(runtime_mutex);
  if (!executable || !graphs.count(graph)) return result(cudaErrorInvalidValue);
  *executable = new CUgraphExec_st{graph->nodes};
  executables.insert(*executable);
  return fault_or();
}
SG_CUDART cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                                    unsigned long long flags) {
  return cudaGraphInstantiate(executable, graph, flags);
}
SG_CUDART cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  const Lock lock(runtime_mutex);
  if (!graphs.count(graph) || nodes) return result(cudaErrorInvalidValue);  // only the count is modelled
  *count = graph->nodes.size();
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  return result(executables.count(executable) && find_stream(handle) ? cudaSuccess : cudaErrorInvalidValue);
}
SG_CUDART cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!executables.count(executable)) return result(cudaErrorInvalidValue);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  return result(launch_graph(stream, executable->nodes));
}
SG_CUDART cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Lock lock(runtime_mutex);
  if (!graphs.erase(graph)) return result(cudaErrorInvalidValue);
  delete graph;
  return cudaSuccess;
}
SG_CUDART cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const Lock lock(runtime_mutex);
  if (!executables.erase(executable)) return result(cudaErrorInvalidValue);
  delete executable;  // launches that are queued have their own copies of the nodes
  return cudaSuccess;
}
