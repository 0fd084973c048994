// TcpControl: the control connections of a group. Every 250 ms each rank says on them that it runs and what it calls;
// it says why it gives up, and that it leaves. The world's also carry what each rank waits for when it has waited long.
// A connection that ends without a farewell is a process that has ended: the system closes it. Frames are small and the
// senders never wait: a peer that takes none is one that has stopped.
#pragma once
#include <atomic>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "blocked.h"
#include "signature.h"
#include "tcp_connection.h"

namespace sg {

class TcpControl {
 public:
  // What is known of a peer.
  struct Peer {
    bool left = false, ended = false;
    uint32_t beat = 0;
    int64_t gone_ns = 0;  // when it left or ended
    Signature last{};
    // as of a time of its clock
    int64_t said_ns = 0;
    uint64_t begun = 0;     // collectives
    uint64_t messages = 0;  // to this rank
    Blocked blocked{};
  };

  // By rank; this rank's own connection is one to nobody.
  TcpControl(std::vector<TcpConnection> connections, int rank);

  // From any thread.
  void say(const Signature& last);  // what heartbeats carry from now on
  void count_message(int to);       // it has begun
  void say_blocked(const Blocked& mine);
  void beat();                            // sends a heartbeat, and listens
  void listen();                          // takes in what has come
  void abort(const std::string& reason);  // on all ranks; the first reason counts
  void leave();
  bool silent() const;  // nothing is left to send to anybody who listens
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Where and why, once it has failed.
  int culprit() const { return culprit_; }
  const std::string& reason() const { return reason_; }
  Peer peer(int rank) const;  // of its own rank only what it waits for

 private:
  enum class Kind : uint32_t { kBeat = 1, kAbort, kLeave };
  struct Frame {
    uint32_t magic;
    Kind kind;
    uint32_t text_bytes;  // of what follows: the reason, or in a heartbeat what the rank waits for, if it was said
    int64_t said_ns;
    uint64_t begun, messages;
    Signature last;
  };
  struct Line {
    TcpConnection connection;
    std::string out;        // what the system did not take yet
    std::string in;         // a frame that has not come as a whole
    bool heard = true;      // the other end is ready: it accepted, or has greeted
    uint64_t messages = 0;  // to it
    Peer peer;
  };
  void post(Kind kind, std::string_view text);
  void post_beat();
  void flush(Line&);
  void hear(int rank, Line&);
  void understand(int rank, Line&);
  void gone(Line&);
  void fail_with(int culprit, std::string reason);

  mutable std::mutex mutex_;  // guards everything but what follows
  std::vector<Line> lines_;
  Signature last_{};
  uint64_t begun_ = 0;
  const int rank_;
  bool left_ = false;
  std::atomic<bool> failed_{false};  // set after culprit_ and reason_, which then stay
  int culprit_ = -1;
  std::string reason_;
};

}  // namespace sg
