#include "watch.h"

#include <algorithm>
#include <cstdio>

#include "../core/platform.h"
#include "group.h"

namespace sg {

namespace {

// Most waits are shorter: they tell nobody.
constexpr int64_t kHeldNs = 500'000'000;
constexpr int64_t kLateNs = 5'000'000'000, kAgainNs = 60'000'000'000, kStoppedNs = 3'000'000'000;

}  // namespace

Watch::Watch(Group& group, int peer)
    : group_(group), peer_(peer), deadlock_(group), start_(now_ns()), looked_(start_), warn_at_(start_ + kLateNs) {}

PeerState Watch::state() {
  const PeerState peer = group_.peer_state(peer_);
  if (now_ns() - start_ > kHeldNs) deadlock_.gather(peer_);
  return peer;
}

void Watch::judge(Stream& stream, const PeerState& peer) {
  Group& g = group_;
  g.check_failed();
  const std::string mine = g.show_current(), who = g.who(peer_), self = g.who(g.rank());
  if (stream.halting()) g.give_up(self + " ended while it waited in " + mine);
  const int64_t now = now_ns();
  // First of all: the peers of a ring may have given up for its sake and left.
  if (now - start_ > kHeldNs) deadlock_.judge();
  // A machine that slept as a whole, or a debugger, is no reason: what counts is the time we ran ourselves.
  still_ += std::min<int64_t>(now - looked_, 5 * kPollNs);
  looked_ = now;
  if (peer.presence == Presence::kLeft) g.give_up(who + " has left before " + mine, peer_);
  if (peer.ended) g.give_up("the process of " + who + " has ended; " + self + " waits for it in " + mine, peer_);
  if (peer.beat != beat_ || peer.presence == Presence::kExpected) {
    beat_ = peer.beat;
    still_ = 0;
  } else if (still_ > kStoppedNs) {
    g.give_up(who + " " + g.silence() + " (no heartbeat for 3 s); " + self + " waits for it in " + mine, peer_);
  }
  const auto last = [&] {
    if (peer.presence == Presence::kExpected) return std::string("it has not joined yet");
    if (peer.last.call == Collective::kNone) return std::string("it has called nothing yet");
    return "its last call is " + show_call(peer.last, g.name());
  };
  if (now - start_ > g.timeout_ns()) {
    g.give_up(mine + ": " + self + " has waited " + std::to_string(g.timeout_ns() / 1'000'000) + " ms for " + who +
                  "; " + last(),
              peer_);
  }
  if (now < warn_at_) return;
  warn_at_ = now + kAgainNs;
  std::fprintf(stderr, "shardgrad: %s waits in %s for %s since %lld s; %s\n", self.c_str(), mine.c_str(), who.c_str(),
               static_cast<long long>((now - start_) / 1'000'000'000), last().c_str());
}

}  // namespace sg
