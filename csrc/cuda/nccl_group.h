// NcclGroup: a group whose collectives NCCL carries out on the GPUs. It lies on a group of the CPU of the same ranks,
// which it asks before each call: there the ranks agree on what they call, notice who is dead, late, or calls its
// groups in another order, and only then is anything launched. So NCCL never sees a mismatch, which to it is a hang.
//
// All communicators of a device are used from one stream, and so one after another, as NCCL wants it.
#pragma once
#include "../comm/parts.h"
#include "nccl_communicator.h"

namespace sg {

class NcclGroup final : public Carrier {
 public:
  NcclGroup(Group& group, std::shared_ptr<Communicator> communicator);
  ~NcclGroup() override;
  Communicator& communicator() { return *communicator_; }

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
  template <class F>
  void launch(Stream& stream, const char* what, const F& f) {
    communicator_->launch(stream, group_, what, f);
  }
  template <class F>
  void reducing(Stream& stream, const char* what, DType dtype, Reduction r, const F& f);

  Group& group_;  // which owns this
  const std::shared_ptr<Communicator> communicator_;
};

}  // namespace sg
