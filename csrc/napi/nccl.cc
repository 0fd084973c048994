// Putting NCCL on top of process groups. Both functions enqueue a call of the group, whose entry of the flight recorder
// enqueueCollective has made.
#include "../comm/nccl.h"

#include <algorithm>

#include "args.h"
#include "on_group.h"

namespace sg {

namespace {

struct Start {
  int group;
  uint64_t entry;
  char id[kNcclIdBytes];
};
struct Split {
  int group;
  uint64_t entry;
  int part, color, key;  // part 0: none
};

int group_at(const Arguments& a, size_t i) { return int(a.integer(i, 1, INT32_MAX, "the group")); }
uint64_t entry_at(const Arguments& a, size_t i) {
  return uint64_t(a.integer(i, 1, int64_t(1) << 53, "the entry of the recorder"));
}

}  // namespace

namespace js {

// findNccl(): { version, problem }
napi_value findNccl(Environment& e, const Arguments&) {
  const NcclLibrary found = find_nccl();
  napi_value result = nullptr, problem = nullptr;
  napi_create_object(e.env, &result);
  napi_create_string_utf8(e.env, found.problem.data(), found.problem.size(), &problem);
  napi_set_named_property(e.env, result, "version", make_number(e, found.version));
  napi_set_named_property(e.env, result, "problem", problem);
  return result;
}

// ncclId(target): fills the bytes with what the ranks of one communicator find each other by
napi_value ncclId(Environment&, const Arguments& a) {
  const Bytes target = a.bytes(0, "the target");
  if (target.size != kNcclIdBytes) fail(ErrorCode::Value, "ncclId: expects room for ", kNcclIdBytes, " bytes");
  make_nccl_id().copy(target.data, kNcclIdBytes);
  return nullptr;
}

// startNccl(group, device, entry, id)
napi_value startNccl(Environment&, const Arguments& a) {
  Start start{group_at(a, 0), entry_at(a, 2), {}};
  const Bytes id = a.bytes(3, "the id");
  if (id.size != sizeof start.id) fail(ErrorCode::Value, "startNccl: the id has ", id.size, " bytes");
  std::copy_n(id.data, sizeof start.id, start.id);
  const auto run = [](Stream& stream, void* payload) {
    const Start& s = *static_cast<const Start*>(payload);
    on_group(stream, s.group, s.entry, 0, [&](Group& group) { start_nccl(stream, group, s.id); });
  };
  a.device(1).stream(kCommunicationStream).enqueue(run, "startNccl", start);
  return nullptr;
}

// splitNccl(group, device, entry, part, color, key): part 0 and color -1 where this rank belongs to none
napi_value splitNccl(Environment&, const Arguments& a) {
  const Split split{group_at(a, 0), entry_at(a, 2), int(a.integer(3, 0, INT32_MAX, "the part")),
                    int(a.integer(4, -1, INT32_MAX, "the color")), int(a.integer(5, 0, INT32_MAX, "the key"))};
  const auto run = [](Stream& stream, void* payload) {
    const Split& s = *static_cast<const Split*>(payload);
    on_group(stream, s.group, s.entry, 0, [&](Group& group) {
      split_nccl(stream, group, s.part > 0 ? find_group(s.part) : nullptr, s.color, s.key);
    });
  };
  a.device(1).stream(kCommunicationStream).enqueue(run, "splitNccl", split);
  return nullptr;
}

}  // namespace js

std::vector<FunctionRow> nccl_functions() {
  return {SG_FUNCTION(findNccl), SG_FUNCTION(ncclId), SG_FUNCTION(startNccl), SG_FUNCTION(splitNccl)};
}

}  // namespace sg
