// The ranks of one host, over a shared segment. A collective is a sequence of rounds: every rank may write its slot,
// says so by counting its round up, waits until all have, and may read theirs. A slot has two halves used in turn, so
// one count per round is all the synchronisation there is: a rank that has reached round k + 1 has read round k.
//
// The first round of a collective carries each rank's signature (operation, dtype, count, reduction, root). A mismatch
// is found there, by both sides, before a byte is used.
#pragma once
#include "../core/platform.h"
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "announcements.h"
#include "group.h"
#include "parts.h"
#include "published.h"
#include "segment.h"

namespace sg {

struct ShmOptions {
  size_t slot_bytes = 256 << 10;    // half a rank's slot; a multiple of 64
  size_t channel_bytes = 32 << 10;  // half of the way from one rank to another
};

class ShmGroup final : public Group {
 public:
  // Rank 0 creates the segment, the others open it by its name afterwards.
  static std::shared_ptr<ShmGroup> join(GroupInfo info, const std::string& segment, const ShmOptions& options);
  ShmGroup(GroupInfo info, SharedSegment segment, const ShmOptions& options);
  ~ShmGroup() override;

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
  void abort(const std::string& reason) override;
  char* share(size_t bytes, std::shared_ptr<void>& owner) override;
  void seal() override { segment_.unlink(); }
  void leave() override;

  void beat() override;
  PeerState peer_state(int peer) const override;
  void check_failed() override;
  bool failed() const override { return header().failed != 0; }
  void say_blocked(const Blocked& mine) override { line(rank()).blocked.store(mine); }
  Blocked blocked(int world_rank) const override;

 private:
  bool has_not_begun(int peer, int64_t said_ns) const override;
  // Where the tensor of a collective lies in memory that every rank can map; number 0: it does not.
  struct SharedPlace {
    uint32_t number;
    uint32_t oldest;  // what this rank shared before it is gone
    int32_t process, file;
    uint64_t offset;
  };
  // `moved` counts what messages have changed in any channel of this rank, for it to sleep on.
  struct alignas(128) RankLine {
    std::atomic<uint32_t> round, sleepers, beat, presence, moved, moved_sleepers;
    Signature signature[2];
    Published<Signature> latest;  // messages, too; for what others print
    std::atomic<uint64_t> begun;  // collectives
    Published<Blocked> blocked;   // of the world alone
    SharedPlace shared[2];
  };
  struct alignas(128) Channel {
    std::atomic<uint32_t> written, read;
    Signature signature[2];
  };
  struct alignas(128) Header {
    std::atomic<uint32_t> failed;  // 1: somebody writes the reason; 2: it can be read
    int32_t culprit;
    char reason[2048];
  };
  struct Layout;

  Header& header() const;
  RankLine& line(int rank) const;
  Channel& channel(int from, int to) const;
  char* slot(int rank) const;  // of the current round
  char* channel_data(int from, int to, uint32_t piece) const;

  SharedPlace& shared_place(int rank) const { return line(rank).shared[current().sequence & 1]; }
  const Signature& signature_of(int rank) const { return line(rank).signature[current().sequence & 1]; }

  void start(Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r);
  void round(Stream& stream);  // publishes, waits for all, and compares signatures in a collective's first round
  // Until ready(), which `word` changing may bring about.
  template <class Ready>
  void await(Stream& stream, std::span<const int> peers, std::atomic<uint32_t>& word, std::atomic<uint32_t>& sleepers,
             const Ready& ready) {
    if (spin_until(stream_settings().spin_ns, ready)) return;
    sleep_until(stream, peers, word, sleepers, [](const void* r) { return (*static_cast<const Ready*>(r))(); }, &ready);
  }
  void sleep_until(Stream& stream, std::span<const int> peers, std::atomic<uint32_t>& word,
                   std::atomic<uint32_t>& sleepers, bool (*ready)(const void*), const void* argument);
  // The first round of an all-to-all, in which every rank says what it sends to whom; the most that goes anywhere.
  int64_t compare_counts(Stream& stream, const Parts& out, const Parts& in);
  // One piece of a message; false when its channel is not ready for it.
  bool move_piece(const Message& m, int64_t& at);
  void wake_mover(int peer);
  // The reduction of every rank's slot from `offset` bytes on.
  void reduce_slots(DType dtype, Reduction r, size_t offset, void* y, int64_t n);

  // x of every rank, when all of them lie in shared memory that every rank can map.
  bool find_shared(Stream& stream, std::vector<char*>& parts);
  void all_reduce_shared(const View& x, Reduction r, const std::vector<char*>& parts);
  void say_where(const void* data);

  SharedSegment segment_;
  const ShmOptions options_;
  uint32_t round_ = 1;   // the round that is being prepared
  bool signed_ = false;  // the current collective's signatures were compared
  std::atomic<bool> left_{false};
  // What this rank shares, by number: the blocks may go any time, from JavaScript's thread.
  std::mutex shared_mutex_;
  std::map<uint32_t, std::weak_ptr<SharedSegment>> shared_;
  uint32_t next_shared_ = 1;
  // What was met, by rank and number: the others' memory, null where it could not be mapped and for our own.
  std::map<std::pair<int, uint32_t>, std::unique_ptr<SharedSegment>> mapped_;
  Announcements announced_;
};

}  // namespace sg
