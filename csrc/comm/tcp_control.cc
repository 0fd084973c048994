#include "tcp_control.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "../core/platform.h"

namespace sg {

namespace {

constexpr uint32_t kMagic = 0x64726773;  // "sgrd"
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
  if (last.sequence > 0) begun_ = last.sequence;
}

void TcpControl::count_message(int to) {
  std::lock_guard lock(mutex_);
  lines_[size_t(to)].messages++;
}

// At once, and with every heartbeat from now on.
void TcpControl::say_blocked(const Blocked& mine) {
  std::lock_guard lock(mutex_);
  lines_[size_t(rank_)].peer.blocked = mine;
  if (!left_) post_beat();
}

void TcpControl::post_beat() {
  const Blocked& mine = lines_[size_t(rank_)].peer.blocked;
  post(Kind::kBeat, {reinterpret_cast<const char*>(&mine), mine.number > 0 ? sizeof mine : 0});
}

void TcpControl::post(Kind kind, std::string_view text) {
  Frame frame{kMagic, kind, uint32_t(text.size()), now_ns(), begun_, 0, last_};
  for (size_t p = 0; p < lines_.size(); p++) {
    Line& line = lines_[p];
    if (int(p) == rank_ || line.connection.lost() || (kind == Kind::kBeat && line.out.size() > kMaxOut)) continue;
    frame.messages = line.messages;
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
  if (!left_) post_beat();
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
    const bool beat = frame.kind == Kind::kBeat;
    const bool fits =
        beat ? frame.text_bytes == 0 || frame.text_bytes == sizeof(Blocked) : frame.text_bytes <= kMaxReason;
    if (frame.magic != kMagic || !fits || !sound(frame.last)) {
      line.connection.lose("it does not speak as a rank of this version does");
      line.in.clear();
      return;
    }
    if (line.in.size() < sizeof frame + frame.text_bytes) return;
    line.peer.last = frame.last;
    line.peer.said_ns = frame.said_ns;
    line.peer.begun = frame.begun;
    line.peer.messages = frame.messages;
    line.peer.beat++;
    line.heard = true;
    if (beat && frame.text_bytes > 0) {
      Blocked said;
      std::memcpy(&said, line.in.data() + sizeof frame, sizeof said);
      if (said.rank == rank && sound(said)) line.peer.blocked = said;
    }
    if (frame.kind == Kind::kAbort) fail_with(rank, line.in.substr(sizeof frame, frame.text_bytes));
    if (frame.kind == Kind::kLeave) {
      line.peer.left = true;
      gone(line);
    }
    line.in.erase(0, sizeof frame + frame.text_bytes);
  }
}

}  // namespace sg
