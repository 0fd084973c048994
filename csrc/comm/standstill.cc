#include "standstill.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "group.h"

namespace sg {

namespace {

constexpr const char* kWhy = " while the thread they share waits: await instead";

// The groups of this process as they are now.
struct Groups {
  const std::vector<std::shared_ptr<Group>> all = all_groups();
  std::unordered_map<uint64_t, std::vector<const Group*>> here;  // by key, this thread's own parts by rank
  std::unordered_map<const Stream*, const Group*> running;

  Groups() {
    for (const auto& g : all) {
      if (const Stream* on = g->running_on()) running[on] = g.get();
      if (g->owner() != std::this_thread::get_id() || g->info().key.empty()) continue;
      auto& parts = here[g->key()];
      parts.resize(size_t(g->size()));
      parts[size_t(g->rank())] = g.get();
    }
  }
  // This thread's own part of a group, or null.
  const Group* part(const Group& group, int rank) const {
    const auto found = here.find(group.key());
    return found == here.end() || rank < 0 ? nullptr : found->second[size_t(rank)];
  }
  const Group* on(const Stream& stream) const {
    const auto found = running.find(&stream);
    return found == running.end() ? nullptr : found->second;
  }
};

const Stream& end_of(const Stream& stream) {
  const Stream* last = &stream;
  while (const Stream* on = last->waits_on()) last = on;
  return *last;
}

// Whether it is this thread that has still to let the rank join.
bool will_join_here(const Groups& groups, const Group& group, int rank) {
  const auto world = group.is_world() ? nullptr : group.info().world.lock();
  return world && groups.part(*world, group.world_rank(rank)) && !has_joined_here(group, rank);
}

// All ranks are on this thread, and none has given up.
bool is_closed(const Groups& groups, const Group& group) {
  for (int r = 0; r < group.size(); r++) {
    const Group* const part = groups.part(group, r);
    if (part ? part->failed() : !will_join_here(groups, group, r)) return false;
  }
  return true;
}

bool something_comes(const Groups& groups) {
  for (const auto& [stream, group] : groups.running) {
    for (int r = 0; r < group->size(); r++) {
      const Group* const part = r == group->rank() ? nullptr : groups.part(*group, r);
      if (part && group->may_come(*part)) return true;
    }
  }
  return false;
}

// What was seen of a stream at some time; while all of it stays, the stream has done nothing but look.
struct Seen {
  const Stream* stream;
  uint64_t given, wait, transfers;
  bool operator==(const Seen&) const = default;
};

struct Past {
  std::vector<Seen> seen;
  uint64_t look = 0;  // looks with this number or a later one were begun after all was seen
};
thread_local Past past;

bool nothing_can_change(const Groups& groups) {
  // What is under way is looked at first: a transfer that begins later counts below.
  if (something_comes(groups)) return false;
  std::vector<Seen> now;
  bool all_looked = true;
  for (const Stream* s : Stream::of_this_thread()) {
    const Group* const group = groups.on(*s);
    const uint64_t given = s->given(), looked = s->looked_in_vain(), transfers = group ? group->transfers() : 0;
    const uint64_t wait = s->wait_number();
    now.push_back({s, given, wait, transfers});
    if (s->passed(given)) continue;
    const bool known = s->waits_on() || (group && is_closed(groups, *group));
    if (wait % 2 == 0 || !known) {
      past.seen.clear();
      return false;
    }
    all_looked &= looked >= past.look;
  }
  if (now == past.seen) return all_looked;
  past.seen = std::move(now);
  past.look = Stream::next_look();
  return false;
}

// From the call that `stream` is in to one that cannot be made, from rank to rank.
std::optional<std::string> explain(const Groups& groups, const Stream& stream) {
  std::string text;
  std::vector<const Group*> passed;
  for (const Stream* at = &end_of(stream);;) {
    const Group* const in = groups.on(*at);
    if (!in) return std::nullopt;
    if (const auto seen = std::find(passed.begin(), passed.end(), in); seen != passed.end()) {
      // A ring: those in it find out themselves, unless it is made of messages alone, which have no numbers.
      const bool messages = std::all_of(seen, passed.end(), [](const Group* g) { return g->running() == 0; });
      if (!messages) return std::nullopt;
      return text + ": the ranks wait for each other; coalesce messages that go both ways";
    }
    text += (passed.empty() ? in->who(in->rank()) + " is in " : ", which is in ") + in->show_running();
    passed.push_back(in);
    const int awaited = in->awaited();
    const Group* const peer = groups.part(*in, awaited);
    if (!peer && !will_join_here(groups, *in, awaited)) return std::nullopt;
    const std::string who = in->who(awaited);
    const Stream* const theirs = peer ? peer->called_on() : nullptr;
    if (theirs && theirs->faulted()) return text + ", and nobody hears that " + who + " has failed" + kWhy;
    if (!theirs || theirs->passed(theirs->given()))
      return text + ", and " + who + (in->running() > 0 ? " cannot call it" : " cannot do its part") + kWhy;
    text += " and waits for " + who;
    at = &end_of(*theirs);
  }
}

// A call that a rank of this thread has still to make never ends, whatever else happens.
std::optional<std::string> find_missing(const Groups& groups, const Stream& stream) {
  const Group* const in = groups.on(end_of(stream));
  const uint64_t number = in ? in->running() : 0;
  if (number == 0) return std::nullopt;
  for (int r = 0; r < in->size(); r++) {
    const Group* const part = groups.part(*in, r);
    const bool missing = part ? part->ahead() < number : will_join_here(groups, *in, r);
    if (!missing) continue;
    return in->who(in->rank()) + " is in " + in->show_running() + ", and " + in->who(r) + " cannot call it" + kWhy;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> find_standstill(const Stream& stream) {
  const Groups groups;
  if (auto missing = find_missing(groups, stream)) return missing;
  return nothing_can_change(groups) ? explain(groups, stream) : std::nullopt;
}

}  // namespace sg
