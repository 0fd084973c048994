// One rank's communicator, and what it has under way on the GPU. NCCL never holds a thread up here (non-blocking
// communicators): whatever it begins is asked about until it has been taken in, so that a communicator can be aborted
// at any time by whoever sees that its collectives can never end.
//
// The ranks agree on each collective before NCCL hears of it, so what still can go wrong is what happens on the device:
// a rank that dies, is stopped, or does not come to its end in time. The watching thread looks at that.
#pragma once
#include <deque>
#include <memory>
#include <mutex>

#include "../comm/group.h"
#include "nccl.h"

namespace sg {

// A collective that was launched: from then until the stream has learned that it is done, or was aborted.
struct LaunchedCollective {
  Signature call;
  uint64_t entry;  // of the flight recorder
  int64_t launched_ns, timeout_ns;
  Stream* stream;
  DeviceQueue::Event event;  // reached when it is done
  std::shared_ptr<class Communicator> communicator;
};

class Communicator : public std::enable_shared_from_this<Communicator> {
 public:
  // On the stream's thread, in a call that all ranks agreed on. They throw when a rank does not come.
  static std::shared_ptr<Communicator> create(Stream& stream, Group& group, const nccl::UniqueId& id);
  // That of the ranks with the same color, which is for `part`; null without a color.
  std::shared_ptr<Communicator> split(Stream& stream, Group& group, const std::shared_ptr<Group>& part, int color,
                                      int key);
  explicit Communicator(const std::shared_ptr<Group>& group) : group_(group), peers_(size_t(group->size())) {}

  // Calls `f(handle)` and returns when NCCL has taken it in; what it launches is then watched.
  template <class F>
  void launch(Stream& stream, Group& group, const char* what, const F& f) {
    call(stream, group, what, [](nccl::Comm comm, const void* p) { return (*static_cast<const F*>(p))(comm); }, &f);
    launched(stream, group);
  }

  // ---- the watching thread
  void look();
  // The group was left: true when nothing is left of the communicator.
  bool retire();
  void abort();

 private:
  using Function = nccl::Result (*)(nccl::Comm, const void*);
  void call(Stream& stream, Group& group, const char* what, Function f, const void* argument);
  void settle(Stream& stream, Group& group, const char* what, nccl::Result result);
  void settle_new(Stream& stream, Group& group, const char* what, nccl::Result result);
  void launched(Stream& stream, Group& group);
  static void finish(Stream& stream, void* collective);
  void look_at_device(Group& group);
  void look_at_peers(Group& group, const LaunchedCollective& oldest, int64_t now);
  void fail_launched(ErrorCode code, const std::string& text);

  const std::weak_ptr<Group> group_;
  std::mutex mutex_;  // guards comm_: one thread at a time within NCCL
  nccl::Comm comm_ = nullptr;
  int64_t retiring_ns_ = 0;
  std::mutex launched_mutex_;
  std::deque<LaunchedCollective*> launched_;  // in order
  // The watching thread's: what it has seen of each rank.
  struct Peer {
    uint32_t beat = 0;
    int64_t ended_ns = 0, still_ns = 0;
  };
  std::vector<Peer> peers_;
  int64_t looked_ns_ = 0;
};

}  // namespace sg
