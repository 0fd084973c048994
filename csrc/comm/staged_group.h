// StagedGroup: lets a group of the CPU carry tensors that lie on an accelerator. They are copied to pinned memory of
// the host, the group works on that, and its results are copied back. Ranks may share one GPU this way. Only the
// stream's own thread waits for the copies; results, errors and the order of sums are those of the group.
#pragma once
#include "../core/backend.h"
#include "group.h"

namespace sg {

class StagedGroup final : public Carrier {
 public:
  // Both outlive it: the group owns it, and the backend is that of the streams it works on.
  StagedGroup(Group& group, Backend& memory) : group_(group), memory_(memory) {}

  void all_reduce(Stream&, View& x, Reduction r) override;
  void reduce(Stream&, View& x, Reduction r, int root) override;
  void broadcast(Stream&, View& x, int root) override;
  void all_gather(Stream&, const View& x, View& y, Rest counts) override;
  void gather(Stream&, const View& x, View* y, Rest counts, int root) override;
  void scatter(Stream&, const View* x, View& y, Rest counts, int root) override;
  void reduce_scatter(Stream&, const View& x, View& y, Rest counts, Reduction r) override;
  void all_to_all(Stream&, const View& x, View& y, Rest counts) override;
  void exchange(Stream&, const std::vector<Message>& messages) override;
  void barrier(Stream& stream) override;

 private:
  class Tensors;
  Group& group_;
  Backend& memory_;
};

}  // namespace sg
