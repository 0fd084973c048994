// Announcements: what the other ranks have said of messages that a carrier moves. Both ranks of a message announce it,
// in the order of their calls, and begin when they know of each other. A rank that sends and receives at once may hear
// of what it asks for only in its next call: that stays here.
#pragma once
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "signature.h"

namespace sg {

class Announcements {
 public:
  explicit Announcements(int ranks) : heard_(size_t(ranks)) {}

  void hear(int peer, const Signature& theirs) { of(peer, theirs.call == Collective::kSend).push_back(theirs); }
  // The next one of a peer's sends or receives that nobody has asked for.
  std::optional<Signature> take(int peer, bool send) {
    auto& heard = of(peer, send);
    if (heard.empty()) return std::nullopt;
    const Signature first = heard.front();
    heard.pop_front();
    return first;
  }

 private:
  struct Heard {
    std::deque<Signature> sends, receives;
  };
  std::deque<Signature>& of(int peer, bool send) {
    Heard& heard = heard_[size_t(peer)];
    return send ? heard.sends : heard.receives;
  }
  std::vector<Heard> heard_;
};

}  // namespace sg
