// The ranks of several hosts, over one data and one control connection for each pair. In every collective all ranks
// send each other a header with what they call, compare, and only then use what follows it; so a connection carries
// headers and their payloads in the order of the calls, and nothing that is not expected is ever read. Messages between
// two ranks have headers of their own on the same connection: ranks that order them differently disagree, and are told.
//
// Large reductions are split: each rank reduces one part and sends the result to those that want it, piece by piece,
// while the next piece is under way. That is the least any rank can send, and the order of the sum is that of the
// ranks.
#pragma once
#include <algorithm>
#include <memory>
#include <vector>

#include "../core/platform.h"
#include "announcements.h"
#include "group.h"
#include "parts.h"
#include "tcp_control.h"
#include "tcp_exchange.h"

namespace sg {

struct TcpOptions {
  // Up to this size a rank reduces everything itself, and a root sends everything; four times of it between two ranks,
  // which send no more that way.
  size_t alone_bytes = 32 << 10;
  size_t piece_bytes = 512 << 10;  // of a part, while it is reduced or passed on; less for many ranks
};

class TcpGroup final : public Group {
 public:
  // By rank the descriptors of the data and the control connection, which are copied; the rank's own are not looked at.
  static std::shared_ptr<TcpGroup> join(GroupInfo info, const std::vector<int>& descriptors, const TcpOptions& options);
  TcpGroup(GroupInfo info, std::vector<TcpConnection> data, std::vector<TcpConnection> control,
           const TcpOptions& options);
  ~TcpGroup() override;

  void all_reduce(Stream&, View& x, Reduction r) override;
  void reduce(Stream&, View& x, Reduction r, int root) override;
  void broadcast(Stream&, View& x, int root) override;
  void all_gather(Stream&, const View& x, View& y, Rest counts) override;
  void gather(Stream&, const View& x, View* y, Rest counts, int root) override;
  void scatter(Stream&, const View* x, View& y, Rest counts, int root) override;
  void reduce_scatter(Stream&, const View& x, View& y, Rest counts, Reduction r) override;
  void all_to_all(Stream&, const View& x, View& y, Rest counts) override;
  void exchange(Stream&, const std::vector<Message>& messages) override;
  void barrier(Stream&) override;
  void agree(Stream&, Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r) override;
  void agree(Stream&, const std::vector<Message>& messages) override;
  void abort(const std::string& reason) override { control_.abort(reason); }
  char* share(size_t bytes, std::shared_ptr<void>& owner) override;
  void seal() override {}
  void leave() override;

  void beat() override;
  PeerState peer_state(int peer) const override;
  void check_failed() override;
  bool failed() const override { return control_.failed(); }
  uint64_t transfers() const override { return data_.transfers(); }
  bool may_come(const Group& peer) const override {
    return data_.may_come(peer.rank(), static_cast<const TcpGroup&>(peer).data_, rank());
  }
  void say_blocked(const Blocked& mine) override { control_.say_blocked(mine); }
  Blocked blocked(int world_rank) const override { return control_.peer(world_rank).blocked; }
  void listen() override { control_.listen(); }
  const char* silence() const override { return "has stopped, or the link to it is cut"; }

 private:
  static constexpr uint64_t kMagic = 0x3164616568677273;  // "srghead1"
  struct Header {
    uint64_t magic;
    int64_t sends, expects;  // of allToAll: elements for the receiver, and from it
    Signature call;
  };
  bool has_not_begun(int peer, int64_t said_ns) const override;
  // Who gets the reduced parts.
  enum class Deliver { kNobody, kRoot, kEverybody };

  // Begins a collective: the headers are under way, payloads may follow.
  void start(Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r, const Parts* to = nullptr,
             const Parts* from = nullptr);
  void compare_headers(Stream& stream);                    // waits for them
  void compare_counts(const Parts& out, const Parts& in);  // of an all-to-all, behind its headers
  void finish(Stream& stream);                             // waits for all transfers
  void check_header(int peer, Header& header);
  void wait_received(Stream& stream, uint64_t ticket);
  template <class Done>
  void wait(Stream& stream, const Done& done) {
    if (done()) return;
    if (spin_until(stream_settings().spin_ns, [&] {
          data_.move(0);
          return done();
        }))
      return;
    wait_long(stream, [](const void* d) { return (*static_cast<const Done*>(d))(); }, &done);
  }
  void wait_long(Stream& stream, bool (*done)(const void*), const void* argument);
  void look_at_lost(Stream& stream);

  template <class F>
  void for_peers(const F& f) const {
    for (int p = 0; p < size(); p++) {
      if (p != rank()) f(p);
    }
  }
  // Room for n pieces of this many bytes, each on lines of its own.
  std::vector<char*> scratch(size_t n, size_t bytes);
  // y = the reduction of n elements of every rank, in rank order; `mine` is this rank's, the others' lie in `theirs`.
  void reduce_all(DType dtype, Reduction r, const char* mine, const std::vector<char*>& theirs, void* y, int64_t n);
  void reduce_alone(Stream& stream, View& x, Reduction r, int root);
  // The reduction of this rank's part goes to `mine`, null: it is only sent; the parts of others come to `all`.
  void reduce_in_parts(Stream& stream, const char* x, DType dtype, Reduction r, const Parts& parts, char* mine,
                       Deliver deliver, int root, char* all);
  void pass_on(Stream& stream, char* x, size_t each, int64_t n, int root);
  int64_t piece_elements(size_t each) const;
  bool is_small(size_t bytes) const { return bytes <= options_.alone_bytes * (size() == 2 ? 4 : 1); }

  TcpExchange data_;
  TcpControl control_;
  // Itself, from when it has left until it has told everybody.
  std::mutex farewell_mutex_;
  std::shared_ptr<Group> farewell_;
  int64_t left_ns_ = 0;
  const TcpOptions options_;
  std::vector<Header> headers_in_, headers_out_;
  std::vector<uint64_t> messages_in_;  // by rank, those that have come as a whole, but for the last exchange
  Announcements announced_;
  std::vector<int64_t> lost_ns_;  // since when a data connection is known to have ended
  std::unique_ptr<char[]> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace sg
