#include "deadlock.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "../core/platform.h"
#include "group.h"

namespace sg {

namespace {

// A rank that waits for several others says so of one at a time, and each so long.
constexpr int64_t kTurnNs = 100'000'000;
constexpr size_t kShown = 4;
constexpr std::chrono::milliseconds kFarewell(300);

}  // namespace

void Deadlock::gather(int peer) {
  obstacles_.clear();
  const auto world = group_.world();
  if (!world || group_.call_number() == 0) return;
  world->listen();
  const bool message = group_.current().sequence == 0;
  for (int p = message ? peer : 0; p < (message ? peer + 1 : group_.size()); p++) {
    if (p == group_.rank()) continue;
    const Blocked b = world->blocked(group_.world_rank(p));
    if (b.number > 0 && group_.is_held_up(p, b)) obstacles_.push_back(b);
  }
  std::sort(obstacles_.begin(), obstacles_.end(), [](const Blocked& a, const Blocked& b) { return a.rank < b.rank; });
}

void Deadlock::judge() {
  const auto world = group_.world();
  if (!world || group_.call_number() == 0) return;
  const int me = group_.world_rank(group_.rank());
  Blocked mine = world->blocked(me);
  const auto say = [&](const Blocked* awaited) {
    mine.turned_ns = now_ns();
    mine.awaited_rank = awaited ? awaited->rank : -1;
    mine.awaited_number = awaited ? awaited->number : 0;
    world->say_blocked(mine);
  };
  if (mine.number != group_.call_number()) {
    mine = {group_.call_number(), group_.key(), now_ns(), 0, 0, -1, me, group_.current(), {}};
    std::snprintf(mine.group_name, sizeof mine.group_name, "%s", group_.name().c_str());
    say(nullptr);
  }
  if (obstacles_.empty()) return;
  const auto ring =
      std::find_if(obstacles_.begin(), obstacles_.end(), [&](const Blocked& b) { return find_ring(b, *world); });
  if (ring != obstacles_.end()) {
    say(&*ring);  // so that the others of the ring see it too, whatever becomes of this rank
    const std::string reason = show(mine);
    group_.abort(reason);
    // They tell those who wait behind them, who should not see the end of this process first.
    std::this_thread::sleep_for(kFarewell);
    fail(ErrorCode::Distributed, reason);
  }
  auto next =
      std::find_if(obstacles_.begin(), obstacles_.end(), [&](const Blocked& b) { return b.rank > mine.awaited_rank; });
  if (next == obstacles_.end()) next = obstacles_.begin();
  const bool said = next->rank == mine.awaited_rank && next->number == mine.awaited_number;
  if (!said && (mine.awaited_rank < 0 || now_ns() - mine.turned_ns > kTurnNs)) say(&*next);
}

bool Deadlock::find_ring(const Blocked& first, Group& world) {
  const int me = group_.world_rank(group_.rank());
  ring_ = {first};
  while (ring_.back().awaited_rank >= 0 && ring_.size() < size_t(world.size())) {
    const Blocked& last = ring_.back();
    if (last.awaited_rank == me) return last.awaited_number == group_.call_number();
    if (last.awaited_rank >= world.size()) return false;
    const Blocked next = world.blocked(last.awaited_rank);
    if (next.number != last.awaited_number) return false;  // it is over, or what was said of it has not come yet
    ring_.push_back(next);
  }
  return false;
}

std::string Deadlock::show(const Blocked& mine) const {
  std::vector<Blocked> all = {mine};
  all.insert(all.end(), ring_.begin(), ring_.end());
  const bool groups = std::any_of(all.begin(), all.end(), [&](const Blocked& b) { return b.group != mine.group; });
  std::string text = std::string("the ranks wait for each other: call the ") + (groups ? "groups" : "operations") +
                     " in the same order on all ranks: ";
  for (size_t i = 0; i < all.size() && i < kShown; i++) {
    const Blocked& b = all[i];
    text += (i > 0 ? ", world rank " : "world rank ") + std::to_string(b.rank) + " waits in " +
            show_call(b.call, b.group_name) + " for world rank " + std::to_string(all[(i + 1) % all.size()].rank);
  }
  return all.size() > kShown ? text + ", and so on around " + std::to_string(all.size()) + " ranks" : text;
}

}  // namespace sg
