// A captured operation is a node that follows the last nodes of its stream. An event recorded in a capture carries such
// last nodes to the streams that wait for it.
#include "capture.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "device_state.h"
#include "options.h"

namespace sg::emulation {

namespace {

std::vector<std::shared_ptr<Capture>> captures;  // under way
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

void add_ends(std::vector<int>& ends, const std::vector<int>& more) {
  for (const int end : more)
    if (std::find(ends.begin(), ends.end(), end) == ends.end()) ends.push_back(end);
}

void leave(const std::shared_ptr<Capture>& capture) {
  for (CUstream_st* stream : capture->streams) {
    stream->capture = nullptr;
    stream->capture_ends.clear();
  }
  captures.erase(std::find(captures.begin(), captures.end(), capture));
}

// Whether the origin's last node follows, directly or not, every other node.
bool all_joined(const Capture& capture) {
  const auto& nodes = capture.graph->nodes;
  std::vector<char> reached(nodes.size());
  std::vector<int> open = capture.origin->capture_ends;
  while (!open.empty()) {
    const int node = open.back();
    open.pop_back();
    if (reached[size_t(node)]) continue;
    reached[size_t(node)] = 1;
    open.insert(open.end(), nodes[size_t(node)].after.begin(), nodes[size_t(node)].after.end());
  }
  return std::find(reached.begin(), reached.end(), 0) == reached.end();
}

}  // namespace

cudaError_t begin_capture(CUstream_st* stream, cudaStreamCaptureMode mode) {
  static uint64_t ids;
  if (is_default(stream)) return cudaErrorStreamCaptureUnsupported;
  if (stream->capture) return cudaErrorIllegalState;
  stream->capture = std::make_shared<Capture>();
  *stream->capture = {new CUgraph_st, mode, std::this_thread::get_id(), stream, ++ids, false, {stream}};
  stream->capture_ends.clear();
  captures.push_back(stream->capture);
  return cudaSuccess;
}

cudaError_t end_capture(CUstream_st* stream, CUgraph_st** graph) {
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (!capture) return cudaErrorIllegalState;
  if (capture->origin != stream) {
    invalidate(capture);
    return cudaErrorStreamCaptureUnmatched;
  }
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
    return cudaErrorStreamCaptureWrongThread;
  std::unique_ptr<CUgraph_st> owned(capture->graph);
  const cudaError_t error = capture->invalid        ? cudaErrorStreamCaptureInvalidated
                            : !all_joined(*capture) ? cudaErrorStreamCaptureUnjoined
                                                    : cudaSuccess;
  leave(capture);
  if (error == cudaSuccess) *graph = owned.release();
  return error;
}

cudaError_t capture_operation(CUstream_st* stream, Operation operation) {
  Capture& capture = *stream->capture;
  if (capture.invalid) return cudaErrorStreamCaptureInvalidated;
  capture.graph->nodes.push_back({std::move(operation), stream->capture_ends, stream->device});
  stream->capture_ends = {int(capture.graph->nodes.size()) - 1};
  return cudaSuccess;
}

cudaError_t capture_record(CUstream_st* stream, CUevent_st* event) {
  if (stream->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  event->capture = stream->capture;
  event->capture_ends = stream->capture_ends;
  return cudaSuccess;
}

cudaError_t capture_wait(CUstream_st* stream, const CUevent_st* event) {
  if (!event->capture) {  // the stream captures: work outside of the graph cannot be waited for
    invalidate(stream->capture);
    return cudaErrorStreamCaptureIsolation;
  }
  if (event->capture->invalid || (stream->capture && stream->capture->invalid))
    return cudaErrorStreamCaptureInvalidated;
  if (is_default(stream)) {
    invalidate(event->capture);
    return cudaErrorStreamCaptureImplicit;
  }
  if (std::find(captures.begin(), captures.end(), event->capture) == captures.end()) return cudaErrorInvalidValue;
  if (!stream->capture) {
    stream->capture = event->capture;
    stream->capture->streams.push_back(stream);
    stream->capture_ends.clear();
  } else if (stream->capture != event->capture) {
    invalidate(stream->capture);
    invalidate(event->capture);
    return cudaErrorStreamCaptureMerge;
  }
  add_ends(stream->capture_ends, event->capture_ends);
  return cudaSuccess;
}

// The nodes in some order that respects what follows what; which one, the schedule says. They run as if in one stream:
// the race checker does not look for races between branches of a graph.
cudaError_t launch_graph(CUstream_st* stream, const std::vector<Node>& nodes) {
  if (const cudaError_t fault = device_fault(stream->device)) return fault;
  std::vector<int> missing(nodes.size()), ready;
  std::vector<std::vector<int>> followers(nodes.size());
  for (size_t i = 0; i < nodes.size(); i++) {
    missing[i] = int(nodes[i].after.size());
    for (const int before : nodes[i].after) followers[size_t(before)].push_back(int(i));
    if (!missing[i]) ready.push_back(int(i));
  }
  while (!ready.empty()) {
    const Schedule schedule = options().schedule;
    const size_t pick = schedule == Schedule::InOrder   ? 0
                        : schedule == Schedule::Reverse ? ready.size() - 1
                                                        : random_number() % ready.size();
    const int node = ready[pick];
    ready.erase(ready.begin() + ptrdiff_t(pick));
    Operation operation = nodes[size_t(node)].operation;
    if (stream->capture) {
      if (const cudaError_t error = capture_operation(stream, std::move(operation))) return error;
    } else enqueue_uncaptured(stream, std::move(operation));
    for (const int follower : followers[size_t(node)])
      if (--missing[size_t(follower)] == 0) ready.push_back(follower);
  }
  return cudaSuccess;
}

void invalidate(const std::shared_ptr<Capture>& capture) {
  if (capture) capture->invalid = true;
}

cudaError_t refuse_while_capturing() {
  bool refused = false;
  for (const auto& capture : captures) {
    const bool own = capture->thread == std::this_thread::get_id() && capture->mode != cudaStreamCaptureModeRelaxed;
    const bool foreign = thread_mode == cudaStreamCaptureModeGlobal && capture->mode == cudaStreamCaptureModeGlobal;
    if (thread_mode == cudaStreamCaptureModeRelaxed || !(own || foreign)) continue;
    invalidate(capture);
    refused = true;
  }
  return refused ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

// Work on the default stream waits for every blocking stream, which a capturing one does not allow.
cudaError_t refuse_implicit_dependency(const CUstream_st* stream) {
  if (!is_default(stream)) return cudaSuccess;
  bool refused = false;
  for (const auto& capture : captures)
    for (const CUstream_st* captured : capture->streams)
      if (captured->blocking && captured->device == stream->device) {
        invalidate(capture);
        refused = true;
      }
  return refused ? cudaErrorStreamCaptureImplicit : cudaSuccess;
}

cudaStreamCaptureMode exchange_capture_mode(cudaStreamCaptureMode mode) { return std::exchange(thread_mode, mode); }

}  // namespace sg::emulation
