#include "tcp_exchange.h"

#include <algorithm>
#include <cstring>

namespace sg {

namespace {

constexpr uint64_t kGreeting = 0x3174616461647267;  // "grdadat1"
constexpr size_t kInbox = 16 << 10;
constexpr int kParts = 8;
// One lane's turn: no peer waits long for another, and the caches still hold what was moved.
constexpr size_t kTurn = 512 << 10;

}  // namespace

template <class Byte>
void TcpExchange::Queue<Byte>::advance(size_t bytes) {
  while (!empty() && (bytes > 0 || front().bytes == 0)) {
    const size_t n = std::min(bytes, front().bytes);
    front().data += n;
    front().bytes -= n;
    bytes -= n;
    if (front().bytes == 0) first++;
  }
  if (!empty()) return;
  items.clear();
  first = 0;
}

TcpExchange::TcpExchange(std::vector<TcpConnection> connections, int rank) : lanes_(connections.size()) {
  for (size_t p = 0; p < connections.size(); p++) {
    Lane& lane = lanes_[p];
    lane.connection = std::move(connections[p]);
    if (int(p) == rank) continue;
    lane.inbox = std::make_unique_for_overwrite<char[]>(kInbox);
    lane.mute = int(p) > rank;
    if (lane.mute) {
      lane.in.push({reinterpret_cast<char*>(&lane.greeting), sizeof kGreeting, 0});
    } else {
      lane.greeting = kGreeting;
      lane.out.push({reinterpret_cast<const char*>(&lane.greeting), sizeof kGreeting, 0});
      push_out(lane);
    }
  }
  polled_.resize(lanes_.size());
}

void TcpExchange::send(int peer, const void* data, size_t bytes) {
  Lane& lane = lanes_[size_t(peer)];
  lane.out.push({static_cast<const char*>(data), bytes, ticket_});
  lane.out.advance(0);
}

void TcpExchange::receive(int peer, void* data, size_t bytes) {
  Lane& lane = lanes_[size_t(peer)];
  lane.in.push({static_cast<char*>(data), bytes, ticket_});
  lane.in.advance(0);
  drain(lane);
}

bool TcpExchange::received(uint64_t ticket) const {
  return std::all_of(lanes_.begin(), lanes_.end(),
                     [=](const Lane& lane) { return lane.in.empty() || lane.in.front().ticket > ticket; });
}

bool TcpExchange::sent(uint64_t ticket) const {
  return std::all_of(lanes_.begin(), lanes_.end(),
                     [=](const Lane& lane) { return lane.out.empty() || lane.out.front().ticket > ticket; });
}

bool TcpExchange::say_what_is_open() {
  bool sends = false;
  for (Lane& lane : lanes_) {
    lane.open = !lane.in.empty();
    sends |= !lane.out.empty();
  }
  return sends;
}

// `bytes` more of what was expected have come.
void TcpExchange::take(Lane& lane, size_t bytes) {
  lane.in.advance(bytes);
  if (!lane.mute || (!lane.in.empty() && lane.in.front().ticket == 0)) return;
  if (lane.greeting != kGreeting) lane.connection.lose("it does not speak as a rank of this version does");
  lane.mute = false;
}

// What lies in the inbox goes where it belongs.
void TcpExchange::drain(Lane& lane) {
  while (!lane.in.empty() && lane.inbox_begin < lane.inbox_end) {
    const size_t n = std::min(lane.in.front().bytes, lane.inbox_end - lane.inbox_begin);
    std::memcpy(lane.in.front().data, lane.inbox.get() + lane.inbox_begin, n);
    lane.inbox_begin += n;
    take(lane, n);
  }
}

void TcpExchange::push_out(Lane& lane) {
  for (size_t turn = 0; turn < kTurn && !lane.out.empty() && !lane.mute && !lane.connection.lost();) {
    iovec parts[kParts];
    int count = 0;
    size_t bytes = 0;
    for (size_t i = lane.out.first; i < lane.out.items.size() && count < kParts && bytes < kTurn; i++) {
      const auto& item = lane.out.items[i];
      const size_t n = std::min(item.bytes, kTurn - bytes);
      parts[count++] = {const_cast<char*>(item.data), n};
      bytes += n;
    }
    transfers_++;
    const size_t n = lane.connection.send(parts, count);
    lane.bytes_out += n;
    lane.out.advance(n);
    lane.moved += n;
    turn += n;
    if (n == bytes) continue;
    lane.blocked = true;
    return;
  }
}

void TcpExchange::pull_in(Lane& lane) {
  for (size_t turn = 0; turn < kTurn && !lane.in.empty() && !lane.connection.lost();) {
    const size_t wanted = std::min(lane.in.front().bytes, kTurn);
    const iovec parts[] = {{lane.in.front().data, wanted}, {lane.inbox.get(), kInbox}};
    // the inbox is for what follows the transfer, not for the rest of a large one
    const bool more = wanted == lane.in.front().bytes;
    transfers_++;
    const size_t n = lane.connection.receive(parts, more ? 2 : 1);
    lane.bytes_in += n;
    lane.moved += n;
    turn += n;
    if (n > wanted) {
      lane.inbox_begin = 0;
      lane.inbox_end = n - wanted;
    }
    take(lane, std::min(n, wanted));
    drain(lane);
    if (n < wanted) return;
  }
}

void TcpExchange::move(int timeout_ms) {
  for (size_t p = 0; p < lanes_.size(); p++) {
    Lane& lane = lanes_[p];
    if (!lane.blocked) push_out(lane);
    const bool idle = lane.connection.lost() || (lane.in.empty() && lane.out.empty());
    if (!idle && !lane.out.empty() && !lane.mute && !lane.blocked) timeout_ms = 0;
    polled_[p] = {idle ? -1 : lane.connection.descriptor(),
                  short((lane.in.empty() ? 0 : POLLIN) | (lane.blocked && !lane.mute ? POLLOUT : 0)), 0};
  }
  // Even without a connection to wait for: a loop around this must not spin.
  if (poll(polled_.data(), nfds_t(polled_.size()), timeout_ms) <= 0) return;
  for (size_t p = 0; p < lanes_.size(); p++) {
    Lane& lane = lanes_[p];
    const short seen = polled_[p].revents;
    if (seen & (POLLOUT | POLLERR | POLLHUP)) {
      lane.blocked = false;
      push_out(lane);
    }
    if (seen & (POLLIN | POLLERR | POLLHUP)) pull_in(lane);
  }
}

}  // namespace sg
