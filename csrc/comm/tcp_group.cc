// Joining, headers, waiting and what goes wrong in it. The collectives are in tcp_collectives.cc.
#include "tcp_group.h"

#include <cstring>
#include <optional>
#include <utility>

#include "heartbeat.h"

namespace sg {

namespace {

// How long to wait for the last words of a peer whose data connection has ended, and for the data of one whose last
// words have come: the two connections are not in step.
constexpr int64_t kGraceNs = 1'000'000'000;
constexpr int64_t kFarewellNs = 5'000'000'000;
// After this long the system of one host moves nothing more from one end of a connection to the other.
constexpr int64_t kLoopbackNs = 1'000'000'000;

}  // namespace

std::shared_ptr<TcpGroup> TcpGroup::join(GroupInfo info, const std::vector<int>& descriptors,
                                         const TcpOptions& options) {
  const int rank = info.rank, size = info.size;
  if (rank < 0 || rank >= size || descriptors.size() != 2 * size_t(size)) {
    fail(ErrorCode::Value, "process group: rank ", rank, " of ", size, " with ", descriptors.size(),
         " descriptors: expects two for each rank");
  }
  std::vector<TcpConnection> data(static_cast<size_t>(size)), control(static_cast<size_t>(size));
  for (size_t p = 0; p < size_t(size); p++) {
    if (int(p) == rank) continue;
    data[p] = TcpConnection(descriptors[2 * p]);
    control[p] = TcpConnection(descriptors[2 * p + 1]);
  }
  auto made = std::make_shared<TcpGroup>(std::move(info), std::move(data), std::move(control), options);
  made->beat();
  Heartbeat::instance().add(made);
  return made;
}

TcpGroup::TcpGroup(GroupInfo info, std::vector<TcpConnection> data, std::vector<TcpConnection> control,
                   const TcpOptions& options)
    : Group(std::move(info)),
      data_(std::move(data), rank()),
      control_(std::move(control), rank()),
      options_(options),
      headers_in_(size_t(size())),
      headers_out_(size_t(size())),
      messages_in_(size_t(size())),
      announced_(size()),
      lost_ns_(size_t(size())) {}

TcpGroup::~TcpGroup() { leave(); }

// A peer that has not taken its connection over yet cannot be told, and should not take us for dead later.
void TcpGroup::leave() {
  control_.leave();
  std::lock_guard lock(farewell_mutex_);
  if (std::exchange(left_ns_, now_ns()) > 0 || control_.silent()) return;
  farewell_ = weak_from_this().lock();  // nothing within the destructor
}

void TcpGroup::beat() {
  control_.beat();
  std::lock_guard lock(farewell_mutex_);
  if (farewell_ && (control_.silent() || now_ns() - left_ns_ > kFarewellNs)) farewell_.reset();
}

char* TcpGroup::share(size_t bytes, std::shared_ptr<void>& owner) {
  const size_t room = std::max<size_t>(bytes, 1);
  void* const pages = map_pages(room);
  if (!pages) fail(ErrorCode::OutOfMemory, "sharedZeros: the system has no room for ", bytes, " bytes");
  owner = std::shared_ptr<void>(pages, [room](void* p) { unmap_pages(p, room); });
  return static_cast<char*>(pages);
}

void TcpGroup::check_failed() {
  if (control_.failed()) raise_failure(control_.culprit(), control_.reason().c_str());
}

PeerState TcpGroup::peer_state(int peer) const {
  const TcpControl::Peer seen = control_.peer(peer);
  const bool over = seen.gone_ns > 0 && (data_.connection(peer).lost() || now_ns() - seen.gone_ns > kGraceNs);
  return {over && seen.left ? Presence::kLeft : Presence::kJoined, over && seen.ended, seen.beat, seen.last};
}

// Bytes may be under way while both ranks wait elsewhere, so a message counts as begun as soon as its sender says so.
// One that goes out may be taken by the system at any time, whatever the peer does.
bool TcpGroup::has_not_begun(int peer, int64_t said_ns) const {
  const TcpControl::Peer seen = control_.peer(peer);
  if (seen.said_ns < said_ns) return false;  // the two came on different connections
  if (current().sequence > 0) return seen.begun < current().sequence;
  return data_.receiving_from(peer) && seen.messages == messages_in_[size_t(peer)];
}

void TcpGroup::start(Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r, const Parts* to,
                     const Parts* from) {
  const Signature& s = begin(call, dtype, count, root, counts, r);
  control_.say(s);
  for_peers([&](int p) {
    const size_t q = size_t(p);
    headers_out_[q] = {kMagic, to ? to->count[q] : 0, from ? from->count[q] : 0, s};
    data_.send(p, &headers_out_[q], sizeof(Header));
    data_.receive(p, &headers_in_[q], sizeof(Header));
  });
}

void TcpGroup::check_header(int peer, Header& header) {
  if (header.magic == kMagic && sound(header.call)) return;
  give_up("process group " + name() + ": what " + who(peer) + " sends is no call; " + who(rank()) + " expects " +
              show_current(),
          peer);
}

void TcpGroup::compare_headers(Stream& stream) {
  wait_received(stream, data_.ticket());
  for_peers([&](int p) {
    Header& theirs = headers_in_[size_t(p)];
    check_header(p, theirs);
    compare(p, theirs.call);
  });
  data_.next_ticket();
}

void TcpGroup::compare_counts(const Parts& out, const Parts& in) {
  const auto disagree = [&](int from, int64_t sends, int to, int64_t expects) {
    if (sends == expects) return;
    give_up("allToAll of process group " + name() + ": " + who(from) + " sends " + std::to_string(sends) +
            " elements to " + who(to) + ", which expects " + std::to_string(expects));
  };
  const size_t me = size_t(rank());
  disagree(rank(), out.count[me], rank(), in.count[me]);
  for_peers([&](int p) {
    const size_t q = size_t(p);
    disagree(p, headers_in_[q].sends, rank(), in.count[q]);
    disagree(rank(), out.count[q], p, headers_in_[q].expects);
  });
}

void TcpGroup::agree(Stream& stream, Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r) {
  if (call == Collective::kAllToAll) {
    const Parts out("allToAll", counts.first, size()), in("allToAll", counts.first + size(), size());
    start(call, dtype, count, root, {nullptr, 0}, r, &out, &in);
    compare_headers(stream);
    compare_counts(out, in);
  } else {
    start(call, dtype, count, root, counts, r);
    compare_headers(stream);
  }
  finish(stream);
}

void TcpGroup::barrier(Stream& stream) { agree(stream, Collective::kBarrier, DType::k_uint8, 0, -1, {nullptr, 0}, {}); }

// Each of the two ranks of a message sends the other a header.
void TcpGroup::agree(Stream& stream, const std::vector<Message>& messages) {
  begin_messages(messages);
  control_.say(current());
  struct Lane {
    std::vector<const Message*> unheard;
    bool header_under_way = false;
  };
  std::vector<Lane> lanes(static_cast<size_t>(size()));
  std::vector<Header> headers(messages.size());
  for (size_t i = 0; i < messages.size(); i++) {
    const Message& m = messages[i];
    headers[i] = {kMagic, 0, 0, sign_message(m)};
    control_.count_message(m.peer);
    data_.send(m.peer, &headers[i], sizeof(Header));
    lanes[size_t(m.peer)].unheard.push_back(&m);
  }
  const auto advance = [&](int p, Lane& lane) {
    Header& header = headers_in_[size_t(p)];
    for (;;) {
      if (lane.header_under_way) {
        if (data_.receiving_from(p)) return false;
        lane.header_under_way = false;
        check_header(p, header);
        const bool message = header.call.call == Collective::kSend || header.call.call == Collective::kReceive;
        if (!message) compare_message(p, header.call, sign_message(*lane.unheard.front()));
        announced_.hear(p, header.call);
        messages_in_[size_t(p)]++;
      }
      std::erase_if(lane.unheard, [&](const Message* m) {
        const auto theirs = announced_.take(p, !m->out);
        if (theirs) compare_message(p, *theirs, sign_message(*m));
        return theirs.has_value();
      });
      if (lane.unheard.empty()) return true;
      data_.receive(p, &header, sizeof(Header));
      lane.header_under_way = true;
    }
  };
  const uint64_t last = data_.ticket();
  wait(stream, [&] {
    bool heard = true;
    for_peers([&](int p) { heard &= advance(p, lanes[size_t(p)]); });
    return heard && data_.sent(last);
  });
  data_.next_ticket();
}

void TcpGroup::wait_received(Stream& stream, uint64_t ticket) {
  wait(stream, [&] { return data_.received(ticket); });
}

void TcpGroup::finish(Stream& stream) {
  const uint64_t last = data_.ticket();
  wait(stream, [&] { return data_.received(last) && data_.sent(last); });
  data_.next_ticket();
}

void TcpGroup::wait_long(Stream& stream, bool (*done)(const void*), const void* argument) {
  Stream::Waiting mark(stream);
  std::optional<Watch> watch;
  int watched = -1;
  uint64_t moved = 0, transfers = data_.transfers();
  int64_t quiet_ns = now_ns();
  for (int64_t looked = now_ns(); !done(argument);) {
    const uint64_t look = mark.look();
    data_.move(int(Watch::kPollNs / 1'000'000));
    const int64_t now = now_ns();
    const bool quiet = data_.transfers() == transfers;
    transfers = data_.transfers();
    if (!quiet) quiet_ns = now;
    if (now - looked < Watch::kPollNs || done(argument)) continue;
    looked = now;
    control_.listen();
    int peer = rank();
    for_peers([&](int p) {
      if (peer == rank() && data_.waits_for(p)) peer = p;
    });
    if (peer == rank()) continue;
    needs(peer);
    const bool sends = data_.say_what_is_open();
    if (quiet && (!sends || now - quiet_ns > kLoopbackNs)) mark.looked_in_vain(look);
    // A peer from which bytes come is not late, however slow the link is.
    if (peer != watched || data_.moved(peer) != moved) watch.emplace(*this, peer);
    watched = peer;
    moved = data_.moved(peer);
    watch->look(stream, [&] { return done(argument); });
    look_at_lost(stream);
  }
}

// Of peers whose connection has ended the reason is in their last words, if they had time for them.
void TcpGroup::look_at_lost(Stream& stream) {
  for_peers([&](int p) {
    const TcpConnection& connection = data_.connection(p);
    if (!connection.lost() || !data_.waits_for(p)) return;
    check_failed();
    if (control_.peer(p).gone_ns > 0) Watch(*this, p).look(stream, [&] { return !data_.waits_for(p); });
    int64_t& since = lost_ns_[size_t(p)];
    if (since == 0) since = now_ns();
    if (now_ns() - since < kGraceNs) return;
    give_up("the connection to " + who(p) + " was lost (" + connection.why() + "); " + who(rank()) +
            " waits for it in " + show_current());
  });
}

}  // namespace sg
