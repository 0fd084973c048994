// Capturing what a device is given as a graph, and replaying it. The commands between captureBegin and captureEnd run
// on the stream's thread as always, but only record; the memory they use stays as it is for as long as the graph lives.
#include "args.h"

namespace sg {

namespace {

struct Begin {
  const void* keys;
};

void begin(Stream& stream, void* payload) { stream.begin_capture(static_cast<Begin*>(payload)->keys); }

void finish(Stream& stream, void* payload) {
  CapturedGraph& captured = **static_cast<CapturedGraph**>(payload);
  if (stream.faulted()) return stream.queue()->end_capture();
  captured.graph = stream.queue()->finish_capture();
}

void launch(Stream& stream, void* payload) {
  CapturedGraph& captured = **static_cast<CapturedGraph**>(payload);
  if (!captured.graph) fail(ErrorCode::Device, "graph.replay: the graph could not be captured");
  stream.queue()->launch(*captured.graph);
}

void destroy(Stream&, void* payload) { delete *static_cast<CapturedGraph**>(payload); }

CapturedGraph& graph_of(Environment& e, const Arguments& a) {
  const auto found = e.graphs.find(a.integer(0, 0, int64_t(1) << 52, "the graph"));
  if (found == e.graphs.end()) fail(ErrorCode::Disposed, a.function(), ": the graph was disposed of");
  return *found->second;
}

}  // namespace

namespace js {

// captureBegin(device, handle of the key table)
napi_value captureBegin(Environment&, const Arguments& a) {
  DeviceContext& device = a.device(0);
  const Storage& keys = a.storage(1);
  Stream& stream = device.stream(kComputeStream);
  if (!stream.queue())
    fail(ErrorCode::Device, "graph.capture: ", device.name(), " runs its commands itself: graphs are for cuda");
  if (device.allocator().capturing())
    fail(ErrorCode::Device, "graph.capture: a graph of ", device.name(), " is being captured");
  stream.enqueue(begin, "graph.capture", Begin{keys.block->data});
  device.allocator().begin_capture();
  device.allocator().retain(keys.block);
  return nullptr;
}

// captureEnd(device): the number of the graph
napi_value captureEnd(Environment& e, const Arguments& a) {
  DeviceContext& device = a.device(0);
  if (!device.allocator().capturing())
    fail(ErrorCode::Device, "graph.capture: no graph of ", device.name(), " is being captured");
  auto* const captured = new CapturedGraph{&device, device.allocator().end_capture(), nullptr};
  device.stream(kComputeStream).enqueue(finish, "graph.capture", captured, true);
  e.graphs.emplace(++e.last_graph, captured);
  return make_number(e, double(e.last_graph));
}

napi_value graphLaunch(Environment& e, const Arguments& a) {
  CapturedGraph& captured = graph_of(e, a);
  captured.device->stream(kComputeStream).enqueue(launch, "graph.replay", &captured);
  return nullptr;
}

napi_value graphFree(Environment& e, const Arguments& a) {
  CapturedGraph& captured = graph_of(e, a);
  e.graphs.erase(a.integer(0, 0, int64_t(1) << 52, "the graph"));
  DeviceContext& device = *captured.device;
  CachingAllocator::Captured* const memory = captured.memory;
  device.stream(kComputeStream).enqueue(destroy, "graph.dispose", &captured, true);
  device.allocator().release_captured(memory);
  return nullptr;
}

}  // namespace js

std::vector<FunctionRow> graph_functions() {
  return {SG_FUNCTION(captureBegin), SG_FUNCTION(captureEnd), SG_FUNCTION(graphLaunch), SG_FUNCTION(graphFree)};
}

}  // namespace sg
