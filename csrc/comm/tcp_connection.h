// One connection that JavaScript has made and authenticated. Nothing here blocks and nothing throws: a connection that
// is lost says why, and what that means is for those who know what the peer said last.
#pragma once
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <string>

namespace sg {

class TcpConnection {
 public:
  TcpConnection() = default;               // to nobody
  explicit TcpConnection(int descriptor);  // which is copied; throws
  TcpConnection(TcpConnection&& other) noexcept;
  TcpConnection& operator=(TcpConnection&& other) noexcept;
  ~TcpConnection();

  int descriptor() const { return descriptor_; }
  // Bytes moved; 0: nothing at the moment, or the connection is lost.
  size_t send(const iovec* parts, int count);
  size_t receive(const iovec* parts, int count);
  bool lost() const { return lost_.load(std::memory_order_relaxed); }  // any thread
  const std::string& why() const { return why_; }                      // "it closed the connection"
  void lose(std::string why);

 private:
  int descriptor_ = -1;
  std::string why_;
  std::atomic<bool> lost_{false};
};

}  // namespace sg
