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
#include <vector>

#include "group.h"
#include "segment.h"

namespace sg {

struct ShmOptions {
  size_t slot_bytes = 256 << 10;    // half a rank's slot; a multiple of 64
  size_t channel_bytes = 32 << 10;  // half of the way from one rank to another
  int64_t timeout_ns = 600'000'000'000;
};

class ShmGroup final : public Group {
 public:
  // Rank 0 creates the segment, the others open it by its name afterwards.
  static std::shared_ptr<ShmGroup> join(const std::string& group, const std::string& segment, int rank, int size,
                                        const ShmOptions& options);
  ShmGroup(std::string group, SharedSegment segment, int rank, int size, const ShmOptions& options);
  ~ShmGroup() override;

  void all_reduce(Stream&, View& x, Reduction r) override;
  void reduce(Stream&, View& x, Reduction r, int root) override;
  void broadcast(Stream&, View& x, int root) override;
  void all_gather(Stream&, const View& x, View& y, Rest counts) override;
  void gather(Stream&, const View& x, View* y, Rest counts, int root) override;
  void scatter(Stream&, const View* x, View& y, Rest counts, int root) override;
  void reduce_scatter(Stream&, const View& x, View& y, Rest counts, Reduction r) override;
  void all_to_all(Stream&, const View& x, View& y, Rest counts) override;
  void send(Stream&, const View& x, int to) override;
  void receive(Stream&, View& x, int from) override;
  void barrier(Stream&) override;
  void abort(const std::string& reason) override;
  char* share(size_t bytes, std::shared_ptr<void>& owner) override;
  void seal() override { segment_.unlink(); }
  void leave() override;

  void beat();  // called by the heartbeat thread

 private:
  enum class Call : int32_t {
    kNone,
    kAllReduce,
    kReduce,
    kBroadcast,
    kAllGather,
    kGather,
    kScatter,
    kReduceScatter,
    kAllToAll,
    kSend,
    kReceive,
    kBarrier
  };
  // What a rank calls, for the others to compare.
  struct Signature {
    uint64_t sequence;
    Call call;
    DType dtype;
    RankReduce reduce;
    int32_t root;  // -1: none
    int64_t count;
    uint64_t counts_hash;  // of the counts per rank
    double factor;
    // Where the tensor lies in memory that every rank can map; number 0: it does not.
    uint32_t shared_number;
    uint32_t oldest_shared;  // what this rank shared before it is gone
    int32_t process, file;
    uint64_t shared_offset;
  };
  enum class Presence : uint32_t { kExpected, kJoined, kLeft };
  struct alignas(128) RankLine {
    std::atomic<uint32_t> round, sleepers, beat, presence;
    Signature signature[2];
  };
  struct alignas(128) Channel {
    std::atomic<uint32_t> written, read, sleepers;
    Signature signature[2];
  };
  struct alignas(128) Header {
    std::atomic<uint32_t> failed;  // 1: somebody writes the reason; 2: it can be read
    int32_t culprit;
    char reason[1024];
  };
  struct Layout;
  struct Patience;

  Header& header() const;
  RankLine& line(int rank) const;
  Channel& channel(int from, int to) const;
  char* slot(int rank) const;  // of the current round
  char* channel_data(int from, int to, uint32_t piece) const;

  Signature sign(Call call, DType dtype, int64_t count, int root, Rest counts, Reduction r);
  void begin(Call call, DType dtype, int64_t count, int root, Rest counts, Reduction r);
  void round(Stream& stream);  // publishes, waits for all, and checks the signatures in a collective's first round
  void check_signatures();
  std::string show(const Signature& s) const;
  std::string show_call(const Signature& s) const;
  // Until ready(), which `word` changing may bring about.
  template <class Ready>
  void await(Stream& stream, int peer, std::atomic<uint32_t>& word, std::atomic<uint32_t>& sleepers,
             const Ready& ready) {
    if (spin_until(stream_settings().spin_ns, ready)) return;
    sleep_until(stream, peer, word, sleepers, [](const void* r) { return (*static_cast<const Ready*>(r))(); }, &ready);
  }
  void sleep_until(Stream& stream, int peer, std::atomic<uint32_t>& word, std::atomic<uint32_t>& sleepers,
                   bool (*ready)(const void*), const void* argument);
  void check_peer(Stream& stream, int peer, Patience& patience);
  [[noreturn]] void give_up(const std::string& reason);
  [[noreturn]] void raise_failure();
  // The reduction of every rank's slot from `offset` bytes on.
  void reduce_slots(DType dtype, Reduction r, size_t offset, void* y, int64_t n);

  // x of every rank, when all of them lie in shared memory that every rank can map.
  bool find_shared(Stream& stream, std::vector<char*>& parts);
  void all_reduce_shared(const View& x, Reduction r, const std::vector<char*>& parts);
  void say_where(const void* data);

  SharedSegment segment_;
  const ShmOptions options_;
  uint32_t round_ = 1;  // the round that is being prepared
  uint64_t sequence_ = 0;
  Signature current_{};  // what this rank is doing, for messages
  bool signed_ = false;  // the current collective's signatures were compared
  std::atomic<bool> left_{false};
  // What this rank shares, by number: the blocks may go any time, from JavaScript's thread.
  std::mutex shared_mutex_;
  std::map<uint32_t, std::weak_ptr<SharedSegment>> shared_;
  uint32_t next_shared_ = 1;
  // What was met, by rank and number: the others' memory, null where it could not be mapped and for our own.
  std::map<std::pair<int, uint32_t>, std::unique_ptr<SharedSegment>> mapped_;
};

}  // namespace sg
