#include "tcp_connection.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "../core/error.h"

namespace sg {

namespace {

#ifdef MSG_NOSIGNAL
constexpr int kQuiet = MSG_NOSIGNAL | MSG_DONTWAIT;
#else
constexpr int kQuiet = MSG_DONTWAIT;  // SO_NOSIGPIPE is set there
#endif

msghdr message_of(const iovec* parts, int count) {
  msghdr m{};
  m.msg_iov = const_cast<iovec*>(parts);
  m.msg_iovlen = decltype(m.msg_iovlen)(count);
  return m;
}

}  // namespace

TcpConnection::TcpConnection(int descriptor) : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) {
  const int on = 1;
  if (descriptor_ < 0 || fcntl(descriptor_, F_SETFL, fcntl(descriptor_, F_GETFL) | O_NONBLOCK) != 0 ||
      setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0 ||
      setsockopt(descriptor_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) != 0) {
    const int error = errno;
    if (descriptor_ >= 0) close(descriptor_);
    fail(ErrorCode::Distributed, "process group: descriptor ", descriptor, " is no connection: ", std::strerror(error));
  }
#ifdef SO_NOSIGPIPE
  setsockopt(descriptor_, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
}

TcpConnection::TcpConnection(TcpConnection&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), why_(std::move(other.why_)), lost_(other.lost()) {}

TcpConnection& TcpConnection::operator=(TcpConnection&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(why_, other.why_);
  lost_ = other.lost_.exchange(lost_);
  return *this;
}

TcpConnection::~TcpConnection() {
  if (descriptor_ >= 0) close(descriptor_);
}

void TcpConnection::lose(std::string why) {
  if (lost()) return;
  why_ = std::move(why);
  lost_ = true;
}

size_t TcpConnection::send(const iovec* parts, int count) {
  const msghdr m = message_of(parts, count);
  const ssize_t n = sendmsg(descriptor_, &m, kQuiet);
  if (n < 0 && errno != EAGAIN && errno != EINTR) lose(std::strerror(errno));
  return n > 0 ? size_t(n) : 0;
}

size_t TcpConnection::receive(const iovec* parts, int count) {
  msghdr m = message_of(parts, count);
  const ssize_t n = recvmsg(descriptor_, &m, MSG_DONTWAIT);
  if (n == 0) lose("it closed the connection");
  if (n < 0 && errno != EAGAIN && errno != EINTR) lose(std::strerror(errno));
  return n > 0 ? size_t(n) : 0;
}

}  // namespace sg
