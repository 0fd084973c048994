// Process groups: joining and leaving them, and their operations as rows of the op table. A collective is enqueued on
// the communication stream like any kernel; number 0 is always the group.
#include "../comm/shm_group.h"
#include "args.h"
#include "call.h"

namespace sg {

namespace {

// What no rank and no group can be becomes -2.
int small(double d) { return d >= 0 && d <= INT32_MAX ? int(d) : -2; }
std::shared_ptr<Group> group_of(const OpArguments& a) { return find_group(small(a.numbers[0])); }
Reduction reduction_of(const OpArguments& a) {
  const double op = a.numbers[1];
  if (op < 0 || op >= double(RankReduce::kCount)) fail(ErrorCode::Value, "collective: unknown reduction ", op);
  return {RankReduce(int(op)), a.numbers[2]};
}
Rest rest_from(const OpArguments& a, int first) { return {a.numbers + first, a.number_count - first}; }
View* maybe(OpArguments& a, int i) { return a.absent >> i & 1 ? nullptr : &a.views[i]; }

constexpr TensorKind kInPlace[] = {TensorKind::kOut};
constexpr TensorKind kInOut[] = {TensorKind::kIn, TensorKind::kOut};
constexpr TensorKind kInMaybeOut[] = {TensorKind::kIn, TensorKind::kMaybeOut};
constexpr TensorKind kMaybeInOut[] = {TensorKind::kMaybeIn, TensorKind::kOut};
constexpr TensorKind kInOnly[] = {TensorKind::kIn};

using Invoke = void (*)(Stream&, Device&, const OpRow&, OpArguments&);

OpRow row(const char* name, const char* contract, const TensorKind* tensors, int tensor_count, int numbers, bool rest,
          Invoke invoke) {
  return {name, OpKind::kStructured, 0, tensors, tensor_count, false, numbers, rest, invoke, new Contract(contract)};
}

}  // namespace

// Tensors are flat; `n` is a whole number, the last letter stands for the whole rest.
std::vector<OpRow> collective_rows() {
  return {
      row("allReduce", "*[N']; n n r", kInPlace, 1, 3, false,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->all_reduce(s, a.views[0], reduction_of(a));
          }),
      row("reduceTo", "*[N']; n n r n", kInPlace, 1, 4, false,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->reduce(s, a.views[0], reduction_of(a), small(a.numbers[3]));
          }),
      row("broadcastFrom", "*[N']; n n", kInPlace, 1, 2, false,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->broadcast(s, a.views[0], small(a.numbers[1]));
          }),
      row("allGather", "T[N'] T[M']; n c", kInOut, 2, 1, true,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->all_gather(s, a.views[0], a.views[1], rest_from(a, 1));
          }),
      row("gatherTo", "T[N'] T[M']; n n c", kInMaybeOut, 2, 2, true,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->gather(s, a.views[0], maybe(a, 1), rest_from(a, 2), small(a.numbers[1]));
          }),
      row("scatterFrom", "T[N'] T[M']; n n c", kMaybeInOut, 2, 2, true,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->scatter(s, maybe(a, 0), a.views[1], rest_from(a, 2), small(a.numbers[1]));
          }),
      row("reduceScatter", "T[N'] T[M']; n n r c", kInOut, 2, 3, true,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->reduce_scatter(s, a.views[0], a.views[1], rest_from(a, 3), reduction_of(a));
          }),
      row("allToAll", "T[N'] T[M']; n c", kInOut, 2, 1, true,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->all_to_all(s, a.views[0], a.views[1], rest_from(a, 1));
          }),
      row("sendTo", "*[N']; n n", kInOnly, 1, 2, false,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->send(s, a.views[0], small(a.numbers[1]));
          }),
      row("receiveFrom", "*[N']; n n", kInPlace, 1, 2, false,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) {
            group_of(a)->receive(s, a.views[0], small(a.numbers[1]));
          }),
      row("barrier", "; n", nullptr, 0, 1, false,
          [](Stream& s, Device&, const OpRow&, OpArguments& a) { group_of(a)->barrier(s); }),
  };
}

namespace js {

// joinGroup(name, segment, rank, size, timeoutMs): the number of the group
napi_value joinGroup(Environment& e, const Arguments& a) {
  ShmOptions options;
  options.timeout_ns = a.integer(4, 1, int64_t(1) << 42, "the timeout in milliseconds") * 1'000'000;
  return make_number(e, add_group(ShmGroup::join(a.text(0, "the name"), a.text(1, "the segment"),
                                                 int(a.integer(2, 0, INT32_MAX, "the rank")),
                                                 int(a.integer(3, 1, INT32_MAX, "the size")), options)));
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
  return {SG_FUNCTION(joinGroup), SG_FUNCTION(shareMemory), SG_FUNCTION(sealGroup), SG_FUNCTION(abortGroup),
          SG_FUNCTION(leaveGroup)};
}

}  // namespace sg
