// The collectives as transfers between pairs of ranks. Tensors are sent from and received into where they lie, except
// what is still to be reduced.
#include <cstring>
#include <new>

#include "rank_reduce.h"
#include "tcp_group.h"

namespace sg {

namespace {

constexpr size_t kLine = 64;
// Of all pieces that wait to be reduced.
constexpr size_t kScratchBytes = 16 << 20;
constexpr size_t kLeastPiece = 16 << 10;

void copy(char* to, const char* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace

std::vector<char*> TcpGroup::scratch(size_t n, size_t bytes) {
  const size_t each = (bytes + kLine - 1) / kLine * kLine, all = n * each + kLine;
  if (all > scratch_bytes_) {
    scratch_.reset(new (std::nothrow) char[all]);
    scratch_bytes_ = scratch_ ? all : 0;
    if (!scratch_) give_up(who(rank()) + " has no memory for " + show_current());
  }
  const size_t past = reinterpret_cast<uintptr_t>(scratch_.get()) % kLine;
  std::vector<char*> pieces;
  for (size_t i = 0; i < n; i++) pieces.push_back(scratch_.get() + (kLine - past) + i * each);
  return pieces;
}

int64_t TcpGroup::piece_elements(size_t each) const {
  const size_t share = std::max(kLeastPiece, kScratchBytes / 2 / size_t(size()));
  return int64_t(std::max<size_t>(1, std::min(options_.piece_bytes, share) / each));
}

void TcpGroup::reduce_all(DType dtype, Reduction r, const char* mine, const std::vector<char*>& theirs, void* y,
                          int64_t n) {
  std::vector<const void*> parts(theirs.begin(), theirs.end());
  std::vector<double> factors;
  for (const Header& header : headers_in_) factors.push_back(header.call.factor);
  parts[size_t(rank())] = mine;
  factors[size_t(rank())] = r.factor;
  reduce_parts(dtype, r.op, parts.data(), factors.data(), size(), &y, 1, n);
}

// Everything goes to the ranks that want the result (root -1: all), which reduce it themselves.
void TcpGroup::reduce_alone(Stream& stream, View& x, Reduction r, int root) {
  const size_t bytes = size_t(x.numel()) * dtype_size(x.dtype);
  const bool wanted = root < 0 || root == rank();
  for_peers([&](int p) {
    if (root < 0 || p == root) data_.send(p, x.data, bytes);
  });
  compare_headers(stream);
  const std::vector<char*> theirs = wanted ? scratch(size_t(size()), bytes) : std::vector<char*>();
  for_peers([&](int p) {
    if (wanted) data_.receive(p, theirs[size_t(p)], bytes);
  });
  finish(stream);
  if (wanted) reduce_all(x.dtype, r, bytes_of(x), theirs, x.data, x.numel());
}

void TcpGroup::reduce_in_parts(Stream& stream, const char* x, DType dtype, Reduction r, const Parts& parts, char* mine,
                               Deliver deliver, int root, char* all) {
  const size_t each = dtype_size(dtype), me = size_t(rank()), ranks = size_t(size());
  const int64_t room = piece_elements(each), steps = (parts.largest + room - 1) / room;
  const auto bytes_at = [&](size_t part, int64_t step) {
    return size_t(within(parts.count[part], step * room, room)) * each;
  };
  const auto offset = [&](size_t part, int64_t step) { return size_t(parts.begin[part] + step * room) * each; };
  // Two pieces of every rank under way, and two results of our own that are only passed on.
  const std::vector<char*> memory = scratch(2 * ranks + 2, size_t(room) * each);
  const auto send_raw = [&](int64_t step) {
    for_peers([&](int p) { data_.send(p, x + offset(size_t(p), step), bytes_at(size_t(p), step)); });
  };
  const auto receive_raw = [&](int64_t step) {
    const uint64_t ticket = data_.next_ticket();
    for_peers([&](int p) { data_.receive(p, memory[size_t(step & 1) * ranks + size_t(p)], bytes_at(me, step)); });
    return ticket;
  };
  if (steps > 0) send_raw(0);
  compare_headers(stream);
  uint64_t raw = steps > 0 ? receive_raw(0) : 0, passed_on[2] = {0, 0};
  for (int64_t step = 0; step < steps; step++) {
    const uint64_t arrived = raw;
    if (step + 1 < steps) {
      send_raw(step + 1);
      raw = receive_raw(step + 1);
    }
    wait_received(stream, arrived);
    const size_t bytes = bytes_at(me, step), turn = size_t(step & 1);
    char* result = mine ? mine + size_t(step * room) * each : memory[2 * ranks + turn];
    if (!mine) wait(stream, [&] { return data_.sent(passed_on[turn]); });
    const auto first = memory.begin() + std::ptrdiff_t(turn * ranks);
    reduce_all(dtype, r, x + offset(me, step), {first, first + std::ptrdiff_t(ranks)}, result, int64_t(bytes / each));
    passed_on[turn] = data_.next_ticket();
    for_peers([&](int p) {
      const bool theirs = deliver == Deliver::kEverybody || (deliver == Deliver::kRoot && p == root);
      const bool ours = deliver == Deliver::kEverybody || (deliver == Deliver::kRoot && rank() == root);
      if (theirs) data_.send(p, result, bytes);
      if (ours) data_.receive(p, all + offset(size_t(p), step), bytes_at(size_t(p), step));
    });
  }
  finish(stream);
}

void TcpGroup::all_reduce(Stream& stream, View& x, Reduction r) {
  check_reduction("allReduce", x.dtype, r.op);
  const size_t each = dtype_size(x.dtype);
  start(Collective::kAllReduce, x.dtype, x.numel(), -1, {nullptr, 0}, r);
  if (is_small(size_t(x.numel()) * each)) return reduce_alone(stream, x, r, -1);
  const Parts parts(x.numel(), size(), int64_t(kLine / each));
  char* const mine = bytes_of(x) + size_t(parts.begin[size_t(rank())]) * each;
  reduce_in_parts(stream, bytes_of(x), x.dtype, r, parts, mine, Deliver::kEverybody, -1, bytes_of(x));
}

void TcpGroup::reduce(Stream& stream, View& x, Reduction r, int root) {
  check_reduction("reduce", x.dtype, r.op);
  const size_t each = dtype_size(x.dtype);
  start(Collective::kReduce, x.dtype, x.numel(), root, {nullptr, 0}, r);
  if (is_small(size_t(x.numel()) * each)) return reduce_alone(stream, x, r, root);
  const Parts parts(x.numel(), size(), int64_t(kLine / each));
  char* const mine = rank() == root ? bytes_of(x) + size_t(parts.begin[size_t(rank())]) * each : nullptr;
  reduce_in_parts(stream, bytes_of(x), x.dtype, r, parts, mine, Deliver::kRoot, root, bytes_of(x));
}

void TcpGroup::reduce_scatter(Stream& stream, const View& x, View& y, Rest counts, Reduction r) {
  check_reduction("reduceScatter", x.dtype, r.op);
  const Parts parts = parts_of("reduceScatter", counts, size());
  expect_elements("reduceScatter", "the input", x, parts.total);
  expect_elements("reduceScatter", "the output", y, parts.count[size_t(rank())]);
  start(Collective::kReduceScatter, x.dtype, parts.total, -1, counts, r);
  reduce_in_parts(stream, bytes_of(x), x.dtype, r, parts, bytes_of(y), Deliver::kNobody, -1, nullptr);
}

// The root sends each of the others one part, and they pass it on: nobody sends more than the whole.
void TcpGroup::pass_on(Stream& stream, char* x, size_t each, int64_t n, int root) {
  const int others = size() - 1;
  const Parts parts(n, others, int64_t(kLine / each));
  const auto part_of = [&](int p) { return size_t(p < root ? p : p - 1); };
  const int64_t room = piece_elements(each), steps = (parts.largest + room - 1) / room;
  const auto bytes_at = [&](int p, int64_t step) {
    return size_t(within(parts.count[part_of(p)], step * room, room)) * each;
  };
  const auto piece = [&](int p, int64_t step) { return x + size_t(parts.begin[part_of(p)] + step * room) * each; };
  if (rank() == root) {
    for (int64_t step = 0; step < steps; step++) {
      for_peers([&](int p) { data_.send(p, piece(p, step), bytes_at(p, step)); });
    }
    compare_headers(stream);
    return finish(stream);
  }
  compare_headers(stream);
  std::vector<uint64_t> arrived;
  for (int64_t step = 0; step < steps; step++) {
    arrived.push_back(data_.next_ticket());
    data_.receive(root, piece(rank(), step), bytes_at(rank(), step));
  }
  data_.next_ticket();
  for_peers([&](int p) {
    if (p != root) data_.receive(p, piece(p, 0), size_t(parts.count[part_of(p)]) * each);
  });
  for (int64_t step = 0; step < steps; step++) {
    wait_received(stream, arrived[size_t(step)]);
    for_peers([&](int p) {
      if (p != root) data_.send(p, piece(rank(), step), bytes_at(rank(), step));
    });
  }
  finish(stream);
}

void TcpGroup::broadcast(Stream& stream, View& x, int root) {
  const size_t each = dtype_size(x.dtype), bytes = size_t(x.numel()) * each;
  start(Collective::kBroadcast, x.dtype, x.numel(), root, {nullptr, 0}, {});
  if (size() > 2 && !is_small(bytes)) return pass_on(stream, bytes_of(x), each, x.numel(), root);
  for_peers([&](int p) {
    if (rank() == root) data_.send(p, x.data, bytes);
  });
  compare_headers(stream);
  if (rank() != root) data_.receive(root, x.data, bytes);
  finish(stream);
}

void TcpGroup::all_gather(Stream& stream, const View& x, View& y, Rest counts) {
  const Parts parts = parts_of("allGather", counts, size());
  expect_elements("allGather", "the input", x, parts.count[size_t(rank())]);
  expect_elements("allGather", "the output", y, parts.total);
  const size_t each = dtype_size(x.dtype), bytes = size_t(x.numel()) * each;
  start(Collective::kAllGather, x.dtype, parts.total, -1, counts, {});
  for_peers([&](int p) { data_.send(p, x.data, bytes); });
  copy(bytes_of(y) + size_t(parts.begin[size_t(rank())]) * each, bytes_of(x), bytes);
  compare_headers(stream);
  for_peers([&](int p) {
    const size_t q = size_t(p);
    data_.receive(p, bytes_of(y) + size_t(parts.begin[q]) * each, size_t(parts.count[q]) * each);
  });
  finish(stream);
}

void TcpGroup::gather(Stream& stream, const View& x, View* y, Rest counts, int root) {
  const Parts parts = parts_of("gather", counts, size());
  expect_elements("gather", "the input", x, parts.count[size_t(rank())]);
  if (rank() == root) {
    if (!y) fail(ErrorCode::Value, "gather: the root needs an output");
    expect_elements("gather", "the output", *y, parts.total);
  }
  const size_t each = dtype_size(x.dtype), bytes = size_t(x.numel()) * each;
  start(Collective::kGather, x.dtype, parts.total, root, counts, {});
  if (rank() != root) data_.send(root, x.data, bytes);
  compare_headers(stream);
  if (rank() == root) {
    for_peers([&](int p) {
      const size_t q = size_t(p);
      data_.receive(p, bytes_of(*y) + size_t(parts.begin[q]) * each, size_t(parts.count[q]) * each);
    });
    copy(bytes_of(*y) + size_t(parts.begin[size_t(rank())]) * each, bytes_of(x), bytes);
  }
  finish(stream);
}

void TcpGroup::scatter(Stream& stream, const View* x, View& y, Rest counts, int root) {
  const Parts parts = parts_of("scatter", counts, size());
  expect_elements("scatter", "the output", y, parts.count[size_t(rank())]);
  if (rank() == root) {
    if (!x) fail(ErrorCode::Value, "scatter: the root needs an input");
    expect_elements("scatter", "the input", *x, parts.total);
  }
  const size_t each = dtype_size(y.dtype), bytes = size_t(y.numel()) * each;
  const auto part = [&](int p) { return bytes_of(*x) + size_t(parts.begin[size_t(p)]) * each; };
  start(Collective::kScatter, y.dtype, parts.total, root, counts, {});
  if (rank() == root) {
    for_peers([&](int p) { data_.send(p, part(p), size_t(parts.count[size_t(p)]) * each); });
    copy(bytes_of(y), part(root), bytes);
  }
  compare_headers(stream);
  if (rank() != root) data_.receive(root, y.data, bytes);
  finish(stream);
}

void TcpGroup::all_to_all(Stream& stream, const View& x, View& y, Rest counts) {
  if (counts.count != 2 * size()) {
    fail(ErrorCode::Shape, "allToAll: expects two counts for each of ", size(), " ranks, got ", counts.count);
  }
  const Parts out("allToAll", counts.first, size()), in("allToAll", counts.first + size(), size());
  expect_elements("allToAll", "the input", x, out.total);
  expect_elements("allToAll", "the output", y, in.total);
  const size_t each = dtype_size(x.dtype), me = size_t(rank());
  start(Collective::kAllToAll, x.dtype, out.total, -1, {nullptr, 0}, {}, &out, &in);
  for_peers([&](int p) {
    const size_t q = size_t(p);
    data_.send(p, bytes_of(x) + size_t(out.begin[q]) * each, size_t(out.count[q]) * each);
  });
  compare_headers(stream);
  compare_counts(out, in);
  copy(bytes_of(y) + size_t(in.begin[me]) * each, bytes_of(x) + size_t(out.begin[me]) * each,
       size_t(out.count[me]) * each);
  for_peers([&](int p) {
    const size_t q = size_t(p);
    data_.receive(p, bytes_of(y) + size_t(in.begin[q]) * each, size_t(in.count[q]) * each);
  });
  finish(stream);
}

// Messages of different peers do not wait for each other: a peer may need what we receive from another one first.
void TcpGroup::exchange(Stream& stream, const std::vector<Message>& messages) {
  begin_messages(messages);
  control_.say(current());
  struct Incoming {
    std::vector<const Message*> messages;
    size_t next = 0;
    bool header_under_way = false;
  };
  std::vector<Incoming> from(static_cast<size_t>(size()));
  std::vector<Header> headers(messages.size());
  for (size_t i = 0; i < messages.size(); i++) {
    const Message& m = messages[i];
    if (!m.out) {
      from[size_t(m.peer)].messages.push_back(&m);
      continue;
    }
    headers[i] = {kMagic, 0, 0, sign_message(m)};
    control_.count_message(m.peer);
    data_.send(m.peer, &headers[i], sizeof(Header));
    data_.send(m.peer, m.x.data, size_t(m.x.numel()) * dtype_size(m.x.dtype));
  }
  const auto advance = [&](int p, Incoming& in) {
    while (!data_.receiving_from(p)) {
      if (!in.header_under_way) {
        if (in.next == in.messages.size()) return;
        data_.receive(p, &headers_in_[size_t(p)], sizeof(Header));
        in.header_under_way = true;
        continue;
      }
      const Message& m = *in.messages[in.next++];
      check_header(p, headers_in_[size_t(p)]);
      compare_message(p, headers_in_[size_t(p)].call, sign_message(m));
      data_.receive(p, m.x.data, size_t(m.x.numel()) * dtype_size(m.x.dtype));
      in.header_under_way = false;
    }
  };
  const uint64_t last = data_.ticket();
  wait(stream, [&] {
    for_peers([&](int p) { advance(p, from[size_t(p)]); });
    return data_.received(last) && data_.sent(last);
  });
  for_peers([&](int p) { messages_in_[size_t(p)] += from[size_t(p)].messages.size(); });
  data_.next_ticket();
}

}  // namespace sg
