// Blocked: what a rank tells all others when it has waited a while: the call it is in, and a call that another rank has
// to end first. Calls have numbers that are used once and the calls of a rank run one after another, so a statement
// stays true for ever: nobody takes it back, and reading it late or in pieces of different times does no harm.
#pragma once
#include "signature.h"

namespace sg {

struct Blocked {
  uint64_t number;          // of the call among all that its rank makes, in any group; 0: nothing was said
  uint64_t group;           // a hash of its group's key
  int64_t said_ns;          // when this was said of the call first, by the clock of its rank
  int64_t turned_ns;        // since when the following is what it says
  uint64_t awaited_number;  // the call that has to end first, by the rank that makes it
  int32_t awaited_rank;     // in the world; -1: none is known
  int32_t rank;             // of whom said it, in the world
  Signature call;
  char group_name[32];
};

// As it can be shown, whoever wrote it; ends the texts.
inline bool sound(Blocked& b) {
  b.group_name[sizeof b.group_name - 1] = 0;
  return sound(b.call);
}

}  // namespace sg
