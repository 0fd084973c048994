// Running a collective on the stream's thread, between the marks of the flight recorder.
#pragma once
#include "../comm/group.h"

namespace sg {

template <class F>
void on_group(const Stream& stream, int id, uint64_t entry, int64_t timeout_ns, const F& collective) {
  const auto group = find_group(id);
  struct Call {
    Group& group;
    bool failed = true;
    ~Call() { group.exit(failed); }
  } call{*group};
  group->enter(stream, entry, timeout_ns);
  collective(*group);
  call.failed = false;
}

}  // namespace sg
