#include "group.h"

#include <map>
#include <mutex>

namespace sg {

namespace {

struct Groups {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Group>> by_id;
  int next = 1;
};

// Never destroyed: streams may outlive static destructors.
Groups& groups() {
  static Groups* all = new Groups;
  return *all;
}

}  // namespace

int add_group(std::shared_ptr<Group> group) {
  Groups& all = groups();
  std::lock_guard lock(all.mutex);
  all.by_id.emplace(all.next, std::move(group));
  return all.next++;
}

std::shared_ptr<Group> find_group(int id) {
  Groups& all = groups();
  std::lock_guard lock(all.mutex);
  const auto found = all.by_id.find(id);
  if (found == all.by_id.end()) fail(ErrorCode::Distributed, "the process group was closed");
  return found->second;
}

void remove_group(int id) {
  std::shared_ptr<Group> last;
  {
    Groups& all = groups();
    std::lock_guard lock(all.mutex);
    const auto found = all.by_id.find(id);
    if (found == all.by_id.end()) return;
    last = std::move(found->second);
    all.by_id.erase(found);
  }
  last->leave();
}

}  // namespace sg
