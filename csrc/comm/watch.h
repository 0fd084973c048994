// Watch: how long one wait for a peer has lasted, and what that means. A peer that has left or whose process has ended
// is an error at once, one without a heartbeat after 3 s; one that is alive but late is a warning after 5 s, another
// one every minute, and an error only at the call's timeout. One that waits for us, in another call, is a deadlock.
#pragma once
#include "deadlock.h"
#include "signature.h"

namespace sg {

class Group;
class Stream;

enum class Presence : uint32_t { kExpected, kJoined, kLeft };

// A peer, as its transport sees it.
struct PeerState {
  Presence presence;
  bool ended;     // its process is gone
  uint32_t beat;  // changes at least every 250 ms while the process runs
  Signature last;
};

class Watch {
 public:
  static constexpr int64_t kPollNs = 20'000'000;  // how often to look

  Watch(Group& group, int peer);
  // Throws when the wait is over without success. What the peer did before it left counts: `done` is asked once more
  // after its state was taken.
  template <class Done>
  void look(Stream& stream, const Done& done) {
    const PeerState peer = state();
    if (!done()) judge(stream, peer);
  }

 private:
  PeerState state();
  void judge(Stream& stream, const PeerState& peer);
  Group& group_;
  const int peer_;
  Deadlock deadlock_;
  const int64_t start_;
  int64_t looked_, warn_at_, still_ = 0;
  uint32_t beat_ = 0;
};

}  // namespace sg
