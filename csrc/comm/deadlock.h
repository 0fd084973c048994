// Deadlock: whether a wait can never end because ranks call their groups in different orders. Each rank that waits
// looks for peers that have not begun its call and say that they wait within another one: that one has to end first. It
// says so in turn (see Blocked), and follows what the others say from rank to rank; whoever comes back to the very call
// it is in has a proof, not a guess. A peer that computes, or is late in a call that goes on, is never part of such a
// ring.
#pragma once
#include <string>
#include <vector>

#include "blocked.h"

namespace sg {

class Group;

class Deadlock {
 public:
  explicit Deadlock(Group& group) : group_(group) {}
  // Who keeps `peer` and, in a collective, the other peers from this rank's call. The wait has to be looked at once
  // more between the two: what a peer has done for it meanwhile was done before.
  void gather(int peer);
  void judge();  // says what was found; throws when it is a ring

 private:
  bool find_ring(const Blocked& first, Group& world);
  std::string show(const Blocked& mine) const;
  Group& group_;
  std::vector<Blocked> obstacles_;
  std::vector<Blocked> ring_;  // the others, from the one that is waited for to the one that waits for this rank
};

}  // namespace sg
