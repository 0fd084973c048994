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
constexpr int64_t kPollNs = 20'000'000, kLateNs = 5'000'000'000, kAgainNs = 60'000'000'000, kStoppedNs = 3'000'000'000;

size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

const char* const kCalls[] = {"nothing", "allReduce",     "reduce",   "broadcast", "allGather", "gather",
                              "scatter", "reduceScatter", "allToAll", "send",      "recv",      "barrier"};
const char* const kReductions[] = {"sum", "avg", "min", "max", "product", "premulSum"};

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

// How long one wait has lasted, and what its peer's heart did meanwhile.
struct ShmGroup::Patience {
  int64_t start = now_ns(), looked = start, warn_at = start + kLateNs, still = 0;
  uint32_t beat = 0;
};

std::shared_ptr<ShmGroup> ShmGroup::join(const std::string& group, const std::string& segment, int rank, int size,
                                         const ShmOptions& options) {
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
    fail(ErrorCode::Distributed, "process group ", group, ": the shared segment has ", memory.size(), " bytes, rank ",
         rank, " expects ", layout.bytes, ": the ranks were given different sizes or options");
  }
  if (!memory.claim(rank)) {
    fail(ErrorCode::Distributed, "process group ", group, ": two processes say that they are rank ", rank);
  }
  auto made = std::make_shared<ShmGroup>(group, std::move(memory), rank, size, o);
  made->line(rank).presence = uint32_t(Presence::kJoined);
  Heartbeat::instance().add(made);
  return made;
}

ShmGroup::ShmGroup(std::string group, SharedSegment segment, int rank, int size, const ShmOptions& options)
    : Group(std::move(group), rank, size), segment_(std::move(segment)), options_(options) {}

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
}

void ShmGroup::abort(const std::string& reason) {
  Header& h = header();
  uint32_t nobody = 0;
  if (!h.failed.compare_exchange_strong(nobody, 1)) return;  // the first reason counts
  h.culprit = rank();
  std::snprintf(h.reason, sizeof h.reason, "%s", reason.c_str());
  h.failed = 2;
  for (int r = 0; r < size(); r++) wake_all(line(r).round);
}

void ShmGroup::give_up(const std::string& reason) {
  abort(reason);
  fail(ErrorCode::Distributed, reason);
}

void ShmGroup::raise_failure() {
  const Header& h = header();
  while (h.failed == 1) std::this_thread::yield();
  if (h.culprit == rank()) fail(ErrorCode::Distributed, h.reason);
  fail(ErrorCode::Distributed, "process group ", name(), " has failed on rank ", h.culprit, ": ", h.reason);
}

std::string ShmGroup::show(const Signature& s) const {
  std::string text = kCalls[int(s.call)];
  if (s.call == Call::kBarrier || s.call == Call::kNone) return text;
  text += std::string("(") + dtype_name(s.dtype) + ", " + std::to_string(s.count) + " elements";
  if (s.call == Call::kAllReduce || s.call == Call::kReduce || s.call == Call::kReduceScatter) {
    text += std::string(", ") + kReductions[int(s.reduce)];
  }
  if (s.root >= 0) text += ", root " + std::to_string(s.root);
  return text + ")";
}

std::string ShmGroup::show_call(const Signature& s) const {
  return show(s) + " #" + std::to_string(s.sequence) + " of process group " + name();
}

ShmGroup::Signature ShmGroup::sign(Call call, DType dtype, int64_t count, int root, Rest counts, Reduction r) {
  if (header().failed) raise_failure();
  if (root >= size() || root < -1) {
    fail(ErrorCode::Value, kCalls[int(call)], ": rank ", root, " is not one of the ", size(),
         " ranks of process group ", name());
  }
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (int i = 0; i < counts.count; i++) hash = (hash ^ uint64_t(counts[i])) * 1099511628211u;
  return {sequence_, call, dtype, r.op, root, count, hash, r.factor, 0, 0, 0, 0, 0};
}

void ShmGroup::begin(Call call, DType dtype, int64_t count, int root, Rest counts, Reduction r) {
  sequence_++;
  line(rank()).signature[sequence_ & 1] = current_ = sign(call, dtype, count, root, counts, r);
  signed_ = false;
}

void ShmGroup::check_signatures() {
  const Signature& mine = line(rank()).signature[sequence_ & 1];
  for (int r = 0; r < size(); r++) {
    const Signature& theirs = line(r).signature[sequence_ & 1];
    const bool same = theirs.sequence == mine.sequence && theirs.call == mine.call && theirs.dtype == mine.dtype &&
                      theirs.reduce == mine.reduce && theirs.root == mine.root && theirs.count == mine.count &&
                      theirs.counts_hash == mine.counts_hash;
    if (same) continue;
    const std::string detail = show(theirs) == show(mine) ? " with other counts per rank" : std::string();
    give_up("the ranks of process group " + name() + " disagree in call #" + std::to_string(mine.sequence) + ": rank " +
            std::to_string(rank()) + " calls " + show(mine) + ", rank " + std::to_string(r) + " calls " + show(theirs) +
            detail);
  }
  signed_ = true;
}

void ShmGroup::round(Stream& stream) {
  RankLine& mine = line(rank());
  mine.round.store(round_);  // sequentially consistent, against the look at `sleepers`
  if (mine.sleepers.load()) wake_all(mine.round);
  for (int r = 0; r < size(); r++) {
    if (r == rank()) continue;
    RankLine& peer = line(r);
    await(stream, r, peer.round, peer.sleepers, [&] { return int32_t(peer.round.load() - round_) >= 0; });
  }
  if (!signed_) check_signatures();
}

void ShmGroup::sleep_until(Stream& stream, int peer, std::atomic<uint32_t>& word, std::atomic<uint32_t>& sleepers,
                           bool (*ready)(const void*), const void* argument) {
  Stream::Waiting mark(stream);
  Patience patience;
  patience.beat = line(peer).beat;
  while (!ready(argument)) {
    check_peer(stream, peer, patience);
    sleepers.fetch_add(1);
    const uint32_t seen = word.load();
    if (!ready(argument)) wait_while_equal(word, seen, kPollNs);
    sleepers.fetch_sub(1);
  }
}

void ShmGroup::check_peer(Stream& stream, int peer, Patience& p) {
  const Signature& mine = current_;
  if (header().failed) raise_failure();
  if (stream.halting()) give_up("rank " + std::to_string(rank()) + " ended while it waited in " + show_call(mine));
  const int64_t now = now_ns();
  // A machine that slept as a whole, or a debugger, is no reason: what counts is the time we ran ourselves.
  p.still += std::min<int64_t>(now - p.looked, 5 * kPollNs);
  p.looked = now;
  const std::string who = "rank " + std::to_string(peer);
  const RankLine& theirs = line(peer);
  const auto presence = Presence(theirs.presence.load());
  if (presence == Presence::kLeft) give_up(who + " has left before " + show_call(mine));
  if (presence == Presence::kJoined && !segment_.claimed(peer)) {
    give_up("the process of " + who + " has ended; rank " + std::to_string(rank()) + " waits for it in " +
            show_call(mine));
  }
  if (const uint32_t beat = theirs.beat; beat != p.beat || presence == Presence::kExpected) {
    p.beat = beat;
    p.still = 0;
  } else if (p.still > kStoppedNs) {
    give_up(who + " has stopped (no heartbeat for 3 s); rank " + std::to_string(rank()) + " waits for it in " +
            show_call(mine));
  }
  const auto last = [&] {
    const Signature &a = theirs.signature[0], &b = theirs.signature[1];
    return presence == Presence::kExpected ? std::string("it has not joined yet")
                                           : "its last call is " + show_call(a.sequence > b.sequence ? a : b);
  };
  if (now - p.start > options_.timeout_ns) {
    give_up(show_call(mine) + ": rank " + std::to_string(rank()) + " has waited " +
            std::to_string(options_.timeout_ns / 1'000'000) + " ms for " + who + "; " + last());
  }
  if (now < p.warn_at) return;
  p.warn_at = now + kAgainNs;
  std::fprintf(stderr, "shardgrad: rank %d waits in %s for rank %d since %lld s; %s\n", rank(), show_call(mine).c_str(),
               peer, static_cast<long long>((now - p.start) / 1'000'000'000), last().c_str());
}

}  // namespace sg
