// Joining, rounds, waiting and what goes wrong in them. The collectives are in shm_collectives.cc.
#include "shm_group.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "../core/platform.h"
#include "heartbeat.h"

namespace sg {

namespace {

constexpr size_t kAlign = 4096;
constexpr int kMaxRanks = 1024;

size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

struct ShmGroup::Layout {
  size_t lines, slots, channels, bytes;
  Layout(int size, size_t slot_bytes, size_t channel_bytes) {
    lines = rounded(sizeof(Header), kAlign);
    slots = lines + rounded(size_t(size) * sizeof(RankLine), kAlign);
    channels = slots + size_t(size) * 2 * slot_bytes;
    bytes = rounded(channels + size_t(size) * size_t(size) * (sizeof(Channel) + 2 * channel_bytes), kAlign);
  }
};

std::shared_ptr<ShmGroup> ShmGroup::join(GroupInfo info, const std::string& segment, const ShmOptions& options) {
  const int rank = info.rank, size = info.size;
  info.key = segment;
  if (size < 1 || size > kMaxRanks || rank < 0 || rank >= size) {
    fail(ErrorCode::Value, "process group: rank ", rank, " of ", size, ": expects 1 to ", kMaxRanks,
         " ranks, counted from 0");
  }
  ShmOptions o = options;
  o.slot_bytes = rounded(std::max<size_t>(o.slot_bytes, 64 * size_t(size)), kAlign);
  // The ways between all pairs together stay below 32 MiB.
  const size_t pairs = size_t(size) * size_t(size);
  o.channel_bytes = std::clamp<size_t>((16 << 20) / pairs / 64 * 64, 64, o.channel_bytes / 64 * 64);
  const Layout layout(size, o.slot_bytes, o.channel_bytes);
  SharedSegment memory = rank == 0 ? SharedSegment::create(segment, layout.bytes) : SharedSegment::open(segment);
  if (memory.size() != layout.bytes) {
    fail(ErrorCode::Distributed, "process group ", info.name, ": the shared segment has ", memory.size(),
         " bytes, rank ", rank, " expects ", layout.bytes, ": the ranks were given different sizes or options");
  }
  if (!memory.claim(rank)) {
    fail(ErrorCode::Distributed, "process group ", info.name, ": two processes say that they are rank ", rank);
  }
  auto made = std::make_shared<ShmGroup>(std::move(info), std::move(memory), o);
  made->line(rank).presence = uint32_t(Presence::kJoined);
  Heartbeat::instance().add(made);
  return made;
}

ShmGroup::ShmGroup(GroupInfo info, SharedSegment segment, const ShmOptions& options)
    : Group(std::move(info)), segment_(std::move(segment)), options_(options), announced_(size()) {}

ShmGroup::~ShmGroup() { leave(); }

ShmGroup::Header& ShmGroup::header() const { return *reinterpret_cast<Header*>(segment_.data()); }

ShmGroup::RankLine& ShmGroup::line(int rank) const {
  return reinterpret_cast<RankLine*>(segment_.data() + rounded(sizeof(Header), kAlign))[rank];
}

char* ShmGroup::slot(int rank) const {
  const Layout layout(size(), options_.slot_bytes, options_.channel_bytes);
  return segment_.data() + layout.slots + (size_t(rank) * 2 + (round_ & 1)) * options_.slot_bytes;
}

ShmGroup::Channel& ShmGroup::channel(int from, int to) const {
  const Layout layout(size(), options_.slot_bytes, options_.channel_bytes);
  const size_t each = sizeof(Channel) + 2 * options_.channel_bytes;
  return *reinterpret_cast<Channel*>(segment_.data() + layout.channels +
                                     (size_t(from) * size_t(size()) + size_t(to)) * each);
}

char* ShmGroup::channel_data(int from, int to, uint32_t piece) const {
  return reinterpret_cast<char*>(&channel(from, to) + 1) + (piece & 1) * options_.channel_bytes;
}

void ShmGroup::beat() { line(rank()).beat.fetch_add(1, std::memory_order_relaxed); }

void ShmGroup::leave() {
  if (left_.exchange(true)) return;
  line(rank()).presence = uint32_t(Presence::kLeft);
  wake_all(line(rank()).round);
  for (int r = 0; r < size(); r++) wake_all(line(r).moved);
}

void ShmGroup::abort(const std::string& reason) {
  Header& h = header();
  uint32_t nobody = 0;
  if (!h.failed.compare_exchange_strong(nobody, 1)) return;  // the first reason counts
  h.culprit = rank();
  std::snprintf(h.reason, sizeof h.reason, "%s", reason.c_str());
  h.failed = 2;
  for (int r = 0; r < size(); r++) {
    wake_all(line(r).round);
    wake_all(line(r).moved);
  }
}

void ShmGroup::check_failed() {
  const Header& h = header();
  if (!h.failed) return;
  while (h.failed == 1) std::this_thread::yield();
  raise_failure(h.culprit, h.reason);
}

PeerState ShmGroup::peer_state(int peer) const {
  const RankLine& theirs = line(peer);
  const auto presence = Presence(theirs.presence.load());
  const bool ended = presence == Presence::kJoined && !segment_.claimed(peer);
  return {presence, ended, theirs.beat, theirs.latest.load()};
}

Blocked ShmGroup::blocked(int world_rank) const {
  auto said = line(world_rank).blocked.load_whole();
  return said && sound(*said) ? *said : Blocked{};
}

// What was read of the peer is older than what is read now. A message that was sent before would be in its channel.
bool ShmGroup::has_not_begun(int peer, int64_t) const {
  return current().sequence == 0 || line(peer).begun.load() < current().sequence;
}

void ShmGroup::start(Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r) {
  const Signature& s = begin(call, dtype, count, root, counts, r);
  line(rank()).signature[s.sequence & 1] = s;
  line(rank()).begun.store(s.sequence, std::memory_order_release);
  line(rank()).latest.store(s);
  shared_place(rank()) = {};
  signed_ = false;
}

void ShmGroup::round(Stream& stream) {
  RankLine& mine = line(rank());
  mine.round.store(round_);  // sequentially consistent, against the look at `sleepers`
  if (mine.sleepers.load()) wake_all(mine.round);
  for (int r = 0; r < size(); r++) {
    if (r == rank()) continue;
    RankLine& peer = line(r);
    await(stream, {&r, 1}, peer.round, peer.sleepers, [&] { return int32_t(peer.round.load() - round_) >= 0; });
  }
  if (std::exchange(signed_, true)) return;
  for (int r = 0; r < size(); r++) compare(r, signature_of(r));
}

void ShmGroup::agree(Stream& stream, Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r) {
  if (call == Collective::kAllToAll) {
    const Parts out("allToAll", counts.first, size()), in("allToAll", counts.first + size(), size());
    start(call, dtype, count, root, {nullptr, 0}, r);
    compare_counts(stream, out, in);
    return;
  }
  start(call, dtype, count, root, counts, r);
  round(stream);
  round_++;
}

void ShmGroup::barrier(Stream& stream) { agree(stream, Collective::kBarrier, DType::k_uint8, 0, -1, {nullptr, 0}, {}); }

void ShmGroup::sleep_until(Stream& stream, std::span<const int> peers, std::atomic<uint32_t>& word,
                           std::atomic<uint32_t>& sleepers, bool (*ready)(const void*), const void* argument) {
  Stream::Waiting mark(stream);
  std::vector<Watch> watches;
  for (const int peer : peers) watches.emplace_back(*this, peer);
  needs(peers.front());
  for (;;) {
    const uint64_t look = mark.look();
    if (ready(argument)) return;
    mark.looked_in_vain(look);
    for (Watch& watch : watches) watch.look(stream, [&] { return ready(argument); });
    sleepers.fetch_add(1);
    const uint32_t seen = word.load();
    if (!ready(argument)) wait_while_equal(word, seen, Watch::kPollNs);
    sleepers.fetch_sub(1);
  }
}

}  // namespace sg
