#include "group.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

#include "standstill.h"

namespace sg {

namespace {

struct Groups {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Group>> by_id;
  // By key the ranks that have joined in this process, and whether each is still there; forgotten when none is.
  std::map<std::string, std::map<int, bool>> present;
  int next = 1;
};

// Never destroyed: streams may outlive static destructors.
Groups& groups() {
  static Groups* all = new Groups;
  return *all;
}

uint64_t hash_text(const std::string& text) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const char c : text) hash = (hash ^ uint8_t(c)) * 1099511628211u;
  return hash;
}

}  // namespace

Group::Group(GroupInfo info) : info_(std::move(info)), key_(hash_text(info_.key)), owner_(std::this_thread::get_id()) {}

std::string Group::show_running() const {
  const uint64_t number = running_;
  return (number > 0 ? "call #" + std::to_string(number) : show(current_)) + " of process group " + name();
}

void Group::enter(const Stream& stream, uint64_t entry, int64_t timeout_ns) {
  running_on_ = &stream;
  entry_ = entry;
  timeout_ns_ = timeout_ns > 0 ? timeout_ns : info_.timeout_ns;
}

void Group::exit(bool failed) noexcept {
  running_ = 0;
  running_on_ = nullptr;
  if (entry_ > 0) info_.recorder->done(entry_, failed);
  entry_ = 0;
}

std::string Group::who(int rank) const {
  const std::string text = "rank " + std::to_string(rank);
  return is_world() ? text : text + " (world rank " + std::to_string(world_rank(rank)) + ")";
}

void Group::blame(int peer) const { info_.recorder->blame(world_rank(peer)); }

void Group::give_up(const std::string& reason, int peer) {
  if (peer >= 0) blame(peer);
  abort(reason);
  fail(ErrorCode::Distributed, reason);
}

void Group::raise_failure(int culprit, const char* reason) const {
  if (culprit == rank()) fail(ErrorCode::Distributed, reason);
  blame(culprit);
  fail(ErrorCode::Distributed, "process group ", name(), " has failed on ", who(culprit), ": ", reason);
}

const Signature& Group::sign(const Signature& s) {
  check_failed();
  if (s.root >= size() || s.root < -1) {
    fail(ErrorCode::Value, collective_name(s.call), ": rank ", s.root, " is not one of the ", size(),
         " ranks of process group ", name());
  }
  current_ = s;
  running_ = s.sequence;
  if (entry_ > 0) {
    const std::string_view where = info_.recorder->where(entry_);
    std::memcpy(current_.where, where.data(), where.size());
    info_.recorder->started(entry_, current_);
  }
  return current_;
}

const Signature& Group::begin(Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r) {
  return sign({++sequence_, call, dtype, r.op, root, count, hash_counts(counts), r.factor, {}});
}

Signature Group::sign_message(const Message& m) const {
  Signature s = current_;
  s.call = m.out ? Collective::kSend : Collective::kReceive;
  s.dtype = m.x.dtype;
  s.count = m.x.numel();
  s.root = m.peer;
  return s;
}

void Group::begin_messages(const std::vector<Message>& messages) {
  for (const Message& m : messages) {
    if (m.peer >= 0 && m.peer < size() && m.peer != rank()) continue;
    fail(ErrorCode::Value, m.out ? "send" : "recv", ": rank ", m.peer, " is not another one of the ", size(),
         " ranks of process group ", name());
  }
  current_ = {0, Collective::kExchange, DType::k_uint8, RankReduce::kSum, -1, 0, 0, 1, {}};
  sign(messages.size() == 1 ? sign_message(messages[0]) : current_);
}

void Group::compare(int peer, const Signature& theirs) {
  if (sg::agree(theirs, current_)) return;
  const std::string detail = show(theirs) == show(current_) ? " with other counts per rank" : std::string();
  give_up("the ranks of process group " + name() + " disagree in call #" + std::to_string(current_.sequence) + ": " +
          who(rank()) + " calls " + show(current_) + place(current_) + ", " + who(peer) + " calls " + show(theirs) +
          place(theirs) + detail);
}

void Group::compare_message(int peer, const Signature& theirs, const Signature& mine) {
  const Collective other = mine.call == Collective::kSend ? Collective::kReceive : Collective::kSend;
  if (theirs.call == other && theirs.dtype == mine.dtype && theirs.count == mine.count) return;
  give_up("process group " + name() + ": " + who(peer) + " calls " + show(theirs) + place(theirs) + ", " + who(rank()) +
          " calls " + show(mine) + place(mine));
}

// The calls of a rank run one after another: what it had not begun when it was in that call comes later. Messages have
// no numbers by which one could tell whether the call is the very one that is waited for.
bool Group::is_held_up(int peer, const Blocked& call) const {
  const bool messages = current_.sequence == 0 && call.call.sequence == 0 && call.group == key_;
  return !messages && has_not_begun(peer, call.said_ns);
}

int add_group(std::shared_ptr<Group> group) {
  set_stuck_hook(find_standstill);
  Groups& all = groups();
  std::lock_guard lock(all.mutex);
  all.present[group->info().key][group->rank()] = true;
  all.by_id.emplace(all.next, std::move(group));
  return all.next++;
}

std::vector<std::shared_ptr<Group>> all_groups() {
  Groups& all = groups();
  std::lock_guard lock(all.mutex);
  std::vector<std::shared_ptr<Group>> list;
  for (const auto& [id, group] : all.by_id) list.push_back(group);
  return list;
}

bool has_joined_here(const Group& group, int rank) {
  Groups& all = groups();
  std::lock_guard lock(all.mutex);
  const auto found = all.present.find(group.info().key);
  return found != all.present.end() && found->second.contains(rank);
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
    auto& present = all.present[last->info().key];
    present[last->rank()] = false;
    if (std::none_of(present.begin(), present.end(), [](const auto& rank) { return rank.second; }))
      all.present.erase(last->info().key);
  }
  last->leave();
}

}  // namespace sg
