// The collectives as rounds over the slots, piece by piece.
#include <algorithm>
#include <cstring>
#include <vector>

#include "parts.h"
#include "rank_reduce.h"
#include "shm_group.h"

namespace sg {

namespace {

constexpr size_t kLine = 64;
// Up to this size every rank of a larger group reduces everything itself: one round instead of two.
constexpr int64_t kAloneBytes = 16 << 10;
// From this size on it pays to look whether the tensors lie in shared memory.
constexpr int64_t kSharedBytes = 32 << 10;

// An empty tensor has no address.
void copy_bytes(void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}

// Calls f(at, n) for pieces of at most `room` elements; once for nothing at all, as a round still carries signatures.
template <class F>
void for_pieces(int64_t total, int64_t room, const F& f) {
  int64_t at = 0;
  do {
    f(at, std::min(room, total - at));
    at += room;
  } while (at < total);
}

}  // namespace

void ShmGroup::reduce_slots(DType dtype, Reduction r, size_t offset, void* y, int64_t n) {
  std::vector<const void*> parts;
  std::vector<double> factors;
  for (int p = 0; p < size(); p++) {
    parts.push_back(slot(p) + offset);
    factors.push_back(signature_of(p).factor);
  }
  reduce_parts(dtype, r.op, parts.data(), factors.data(), size(), &y, 1, n);
}

void ShmGroup::all_reduce(Stream& stream, View& x, Reduction r) {
  check_reduction("allReduce", x.dtype, r.op);
  const size_t each = dtype_size(x.dtype);
  start(Collective::kAllReduce, x.dtype, x.numel(), -1, {nullptr, 0}, r);
  say_where(x.data);
  if (x.numel() * int64_t(each) >= kSharedBytes) {
    std::vector<char*> parts;
    round(stream);
    round_++;
    if (find_shared(stream, parts)) {
      all_reduce_shared(x, r, parts);
      round(stream);
      round_++;
      return;
    }
  }
  const bool shared_work = size() > 2 && x.numel() * int64_t(each) > kAloneBytes;
  for_pieces(x.numel(), int64_t(options_.slot_bytes / each), [&](int64_t at, int64_t n) {
    char* const data = bytes_of(x) + size_t(at) * each;
    copy_bytes(slot(rank()), data, size_t(n) * each);
    round(stream);
    if (!shared_work) {
      reduce_slots(x.dtype, r, 0, data, n);
      round_++;
      return;
    }
    // Each rank reduces one part into the other half of its slot, and all collect the parts from there.
    const int64_t line_elements = int64_t(kLine / each);
    const int64_t part = (n / size() / line_elements + 1) * line_elements;
    const auto range = [&](int p) { return std::min(n, p * part); };
    const int64_t begin = range(rank()), end = range(rank() + 1);
    round_++;
    char* const result = slot(rank());
    round_--;
    reduce_slots(x.dtype, r, size_t(begin) * each, result, end - begin);
    round_++;
    round(stream);
    for (int p = 0; p < size(); p++) {
      copy_bytes(data + size_t(range(p)) * each, slot(p), size_t(range(p + 1) - range(p)) * each);
    }
    round_++;
  });
}

void ShmGroup::reduce(Stream& stream, View& x, Reduction r, int root) {
  check_reduction("reduce", x.dtype, r.op);
  const size_t each = dtype_size(x.dtype);
  start(Collective::kReduce, x.dtype, x.numel(), root, {nullptr, 0}, r);
  for_pieces(x.numel(), int64_t(options_.slot_bytes / each), [&](int64_t at, int64_t n) {
    char* const data = bytes_of(x) + size_t(at) * each;
    copy_bytes(slot(rank()), data, size_t(n) * each);
    round(stream);
    if (rank() == root) reduce_slots(x.dtype, r, 0, data, n);
    round_++;
  });
}

void ShmGroup::broadcast(Stream& stream, View& x, int root) {
  const size_t each = dtype_size(x.dtype);
  start(Collective::kBroadcast, x.dtype, x.numel(), root, {nullptr, 0}, {});
  for_pieces(x.numel(), int64_t(options_.slot_bytes / each), [&](int64_t at, int64_t n) {
    char* const data = bytes_of(x) + size_t(at) * each;
    if (rank() == root) copy_bytes(slot(rank()), data, size_t(n) * each);
    round(stream);
    if (rank() != root) copy_bytes(data, slot(root), size_t(n) * each);
    round_++;
  });
}

void ShmGroup::all_gather(Stream& stream, const View& x, View& y, Rest counts) {
  const Parts parts = parts_of("allGather", counts, size());
  expect_elements("allGather", "the input", x, parts.count[size_t(rank())]);
  expect_elements("allGather", "the output", y, parts.total);
  const size_t each = dtype_size(x.dtype);
  start(Collective::kAllGather, x.dtype, parts.total, -1, counts, {});
  const int64_t room = int64_t(options_.slot_bytes / each);
  for_pieces(parts.largest, room, [&](int64_t at, int64_t) {
    const int64_t mine = within(x.numel(), at, room);
    copy_bytes(slot(rank()), bytes_of(x) + size_t(at) * each, size_t(mine) * each);
    round(stream);
    for (int p = 0; p < size(); p++) {
      const size_t q = size_t(p);
      const int64_t n = within(parts.count[q], at, room);
      copy_bytes(bytes_of(y) + size_t(parts.begin[q] + at) * each, slot(p), size_t(n) * each);
    }
    round_++;
  });
}

void ShmGroup::gather(Stream& stream, const View& x, View* y, Rest counts, int root) {
  const Parts parts = parts_of("gather", counts, size());
  expect_elements("gather", "the input", x, parts.count[size_t(rank())]);
  if (rank() == root) {
    if (!y) fail(ErrorCode::Value, "gather: the root needs an output");
    expect_elements("gather", "the output", *y, parts.total);
  }
  const size_t each = dtype_size(x.dtype);
  start(Collective::kGather, x.dtype, parts.total, root, counts, {});
  const int64_t room = int64_t(options_.slot_bytes / each);
  for_pieces(parts.largest, room, [&](int64_t at, int64_t) {
    const int64_t mine = within(x.numel(), at, room);
    copy_bytes(slot(rank()), bytes_of(x) + size_t(at) * each, size_t(mine) * each);
    round(stream);
    for (int p = 0; rank() == root && p < size(); p++) {
      const size_t q = size_t(p);
      const int64_t n = within(parts.count[q], at, room);
      copy_bytes(bytes_of(*y) + size_t(parts.begin[q] + at) * each, slot(p), size_t(n) * each);
    }
    round_++;
  });
}

void ShmGroup::scatter(Stream& stream, const View* x, View& y, Rest counts, int root) {
  const Parts parts = parts_of("scatter", counts, size());
  expect_elements("scatter", "the output", y, parts.count[size_t(rank())]);
  if (rank() == root) {
    if (!x) fail(ErrorCode::Value, "scatter: the root needs an input");
    expect_elements("scatter", "the input", *x, parts.total);
  }
  const size_t each = dtype_size(y.dtype), share = options_.slot_bytes / size_t(size()) / kLine * kLine;
  start(Collective::kScatter, y.dtype, parts.total, root, counts, {});
  const int64_t room = int64_t(share / each);
  for_pieces(parts.largest, room, [&](int64_t at, int64_t) {
    for (int p = 0; rank() == root && p < size(); p++) {
      const size_t q = size_t(p);
      const int64_t n = within(parts.count[q], at, room);
      copy_bytes(slot(rank()) + q * share, bytes_of(*x) + size_t(parts.begin[q] + at) * each, size_t(n) * each);
    }
    round(stream);
    const int64_t mine = within(y.numel(), at, room);
    copy_bytes(bytes_of(y) + size_t(at) * each, slot(root) + size_t(rank()) * share, size_t(mine) * each);
    round_++;
  });
}

void ShmGroup::reduce_scatter(Stream& stream, const View& x, View& y, Rest counts, Reduction r) {
  check_reduction("reduceScatter", x.dtype, r.op);
  const Parts parts = parts_of("reduceScatter", counts, size());
  expect_elements("reduceScatter", "the input", x, parts.total);
  expect_elements("reduceScatter", "the output", y, parts.count[size_t(rank())]);
  const size_t each = dtype_size(x.dtype), share = options_.slot_bytes / size_t(size()) / kLine * kLine;
  start(Collective::kReduceScatter, x.dtype, parts.total, -1, counts, r);
  const int64_t room = int64_t(share / each);
  for_pieces(parts.largest, room, [&](int64_t at, int64_t) {
    for (int p = 0; p < size(); p++) {
      const size_t q = size_t(p);
      const int64_t n = within(parts.count[q], at, room);
      copy_bytes(slot(rank()) + q * share, bytes_of(x) + size_t(parts.begin[q] + at) * each, size_t(n) * each);
    }
    round(stream);
    reduce_slots(x.dtype, r, size_t(rank()) * share, bytes_of(y) + size_t(at) * each, within(y.numel(), at, room));
    round_++;
  });
}

// A rank that expects something else than it is sent is told so.
int64_t ShmGroup::compare_counts(Stream& stream, const Parts& out, const Parts& in) {
  copy_bytes(slot(rank()), out.count.data(), out.count.size() * sizeof(int64_t));
  round(stream);
  int64_t largest = 0;
  for (int p = 0; p < size(); p++) {
    const auto sends = reinterpret_cast<const int64_t*>(slot(p));
    for (int q = 0; q < size(); q++) largest = std::max(largest, sends[q]);
    if (sends[rank()] == in.count[size_t(p)]) continue;
    give_up("allToAll of process group " + name() + ": rank " + std::to_string(p) + " sends " +
            std::to_string(sends[rank()]) + " elements to rank " + std::to_string(rank()) + ", which expects " +
            std::to_string(in.count[size_t(p)]));
  }
  round_++;
  return largest;
}

void ShmGroup::all_to_all(Stream& stream, const View& x, View& y, Rest counts) {
  if (counts.count != 2 * size()) {
    fail(ErrorCode::Shape, "allToAll: expects two counts for each of ", size(), " ranks, got ", counts.count);
  }
  const Parts out("allToAll", counts.first, size()), in("allToAll", counts.first + size(), size());
  expect_elements("allToAll", "the input", x, out.total);
  expect_elements("allToAll", "the output", y, in.total);
  const size_t each = dtype_size(x.dtype), share = options_.slot_bytes / size_t(size()) / kLine * kLine;
  start(Collective::kAllToAll, x.dtype, out.total, -1, {nullptr, 0}, {});
  const int64_t largest = compare_counts(stream, out, in);
  const int64_t room = int64_t(share / each);
  for_pieces(largest, room, [&](int64_t at, int64_t) {
    for (size_t q = 0; q < size_t(size()); q++) {
      const int64_t n = within(out.count[q], at, room);
      copy_bytes(slot(rank()) + q * share, bytes_of(x) + size_t(out.begin[q] + at) * each, size_t(n) * each);
    }
    round(stream);
    for (int p = 0; p < size(); p++) {
      const size_t q = size_t(p);
      const int64_t n = within(in.count[q], at, room);
      copy_bytes(bytes_of(y) + size_t(in.begin[q] + at) * each, slot(p) + size_t(rank()) * share, size_t(n) * each);
    }
    round_++;
  });
}

bool ShmGroup::move_piece(const Message& m, int64_t& at) {
  const size_t each = dtype_size(m.x.dtype);
  const int64_t n = std::min(int64_t(options_.channel_bytes / each), m.x.numel() - at);
  char* const data = bytes_of(m.x) + size_t(at) * each;
  const int from = m.out ? rank() : m.peer, to = m.out ? m.peer : rank();
  Channel& way = channel(from, to);
  const uint32_t written = way.written.load(), read = way.read.load();
  if (m.out) {
    if (written - read == 2) return false;
    way.signature[written & 1] = sign_message(m);
    copy_bytes(channel_data(from, to, written), data, size_t(n) * each);
    way.written.store(written + 1);
  } else {
    if (written == read) return false;
    if (at == 0) compare_message(m.peer, way.signature[read & 1], sign_message(m));
    copy_bytes(data, channel_data(from, to, read), size_t(n) * each);
    way.read.store(read + 1);
  }
  wake_mover(m.peer);
  at += n;
  return true;
}

void ShmGroup::wake_mover(int peer) {
  RankLine& theirs = line(peer);
  theirs.moved.fetch_add(1);
  if (theirs.moved_sleepers.load()) wake_all(theirs.moved);
}

void ShmGroup::exchange(Stream& stream, const std::vector<Message>& messages) {
  begin_messages(messages);
  line(rank()).latest.store(current());
  struct State {
    const Message* message;
    int64_t at = 0;
    bool empty = true;  // a message of nothing still is one
  };
  std::vector<State> open;
  for (const Message& m : messages) open.push_back({&m});
  RankLine& mine = line(rank());
  while (!open.empty()) {
    const uint32_t seen = mine.moved.load();
    bool moved = false;
    for (size_t i = 0; i < open.size(); i++) {
      const Message& m = *open[i].message;
      const auto same_way = [&](const State& s) { return s.message->peer == m.peer && s.message->out == m.out; };
      if (std::any_of(open.begin(), open.begin() + std::ptrdiff_t(i), same_way)) continue;
      if (!move_piece(m, open[i].at)) continue;
      open[i].empty = false;
      moved = true;
    }
    std::erase_if(open, [](const State& s) { return !s.empty && s.at >= s.message->x.numel(); });
    if (moved || open.empty()) continue;
    std::vector<int> peers;
    for (const State& s : open) peers.push_back(s.message->peer);
    await(stream, peers, mine.moved, mine.moved_sleepers, [&] { return mine.moved.load() != seen; });
  }
}

// Both ranks of a message announce it in the channel that leads to the other.
void ShmGroup::agree(Stream& stream, const std::vector<Message>& messages) {
  begin_messages(messages);
  line(rank()).latest.store(current());
  std::vector<const Message*> untold, unheard;
  for (const Message& m : messages) untold.push_back(&m);
  unheard = untold;
  RankLine& mine = line(rank());
  for (;;) {
    const uint32_t seen = mine.moved.load();
    bool moved = false;
    std::vector<int> full;
    std::erase_if(untold, [&](const Message* m) {
      Channel& way = channel(rank(), m->peer);
      const uint32_t written = way.written.load();
      if (written - way.read.load() == 2) full.push_back(m->peer);
      // behind one that did not fit there is no place either
      if (std::find(full.begin(), full.end(), m->peer) != full.end()) return false;
      way.signature[written & 1] = sign_message(*m);
      way.written.store(written + 1);
      wake_mover(m->peer);
      return moved = true;
    });
    std::erase_if(unheard, [&](const Message* m) {
      Channel& way = channel(m->peer, rank());
      for (uint32_t read = way.read.load(); read != way.written.load(); way.read.store(++read)) {
        announced_.hear(m->peer, way.signature[read & 1]);
        moved = true;
      }
      if (moved) wake_mover(m->peer);
      const auto theirs = announced_.take(m->peer, !m->out);
      if (theirs) compare_message(m->peer, *theirs, sign_message(*m));
      return theirs.has_value();
    });
    if (untold.empty() && unheard.empty()) return;
    if (moved) continue;
    std::vector<int> peers;
    for (const Message* m : untold) peers.push_back(m->peer);
    for (const Message* m : unheard) peers.push_back(m->peer);
    await(stream, peers, mine.moved, mine.moved_sleepers, [&] { return mine.moved.load() != seen; });
  }
}

}  // namespace sg
