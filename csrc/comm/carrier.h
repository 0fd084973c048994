// Carrier: what carries the operations of a group out. Groups of the CPU carry theirs themselves; groups of devices
// whose memory the host cannot read have a carrier on top of such a group, which goes on knowing the ranks: who is
// there, what they call, who has failed.
//
// Calls come on the thread of the stream that runs them. Tensors are contiguous and lie inside their storages.
#pragma once
#include <vector>

#include "../core/view.h"
#include "signature.h"

namespace sg {

class Stream;

// One message of an exchange.
struct Message {
  View x;
  int peer;
  bool out;  // to the peer; otherwise from it
};

class Carrier {
 public:
  virtual ~Carrier() = default;
  virtual void all_reduce(Stream&, View& x, Reduction r) = 0;
  virtual void reduce(Stream&, View& x, Reduction r, int root) = 0;  // x of other ranks stays
  virtual void broadcast(Stream&, View& x, int root) = 0;
  // `counts` are elements per rank; y holds them one after another
  virtual void all_gather(Stream&, const View& x, View& y, Rest counts) = 0;
  virtual void gather(Stream&, const View& x, View* y, Rest counts, int root) = 0;  // y on the root alone
  virtual void scatter(Stream&, const View* x, View& y, Rest counts, int root) = 0;
  virtual void reduce_scatter(Stream&, const View& x, View& y, Rest counts, Reduction r) = 0;
  // counts: what goes to each rank, then what comes from each
  virtual void all_to_all(Stream&, const View& x, View& y, Rest counts) = 0;
  // Messages between pairs, all at once; those between the same two ranks in their order. Peers are checked.
  virtual void exchange(Stream&, const std::vector<Message>& messages) = 0;
  virtual void barrier(Stream&) = 0;
};

}  // namespace sg
