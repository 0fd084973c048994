#include "tcp_control.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "../core/platform.h"

namespace sg {

namespace {

constexpr uint32_t kMagic = 0x63726773;  // "sgrc"
constexpr size_t kMaxReason = 4096;
// So much may wait for a peer that does not read; no more heartbeats are added then.
constexpr size_t kMaxOut = 8192;

}  // namespace

TcpControl::TcpControl(std::vector<TcpConnection> connections, int rank) : rank_(rank) {
  for (size_t p = 0; p < connections.size(); p++) {
    lines_.emplace_back();
    lines_[p].connection = std::move(connections[p]);
    lines_[p].heard = int(p) < rank;  // see TcpExchange: who accepted speaks second
  }
}

void TcpControl::say(const Signature& last) {
  std::lock_guard lock(mutex_);
  last_ = last;
}

void TcpControl::post(Kind kind, const std::string& text) {
  const Frame frame{kMagic, kind, uint32_t(text.size()), last_};
  for (size_t p = 0; p < lines_.size(); p++) {
    Line& line = lines_[p];
    if (int(p) == rank_ || line.connection.lost() || (kind == Kind::kBeat && line.out.size() > kMaxOut)) continue;
    line.out.append(reinterpret_cast<const char*>(&frame), sizeof frame);
    line.out += text;
    flush(line);
  }
}

void TcpControl::flush(Line& line) {
  while (line.heard && !line.out.empty() && !line.connection.lost()) {
    const iovec part{line.out.data(), line.out.size()};
    const size_t n = line.connection.send(&part, 1);
    if (n == 0) return;
    line.out.erase(0, n);
  }
}

void TcpControl::beat() {
  std::lock_guard lock(mutex_);
  if (!left_) post(Kind::kBeat, "");
  for (size_t p = 0; p < lines_.size(); p++) hear(int(p), lines_[p]);
}

void TcpControl::listen() {
  std::lock_guard lock(mutex_);
  for (size_t p = 0; p < lines_.size(); p++) hear(int(p), lines_[p]);
}

void TcpControl::abort(const std::string& reason) {
  std::lock_guard lock(mutex_);
  if (failed()) return;
  fail_with(rank_, reason.substr(0, kMaxReason));
  post(Kind::kAbort, reason_);
}

void TcpControl::leave() {
  std::lock_guard lock(mutex_);
  if (std::exchange(left_, true)) return;
  for (size_t p = 0; p < lines_.size(); p++) hear(int(p), lines_[p]);
  post(Kind::kLeave, "");
}

bool TcpControl::silent() const {
  std::lock_guard lock(mutex_);
  return std::all_of(lines_.begin(), lines_.end(),
                     [](const Line& line) { return line.connection.lost() || line.out.empty(); });
}

TcpControl::Peer TcpControl::peer(int rank) const {
  std::lock_guard lock(mutex_);
  return lines_[size_t(rank)].peer;
}

void TcpControl::fail_with(int culprit, std::string reason) {
  if (failed()) return;
  culprit_ = culprit;
  reason_ = std::move(reason);
  failed_.store(true, std::memory_order_release);
}

void TcpControl::gone(Line& line) {
  if (line.peer.gone_ns == 0) line.peer.gone_ns = now_ns();
}

void TcpControl::hear(int rank, Line& line) {
  if (rank == rank_) return;
  char buffer[4096];
  while (!line.connection.lost()) {
    const iovec part{buffer, sizeof buffer};
    const size_t n = line.connection.receive(&part, 1);
    if (n == 0) break;
    line.in.append(buffer, n);
    understand(rank, line);
  }
  flush(line);
  if (!line.connection.lost()) return;
  line.peer.ended = true;
  gone(line);
}

// The frames that have come as a whole.
void TcpControl::understand(int rank, Line& line) {
  Frame frame;
  while (line.in.size() >= sizeof frame) {
    std::memcpy(&frame, line.in.data(), sizeof frame);
    if (frame.magic != kMagic || frame.text_bytes > kMaxReason || !sound(frame.last)) {
      line.connection.lose("it does not speak as a rank of this version does");
      line.in.clear();
      return;
    }
    if (line.in.size() < sizeof frame + frame.text_bytes) return;
    line.peer.last = frame.last;
    line.peer.beat++;
    line.heard = true;
    if (frame.kind == Kind::kAbort) fail_with(rank, line.in.substr(sizeof frame, frame.text_bytes));
    if (frame.kind == Kind::kLeave) {
      line.peer.left = true;
      gone(line);
    }
    line.in.erase(0, sizeof frame + frame.text_bytes);
  }
}

}  // namespace sg
