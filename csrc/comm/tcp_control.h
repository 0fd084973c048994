// TcpControl: the control connections of a group. Every 250 ms each rank says on them that it runs and what it calls;
// it says why it gives up, and that it leaves. A connection that ends without a farewell is a process that has ended:
// the system closes it. Frames are small and the senders never wait: a peer that takes none is one that has stopped.
#pragma once
#include <atomic>
#include <mutex>
#include <string>
#include <vector>

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
  };

  // By rank; this rank's own connection is one to nobody.
  TcpControl(std::vector<TcpConnection> connections, int rank);

  // From any thread.
  void say(const Signature& last);        // what heartbeats carry from now on
  void beat();                            // sends a heartbeat, and listens
  void listen();                          // takes in what has come
  void abort(const std::string& reason);  // on all ranks; the first reason counts
  void leave();
  bool silent() const;  // nothing is left to send to anybody who listens
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // Where and why, once it has failed.
  int culprit() const { return culprit_; }
  const std::string& reason() const { return reason_; }
  Peer peer(int rank) const;

 private:
  enum class Kind : uint32_t { kBeat = 1, kAbort, kLeave };
  struct Frame {
    uint32_t magic;
    Kind kind;
    uint32_t text_bytes;  // of the reason, which follows
    Signature last;
  };
  struct Line {
    TcpConnection connection;
    std::string out;    // what the system did not take yet
    std::string in;     // a frame that has not come as a whole
    bool heard = true;  // the other end is ready: it accepted, or has greeted
    Peer peer;
  };
  void post(Kind kind, const std::string& text);
  void flush(Line&);
  void hear(int rank, Line&);
  void understand(int rank, Line&);
  void gone(Line&);
  void fail_with(int culprit, std::string reason);

  mutable std::mutex mutex_;  // guards everything but what follows
  std::vector<Line> lines_;
  Signature last_{};
  const int rank_;
  bool left_ = false;
  std::atomic<bool> failed_{false};  // set after culprit_ and reason_, which then stay
  int culprit_ = -1;
  std::string reason_;
};

}  // namespace sg
