// TcpExchange: the data connections of a group, and what is still to go out and to come in on each, in order. Bytes
// move in both directions on all of them at once, straight from and into the memory given here, whenever somebody calls
// `move`. Only small pieces pass a buffer: it takes what comes right behind a header in the same system call.
//
// Of a pair the lower rank, which accepted the connection, says nothing before it has heard the other: only then has
// JavaScript let go of the other end.
#pragma once
#include <poll.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "tcp_connection.h"

namespace sg {

class TcpExchange {
 public:
  // By rank; this rank's own connection is one to nobody.
  TcpExchange(std::vector<TcpConnection> connections, int rank);

  // The memory must stay until the transfer is done. Transfers carry the current ticket.
  void send(int peer, const void* data, size_t bytes);
  void receive(int peer, void* data, size_t bytes);
  uint64_t ticket() const { return ticket_; }
  uint64_t next_ticket() { return ++ticket_; }

  // Moves what can be moved, and waits for more at most so long if nothing could.
  void move(int timeout_ms);
  // Whether everything up to a ticket has come in, has gone out.
  bool received(uint64_t ticket) const;
  bool sent(uint64_t ticket) const;
  bool waits_for(int peer) const { return !lanes_[size_t(peer)].in.empty() || !lanes_[size_t(peer)].out.empty(); }
  bool receiving_from(int peer) const { return !lanes_[size_t(peer)].in.empty(); }
  uint64_t moved(int peer) const { return lanes_[size_t(peer)].moved; }  // bytes, both ways
  // For find_standstill(). Whether something is still to go out; what is still to come in is known from now on.
  bool say_what_is_open();
  // ---- any thread
  uint64_t transfers() const { return transfers_; }  // tried so far
  // Whether bytes of `peer`, which has `theirs` in this process, are under way to this rank, which wants them.
  bool may_come(int peer, const TcpExchange& theirs, int rank) const {
    const Lane &to = lanes_[size_t(peer)], &from = theirs.lanes_[size_t(rank)];
    return to.open && from.bytes_out != to.bytes_in;
  }
  const TcpConnection& connection(int peer) const { return lanes_[size_t(peer)].connection; }

 private:
  // Transfers in order; taken off at the front without moving the rest.
  template <class Byte>
  struct Queue {
    struct Item {
      Byte* data;
      size_t bytes;
      uint64_t ticket;
    };
    std::vector<Item> items;
    size_t first = 0;
    bool empty() const { return first == items.size(); }
    Item& front() { return items[first]; }
    const Item& front() const { return items[first]; }
    void push(Item item) { items.push_back(item); }
    void advance(size_t bytes);  // that much of the transfers is done; empty ones at the front are
  };
  struct Lane {
    TcpConnection connection;
    Queue<const char> out;
    Queue<char> in;
    std::unique_ptr<char[]> inbox;
    size_t inbox_begin = 0, inbox_end = 0;
    uint64_t greeting = 0, moved = 0;
    std::atomic<uint64_t> bytes_out{0}, bytes_in{0};
    std::atomic<bool> open{false};  // `in` was not empty when that was said
    bool mute = false;              // may not speak yet
    bool blocked = false;           // the system takes no more at the moment
  };
  void push_out(Lane&);
  void pull_in(Lane&);
  void drain(Lane&);
  void take(Lane&, size_t bytes);

  std::vector<Lane> lanes_;
  std::vector<pollfd> polled_;
  uint64_t ticket_ = 1;
  std::atomic<uint64_t> transfers_{0};
};

}  // namespace sg
