// Devices, events and waiting. An event is a number: how many commands the stream had been given. Waiting on the host
// has a Promise form each; the synchronous one throws when it could never return.
#include <cstring>

#include "../core/accelerators.h"
#include "../core/ranges.h"
#include "args.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

struct Synchronizing {
  Settlement* settlement;
  Stream* communication;
};

void synchronized(Stream& stream, void* payload) {
  const auto finish = [](Stream& self, void* argument) {
    const std::unique_ptr<Synchronizing> s(static_cast<Synchronizing*>(argument));
    auto fault = s->communication->take_fault();
    s->settlement->fault = self.take_fault();
    if (!s->settlement->fault) s->settlement->fault = std::move(fault);
    settle(s->settlement);
  };
  stream.when_done(finish, *static_cast<Synchronizing**>(payload));
}

// What the user says to a profiler goes onto the timeline of this thread, and onto those of the threads that launch, in
// the order of the operations. These commands have no names: they would be ranges themselves.
void tell_launching_streams(Environment& e, CommandFn run, const std::string& name) {
  for (auto& device : e.devices) {
    Stream& stream = device->stream(kComputeStream);
    if (!stream.queue()) continue;
    const size_t bytes = name.size() + 1;
    std::memcpy(stream.begin(bytes), name.c_str(), bytes);
    stream.commit(run, nullptr, bytes, true);
  }
}

}  // namespace

namespace js {

napi_value openDevice(Environment& e, const Arguments& a) {
  const std::string kind = a.text(0, "the kind");
  const int index = int(a.integer(1, 0, INT32_MAX, "the index"));
  const std::string name = kind + ":" + std::to_string(index);
  for (size_t slot = 0; slot < e.devices.size(); slot++) {
    if (e.devices[slot]->name() == name) return make_number(e, double(slot));
  }
  e.devices.push_back(DeviceContext::open(kind, index));
  return make_number(e, double(e.devices.size() - 1));
}

napi_value synchronize(Environment&, const Arguments& a) {
  DeviceContext& device = a.device(0);
  for (int i = kStreamsPerDevice - 1; i >= 0; i--) device.stream(i).host_wait_all();
  std::optional<Fault> first;
  for (int i = 0; i < kStreamsPerDevice; i++) {
    auto fault = device.stream(i).take_fault();
    if (!first) first = std::move(fault);
  }
  if (first) throw Error(first->code, first->text);
  return nullptr;
}

napi_value synchronizeAsync(Environment& e, const Arguments& a) {
  DeviceContext& device = a.device(0);
  Stream &compute = device.stream(kComputeStream), &communication = device.stream(kCommunicationStream);
  compute.wait_stream(communication);
  auto settlement = std::make_unique<Settlement>();
  settlement->owner = &e;
  void* place = compute.begin(sizeof(Synchronizing*));
  napi_value promise = make_promise(e, settlement.get());
  if (!promise) return nullptr;
  new (place) Synchronizing* {new Synchronizing{settlement.release(), &communication}};
  compute.commit(synchronized, "synchronize", sizeof(Synchronizing*), true);
  return promise;
}

// Settles when this stream has done what it was given so far; carries its fault.
napi_value streamDone(Environment& e, const Arguments& a) {
  Stream& stream = a.device(0).stream(a.stream(1));
  auto settlement = std::make_unique<Settlement>();
  settlement->owner = &e;
  void* place = stream.begin(sizeof(Settlement*));
  napi_value promise = make_promise(e, settlement.get());
  if (!promise) return nullptr;
  new (place) Settlement* {settlement.release()};
  const auto done = [](Stream& stream, void* payload) {
    const auto finish = [](Stream& self, void* argument) {
      Settlement* const s = static_cast<Settlement*>(argument);
      s->fault = self.take_fault();
      settle(s);
    };
    stream.when_done(finish, *static_cast<Settlement**>(payload));
  };
  stream.commit(done, "streamDone", sizeof(Settlement*), true);
  return promise;
}

// waitedTime(device, stream): seconds in which the stream stood still for other streams
napi_value waitedTime(Environment& e, const Arguments& a) {
  return make_number(e, double(a.device(0).stream(a.stream(1)).waited_ns()) * 1e-9);
}

napi_value recordEvent(Environment& e, const Arguments& a) {
  return make_number(e, double(a.device(0).stream(a.stream(1)).record_event()));
}

napi_value waitEvent(Environment&, const Arguments& a) {
  Stream& stream = a.device(0).stream(a.stream(1));
  Stream& on = a.device(2).stream(a.stream(3));
  stream.wait_event(on, uint64_t(a.integer(4, 0, int64_t(on.issued()), "the event")));
  return nullptr;
}

napi_value setNumThreads(Environment&, const Arguments& a) {
  ThreadPool::instance().set_threads(int(a.integer(0, 1, 1024, "the number of threads")));
  return nullptr;
}

napi_value getNumThreads(Environment& e, const Arguments&) { return make_number(e, ThreadPool::instance().threads()); }

// Ranges and marks on the timeline of a profiler; nothing happens where none listens.
napi_value rangePush(Environment& e, const Arguments& a) {
  const std::string name = a.text(0, "the name");
  const RangeSink* const sink = range_sink;
  if (!sink) return nullptr;
  sink->push(name.c_str());
  tell_launching_streams(e, [](Stream&, void* text) { range_sink.load()->push(static_cast<char*>(text)); }, name);
  return nullptr;
}

napi_value rangePop(Environment& e, const Arguments&) {
  const RangeSink* const sink = range_sink;
  if (!sink) return nullptr;
  tell_launching_streams(e, [](Stream&, void*) { range_sink.load()->pop(); }, "");
  sink->pop();
  return nullptr;
}

napi_value rangeMark(Environment& e, const Arguments& a) {
  const std::string name = a.text(0, "the name");
  const RangeSink* const sink = range_sink;
  if (!sink) return nullptr;
  sink->mark(name.c_str());
  tell_launching_streams(e, [](Stream&, void* text) { range_sink.load()->mark(static_cast<char*>(text)); }, name);
  return nullptr;
}

// { queueLimit, spinMicroseconds, sync, matmulTf32 }, each optional
napi_value configure(Environment& e, const Arguments& a) {
  const auto option = [&](const char* name, napi_valuetype expected, napi_value* value) {
    napi_valuetype type = napi_undefined;
    if (napi_get_named_property(e.env, a.value(0), name, value) != napi_ok) return false;
    napi_typeof(e.env, *value, &type);
    if (type == napi_undefined) return false;
    if (type != expected) fail(ErrorCode::Value, "configure: ", name, " has the wrong type");
    return true;
  };
  napi_value value = nullptr;
  napi_valuetype type = napi_undefined;
  napi_typeof(e.env, a.value(0), &type);
  if (type != napi_object) fail(ErrorCode::Value, "configure: expects an object");
  double number = 0;
  StreamSettings& settings = stream_settings();
  if (option("queueLimit", napi_number, &value)) {
    napi_get_value_double(e.env, value, &number);
    settings.queue_limit = uint64_t(whole_between(number, 1, 1 << 20, "configure", "queueLimit"));
  }
  if (option("spinMicroseconds", napi_number, &value)) {
    napi_get_value_double(e.env, value, &number);
    settings.spin_ns = whole_between(number, 0, 1'000'000, "configure", "spinMicroseconds") * 1000;
  }
  if (option("matmulTf32", napi_boolean, &value)) {
    bool on = false;
    napi_get_value_bool(e.env, value, &on);
    for (auto& device : e.devices)
      device->stream(kComputeStream).host_wait_all();  // what was enqueued keeps its setting
    set_matmul_tf32(on);
  }
  if (option("sync", napi_boolean, &value)) {
    bool on = false;
    napi_get_value_bool(e.env, value, &on);
    settings.inline_mode = on;
    for (auto& device : e.devices) device->stream(kComputeStream).use_inline(on);
  }
  return nullptr;
}

}  // namespace js

std::vector<FunctionRow> stream_functions() {
  return {SG_FUNCTION(openDevice), SG_FUNCTION(synchronize),   SG_FUNCTION(synchronizeAsync),
          SG_FUNCTION(streamDone), SG_FUNCTION(recordEvent),   SG_FUNCTION(waitEvent),
          SG_FUNCTION(waitedTime), SG_FUNCTION(setNumThreads), SG_FUNCTION(getNumThreads),
          SG_FUNCTION(configure),  SG_FUNCTION(rangePush),     SG_FUNCTION(rangePop),
          SG_FUNCTION(rangeMark)};
}

}  // namespace sg
