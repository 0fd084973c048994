// Process groups: joining and leaving them, and their operations as rows of the op table. A collective is enqueued on
// the communication stream like any kernel; number 0 is always the group.
#include <algorithm>

#include "../comm/shm_group.h"
#include "../comm/staged_group.h"
#include "../comm/tcp_group.h"
#include "args.h"
#include "call.h"
#include "on_group.h"

namespace sg {

namespace {

// The numbers of every collective begin with its group, its entry in the flight recorder and its timeout in
// milliseconds (0: the group's).
constexpr int kOwn = 3;
// Where the block's header tells the number that a collective has in its group, 0 for messages: profiles want to know.
constexpr int kSequence = 5;

// What no rank and no group can be becomes -2.
int small(double d) { return d >= 0 && d <= INT32_MAX ? int(d) : -2; }
Reduction reduction_of(const OpArguments& a) {
  const double op = a.numbers[kOwn];
  if (op < 0 || op >= double(RankReduce::kCount)) fail(ErrorCode::Value, "collective: unknown reduction ", op);
  return {RankReduce(int(op)), a.numbers[kOwn + 1]};
}
Rest rest_from(const OpArguments& a, int first) { return {a.numbers + first, a.number_count - first}; }
View* maybe(OpArguments& a, int i) { return a.absent >> i & 1 ? nullptr : &a.views[i]; }

constexpr TensorKind kInPlace[] = {TensorKind::kOut};
constexpr TensorKind kInOut[] = {TensorKind::kIn, TensorKind::kOut};
constexpr TensorKind kInMaybeOut[] = {TensorKind::kIn, TensorKind::kMaybeOut};
constexpr TensorKind kMaybeInOut[] = {TensorKind::kMaybeIn, TensorKind::kOut};
constexpr TensorKind kMessages[] = {TensorKind::kIns};

std::vector<Message> messages_of(const OpArguments& a) {
  const Rest pairs = rest_from(a, kOwn);
  if (pairs.count != 2 * a.view_count)
    fail(ErrorCode::Value, "exchange: expects two numbers a tensor, got ", pairs.count);
  std::vector<Message> messages;
  for (int i = 0; i < a.view_count; i++) messages.push_back({a.views[i], small(pairs[2 * i]), pairs[2 * i + 1] != 0});
  return messages;
}

using Invoke = void (*)(Stream&, Device&, const OpRow&, OpArguments&);

OpRow row(const char* name, const char* contract, const TensorKind* tensors, int tensor_count, int numbers, bool rest,
          Invoke invoke, const char* spoken = nullptr) {
  return {name,
          OpKind::kStructured,
          0,
          tensors,
          tensor_count,
          tensor_count > 0 && tensors[tensor_count - 1] == TensorKind::kIns,
          numbers,
          rest,
          invoke,
          new Contract(contract),
          spoken ? spoken : name};
}

template <class F>
void carried(const Stream& stream, const OpArguments& a, const F& collective) {
  on_group(stream, small(a.numbers[0]), uint64_t(a.numbers[1]), int64_t(a.numbers[2]) * 1'000'000,
           [&](Group& group) { collective(group.carrier()); });
}

#define SG_COLLECTIVE(call) \
  [](Stream& s, Device&, const OpRow&, OpArguments& a) { carried(s, a, [&](Carrier& g) { g.call; }); }

}  // namespace

// Tensors are flat; `n` is a whole number, the last letter stands for the whole rest.
std::vector<OpRow> collective_rows() {
  return {
      row("allReduce", "*[N']; n n n n r", kInPlace, 1, 5, false,
          SG_COLLECTIVE(all_reduce(s, a.views[0], reduction_of(a)))),
      row("reduceTo", "*[N']; n n n n r n", kInPlace, 1, 6, false,
          SG_COLLECTIVE(reduce(s, a.views[0], reduction_of(a), small(a.numbers[kOwn + 2]))), "reduce"),
      row("broadcastFrom", "*[N']; n n n n", kInPlace, 1, 4, false,
          SG_COLLECTIVE(broadcast(s, a.views[0], small(a.numbers[kOwn]))), "broadcast"),
      row("allGather", "T[N'] T[M']; n n n c", kInOut, 2, 3, true,
          SG_COLLECTIVE(all_gather(s, a.views[0], a.views[1], rest_from(a, kOwn)))),
      row("gatherTo", "T[N'] T[M']; n n n n c", kInMaybeOut, 2, 4, true,
          SG_COLLECTIVE(gather(s, a.views[0], maybe(a, 1), rest_from(a, kOwn + 1), small(a.numbers[kOwn]))), "gather"),
      row("scatterFrom", "T[N'] T[M']; n n n n c", kMaybeInOut, 2, 4, true,
          SG_COLLECTIVE(scatter(s, maybe(a, 0), a.views[1], rest_from(a, kOwn + 1), small(a.numbers[kOwn]))),
          "scatter"),
      row("reduceScatter", "T[N'] T[M']; n n n n r c", kInOut, 2, 5, true,
          SG_COLLECTIVE(reduce_scatter(s, a.views[0], a.views[1], rest_from(a, kOwn + 2), reduction_of(a)))),
      row("allToAll", "T[N'] T[M']; n n n c", kInOut, 2, 3, true,
          SG_COLLECTIVE(all_to_all(s, a.views[0], a.views[1], rest_from(a, kOwn)))),
      // each tensor's peer, and whether it is sent (1) or received into (0)
      row("exchange", "*[_']; n n n n", kMessages, 1, 3, true, SG_COLLECTIVE(exchange(s, messages_of(a)))),
      row("barrier", "; n n n", nullptr, 0, 3, false, SG_COLLECTIVE(barrier(s))),
  };
}

#undef SG_COLLECTIVE

namespace js {

// The first seven arguments of every function that joins a group: name, rank, size, timeout in milliseconds, the group
// it is a part of (0: it is the world), the file of a world's flight recorder, and each rank's place in the world.
GroupInfo info_from(const Arguments& a) {
  GroupInfo info;
  info.name = a.text(0, "the name");
  info.rank = int(a.integer(1, 0, INT32_MAX, "the rank"));
  info.size = int(a.integer(2, 1, INT32_MAX, "the size"));
  info.timeout_ns = a.integer(3, 1, int64_t(1) << 42, "the timeout in milliseconds") * 1'000'000;
  const int parent = int(a.integer(4, 0, INT32_MAX, "the parent"));
  if (parent > 0) {
    const auto whole = find_group(parent);
    info.recorder = whole->info().recorder;
    info.world = whole->world();
  } else {
    info.recorder = std::make_shared<FlightRecorder>(a.text(5, "the recorder's file"), info.rank);
  }
  const Bytes ranks = a.bytes(6, "the ranks in the world");
  info.world_ranks.resize(ranks.size / sizeof(int32_t));
  std::copy_n(reinterpret_cast<const int32_t*>(ranks.data), info.world_ranks.size(), info.world_ranks.begin());
  if (parent > 0 && info.world_ranks.size() != size_t(info.size))
    fail(ErrorCode::Value, a.function(), ": expects each rank's place in the world");
  return info;
}

// joinShmGroup(..., segment): the number of the group
napi_value joinShmGroup(Environment& e, const Arguments& a) {
  return make_number(e, add_group(ShmGroup::join(info_from(a), a.text(7, "the segment"), {})));
}

// joinTcpGroup(..., descriptors, key): two connections for each rank, which are copied; the number of the group
napi_value joinTcpGroup(Environment& e, const Arguments& a) {
  const Bytes given = a.bytes(7, "the descriptors");
  std::vector<int32_t> descriptors(given.size / sizeof(int32_t));
  std::copy_n(reinterpret_cast<const int32_t*>(given.data), descriptors.size(), descriptors.begin());
  GroupInfo info = info_from(a);
  info.key = a.text(8, "the key");
  return make_number(e, add_group(TcpGroup::join(std::move(info), descriptors, {})));
}

// stageGroup(group, device): the group carries tensors of the device, by way of the host's memory
napi_value stageGroup(Environment&, const Arguments& a) {
  const auto group = find_group(int(a.integer(0, 1, INT32_MAX, "the group")));
  group->carry_by(std::make_unique<StagedGroup>(*group, a.device(1).backend()));
  return nullptr;
}

// The number under which a text about a collective's caller is known.
napi_value nameOfPlace(Environment& e, const Arguments& a) {
  return make_number(e, number_of_place(a.text(0, "the text")));
}

// enqueueCollective(group, device, call, dtype, count, root, place): the communication stream will have what the
// compute stream makes; returns the entry of the flight recorder.
napi_value enqueueCollective(Environment& e, const Arguments& a) {
  const auto group = find_group(int(a.integer(0, 1, INT32_MAX, "the group")));
  DeviceContext& device = a.device(1);
  if (device.allocator().capturing()) fail(ErrorCode::Device, "a collective cannot be part of a captured graph");
  Signature s{};
  s.call = Collective(a.integer(2, 1, int64_t(Collective::kCount) - 1, "the call"));
  s.sequence = group->number_ahead(s.call, device.stream(kCommunicationStream));
  s.dtype = DType(a.integer(3, 0, kDTypes - 1, "the dtype"));
  s.count = a.integer(4, 0, int64_t(1) << 50, "the count");
  s.root = int32_t(a.integer(5, -1, INT32_MAX, "the root"));
  write_place(int(a.integer(6, 0, INT32_MAX, "the place")), s);
  if (e.block) e.block[kSequence] = double(s.sequence);
  device.stream(kCommunicationStream).wait_stream(device.stream(kComputeStream));
  return make_number(e, double(group->info().recorder->enqueued(group->name(), s)));
}

// readRecorder(path): { rank, process, entries }; times are milliseconds of the wall clock, 0 for what has not happened
napi_value readRecorder(Environment& e, const Arguments& a) {
  const FlightRecorder::Recording recording = FlightRecorder::read(a.text(0, "the path"));
  const auto put = [&](napi_value object, const char* name, napi_value value) {
    napi_set_named_property(e.env, object, name, value);
  };
  const auto number = [&](double d) { return make_number(e, d); };
  const auto text = [&](const char* t) {
    napi_value v = nullptr;
    napi_create_string_utf8(e.env, t, NAPI_AUTO_LENGTH, &v);
    return v;
  };
  const auto time = [&](int64_t ns) { return number(ns == 0 ? 0 : double(ns + recording.wall_offset_ns) / 1e6); };
  napi_value result = nullptr, entries = nullptr;
  napi_create_object(e.env, &result);
  napi_create_array_with_length(e.env, recording.entries.size(), &entries);
  put(result, "rank", number(recording.rank));
  put(result, "process", number(recording.process));
  put(result, "blames", number(recording.blames));
  put(result, "entries", entries);
  for (size_t i = 0; i < recording.entries.size(); i++) {
    const FlightRecorder::Entry& entry = recording.entries[i];
    napi_value object = nullptr;
    napi_create_object(e.env, &object);
    put(object, "number", number(double(entry.number)));
    put(object, "group", text(entry.group));
    put(object, "sequence", number(double(entry.call.sequence)));
    put(object, "call", text(show(entry.call).c_str()));
    put(object, "where", text(entry.call.where));
    put(object, "enqueued", time(entry.enqueued_ns));
    put(object, "started", time(entry.started_ns));
    put(object, "done", time(entry.done_ns));
    napi_value failed = nullptr;
    napi_get_boolean(e.env, entry.failed, &failed);
    put(object, "failed", failed);
    napi_set_element(e.env, entries, uint32_t(i), object);
  }
  return result;
}

// The names of the collectives; the index is the code that enqueueCollective takes.
napi_value collectiveNames(Environment& e, const Arguments&) {
  napi_value names = nullptr;
  napi_create_array(e.env, &names);
  for (uint32_t i = 0; i < uint32_t(Collective::kCount); i++) {
    napi_value name = nullptr;
    napi_create_string_utf8(e.env, collective_name(Collective(i)), NAPI_AUTO_LENGTH, &name);
    napi_set_element(e.env, names, i, name);
  }
  return names;
}

// shareMemory(group, device, bytes): the handle of a storage in which collectives need no copy
napi_value shareMemory(Environment& e, const Arguments& a) {
  const auto group = find_group(int(a.integer(0, 1, INT32_MAX, "the group")));
  DeviceContext& device = a.device(1);
  const size_t bytes = size_t(a.integer(2, 0, int64_t(1) << 46, "the number of bytes"));
  std::shared_ptr<void> owner;
  char* const data = group->share(bytes, owner);
  return make_number(e, e.storages.add(device, device.allocator().adopt(data, bytes, std::move(owner))));
}

// All ranks have joined: the segment needs its name no more.
napi_value sealGroup(Environment&, const Arguments& a) {
  find_group(int(a.integer(0, 1, INT32_MAX, "the group")))->seal();
  return nullptr;
}

napi_value abortGroup(Environment&, const Arguments& a) {
  find_group(int(a.integer(0, 1, INT32_MAX, "the group")))->abort(a.text(1, "the reason"));
  return nullptr;
}

napi_value leaveGroup(Environment&, const Arguments& a) {
  remove_group(int(a.integer(0, 1, INT32_MAX, "the group")));
  return nullptr;
}

}  // namespace js

std::vector<FunctionRow> collective_functions() {
  return {SG_FUNCTION(joinShmGroup),    SG_FUNCTION(joinTcpGroup),      SG_FUNCTION(stageGroup),
          SG_FUNCTION(nameOfPlace),     SG_FUNCTION(enqueueCollective), SG_FUNCTION(readRecorder),
          SG_FUNCTION(collectiveNames), SG_FUNCTION(shareMemory),       SG_FUNCTION(sealGroup),
          SG_FUNCTION(abortGroup),      SG_FUNCTION(leaveGroup)};
}

}  // namespace sg
