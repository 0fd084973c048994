#include "nccl_communicator.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "../core/platform.h"
#include "nccl_watch.h"

namespace sg {

namespace {

constexpr auto kNap = std::chrono::microseconds(50);
// From this age on a collective is asked what it waits for.
constexpr int64_t kHeldNs = 200'000'000;
// What a rank did before its process ended still counts: it may have been the last to do anything.
constexpr int64_t kEndedNs = 1'000'000'000, kStoppedNs = 3'000'000'000;
constexpr int64_t kHaltingNs = 500'000'000, kRetireNs = 5'000'000'000;

}  // namespace

std::shared_ptr<Communicator> Communicator::create(Stream& stream, Group& group, const nccl::UniqueId& id) {
  auto made = std::make_shared<Communicator>(group.shared_from_this());
  nccl::Config config;
  nccl::Result result;
  {
    std::lock_guard lock(made->mutex_);
    result = nccl::api().comm_init(&made->comm_, group.size(), id, group.rank(), &config);
  }
  made->settle_new(stream, group, "ncclCommInitRankConfig", result);
  return made;
}

// The new handle is there when the parent is through with the call, and can be used when it says so itself.
std::shared_ptr<Communicator> Communicator::split(Stream& stream, Group& group, const std::shared_ptr<Group>& part,
                                                  int color, int key) {
  struct Arguments {
    int color, key;
    nccl::Comm handle;
    nccl::Config config;
  };
  // Should this call fail, NCCL may still write to it: then it is never freed.
  auto arguments = std::make_unique<Arguments>(Arguments{color, key, nullptr, {}});
  const auto begin = [](nccl::Comm comm, const void* p) {
    auto& a = **static_cast<const std::unique_ptr<Arguments>*>(p);
    return nccl::api().comm_split(comm, a.color, a.key, &a.handle, &a.config);
  };
  try {
    call(stream, group, "ncclCommSplit", begin, &arguments);
  } catch (...) {
    (void)arguments.release();
    throw;
  }
  if (!part) return nullptr;
  auto made = std::make_shared<Communicator>(part);
  made->comm_ = arguments->handle;
  made->settle_new(stream, group, "ncclCommSplit", nccl::kInProgress);
  return made;
}

void Communicator::settle_new(Stream& stream, Group& group, const char* what, nccl::Result result) {
  NcclWatch::instance().add(shared_from_this());
  try {
    settle(stream, group, what, result);
  } catch (...) {
    NcclWatch::instance().retire(shared_from_this());
    throw;
  }
}

void Communicator::call(Stream& stream, Group& group, const char* what, Function f, const void* argument) {
  nccl::Result result;
  {
    std::lock_guard lock(mutex_);
    if (!comm_) group.check_failed();  // throws: that is why it was aborted
    result = comm_ ? f(comm_, argument) : nccl::kRemoteError;
  }
  settle(stream, group, what, result);
}

void Communicator::settle(Stream& stream, Group& group, const char* what, nccl::Result result) {
  const auto settled = [&] {
    if (result != nccl::kInProgress) return true;
    std::lock_guard lock(mutex_);
    if (!comm_) result = nccl::kRemoteError;
    else if (const auto asked = nccl::api().comm_get_async_error(comm_, &result); asked != nccl::kSuccess)
      result = asked;
    return result != nccl::kInProgress;
  };
  if (!spin_until(stream_settings().spin_ns, settled)) {
    const Stream::Waiting mark(stream);
    std::vector<Watch> watches;
    for (int p = 0; p < group.size(); p++) {
      if (p != group.rank()) watches.emplace_back(group, p);
    }
    for (int64_t looked = now_ns(); !settled(); std::this_thread::sleep_for(kNap)) {
      if (now_ns() - looked < Watch::kPollNs) continue;
      looked = now_ns();
      for (Watch& watch : watches) watch.look(stream, settled);
      if (stream.halting())
        group.give_up(group.who(group.rank()) + " ended while it waited in " + group.show_current());
    }
  }
  if (result == nccl::kSuccess) return;
  group.check_failed();
  std::string why;
  {
    std::lock_guard lock(mutex_);
    why = nccl::explain(what, result, comm_);
  }
  group.give_up(group.who(group.rank()) + " in " + group.show_current() + ": " + why);
}

void Communicator::launched(Stream& stream, Group& group) {
  auto* const c =
      new LaunchedCollective{group.current(), group.take_entry(),       now_ns(),          group.timeout_ns(),
                             &stream,         stream.queue()->record(), shared_from_this()};
  {
    std::lock_guard lock(launched_mutex_);
    launched_.push_back(c);
  }
  stream.when_done(finish, c);
}

void Communicator::finish(Stream& stream, void* collective) {
  const std::unique_ptr<LaunchedCollective> c(static_cast<LaunchedCollective*>(collective));
  Communicator& self = *c->communicator;
  {
    std::lock_guard lock(self.launched_mutex_);
    std::erase(self.launched_, c.get());
  }
  stream.queue()->recycle(c->event);
  const auto group = self.group_.lock();
  if (!group) return;
  bool failed = true;
  {
    std::lock_guard lock(self.mutex_);
    failed = !self.comm_;
  }
  if (c->entry > 0) group->info().recorder->done(c->entry, failed);
}

void Communicator::look() {
  const auto group = group_.lock();
  if (!group) return;
  try {
    group->check_failed();
    look_at_device(*group);
  } catch (const Error& e) {
    fail_launched(e.code, e.what());
    abort();
  }
}

// Throws what the collectives under way can never end for.
void Communicator::look_at_device(Group& group) {
  nccl::Result result = nccl::kSuccess;
  std::string why;
  {
    std::lock_guard lock(mutex_);
    if (!comm_) return;
    const auto asked = nccl::api().comm_get_async_error(comm_, &result);
    if (asked != nccl::kSuccess) result = asked;
    if (result != nccl::kSuccess && result != nccl::kInProgress) why = nccl::explain("NCCL", result, comm_);
  }
  const int64_t now = now_ns();
  std::lock_guard lock(launched_mutex_);
  // the stream's thread may be busy with the next call while this one has long been done
  const auto under_way = std::find_if(launched_.begin(), launched_.end(), [](const LaunchedCollective* c) {
    const bool done = cudaEventQuery(static_cast<cudaEvent_t>(c->event)) == cudaSuccess;
    (void)cudaGetLastError();
    return !done;
  });
  const LaunchedCollective* const oldest = under_way == launched_.end() ? nullptr : *under_way;
  if (!why.empty()) {
    const std::string where = oldest ? " in " + show_call(oldest->call, group.name()) : std::string();
    group.give_up(group.who(group.rank()) + where + ": " + why);
  }
  if (!oldest || now - oldest->launched_ns < kHeldNs) {
    std::fill(peers_.begin(), peers_.end(), Peer{});
    looked_ns_ = now;
    return;
  }
  look_at_peers(group, *oldest, now);
}

void Communicator::look_at_peers(Group& group, const LaunchedCollective& oldest, int64_t now) {
  const std::string call = show_call(oldest.call, group.name()), self = group.who(group.rank());
  // As for the waits of the CPU: a machine that slept as a whole is no reason.
  const int64_t passed = std::min<int64_t>(now - looked_ns_, 5 * Watch::kPollNs);
  looked_ns_ = now;
  for (int p = 0; p < group.size(); p++) {
    if (p == group.rank()) continue;
    const PeerState state = group.peer_state(p);
    Peer& peer = peers_[size_t(p)];
    if (state.ended && peer.ended_ns == 0) peer.ended_ns = now;
    if (peer.ended_ns > 0 && now - peer.ended_ns > kEndedNs) {
      group.give_up("the process of " + group.who(p) + " has ended; " + self + " waits for it in " + call, p);
    }
    peer.still_ns =
        state.beat == peer.beat && !state.ended && state.presence == Presence::kJoined ? peer.still_ns + passed : 0;
    peer.beat = state.beat;
    if (peer.still_ns > kStoppedNs) {
      group.give_up(
          group.who(p) + " " + group.silence() + " (no heartbeat for 3 s); " + self + " waits for it in " + call, p);
    }
  }
  if (oldest.stream->halting() && now - oldest.launched_ns > kHaltingNs) {
    group.give_up(self + " ended while it waited in " + call);
  }
  if (now - oldest.launched_ns > oldest.timeout_ns) {
    group.give_up(call + ": " + self + " has waited " + std::to_string(oldest.timeout_ns / 1'000'000) +
                  " ms on the GPU for the other ranks");
  }
}

// The streams learn it before the abort lets them go on: what follows must not take the results for good.
void Communicator::fail_launched(ErrorCode code, const std::string& text) {
  std::lock_guard lock(launched_mutex_);
  for (LaunchedCollective* c : launched_) c->stream->raise(code, text);
}

void Communicator::abort() {
  std::lock_guard lock(mutex_);
  if (nccl::Comm comm = std::exchange(comm_, nullptr)) (void)nccl::api().comm_abort(comm);
}

// A communicator is flushed by all ranks together; one whose peers do not come is aborted.
bool Communicator::retire() {
  {
    std::lock_guard lock(mutex_);
    if (!comm_) return true;
    const nccl::Api& api = nccl::api();
    const bool first = retiring_ns_ == 0;
    nccl::Result result = first ? api.comm_finalize(comm_) : nccl::kSuccess;
    if (first) retiring_ns_ = now_ns();
    if (result == nccl::kSuccess) (void)api.comm_get_async_error(comm_, &result);
    if (result == nccl::kSuccess) {
      (void)api.comm_destroy(std::exchange(comm_, nullptr));
      return true;
    }
    if (result == nccl::kInProgress && now_ns() - retiring_ns_ < kRetireNs) return false;
  }
  abort();
  return true;
}

}  // namespace sg
