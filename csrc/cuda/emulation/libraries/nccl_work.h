// What emulated communicators do in streams: collectives and exchanges of messages, as work that is asked again and
// again whether it can go on, and never waits. So the streams of all ranks of a process advance on whichever thread
// looks.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "../../nccl.h"
#include "nccl_segment.h"

namespace sg::emulated_nccl {

enum class State { kJoining, kReady };

// A handle's own side. The error has a lock; what works in streams touches, the runtime's lock guards.
struct Communicator {
  ~Communicator();
  std::string name;
  Segment* segment = nullptr;
  int rank = 0, ranks = 0;
  bool blocking = true;
  State state = State::kJoining;
  double joining_since = 0;
  uint64_t splits = 0;
  struct Split {
    int color, key;
    nccl::Comm* made;
    bool blocking;
    bool under_way = false;
  } split;
  std::vector<std::pair<nccl::Type, double>> factors;  // operations that were made
  // ---- in streams
  uint64_t round = 0, collectives = 0, done = 0;
  std::atomic<uint64_t> enqueued{0}, finished{0};

  RankLine& line() { return segment->lines[rank]; }
  nccl::Result error();
  std::string error_text();
  nccl::Result fail(nccl::Result result, std::string text);  // the first one stays

 private:
  std::mutex mutex_;
  nccl::Result error_ = nccl::kSuccess;
  std::string text_;
};
using Handle = std::shared_ptr<Communicator>;

class Work {
 public:
  explicit Work(Handle communicator) : comm_(std::move(communicator)) {}
  virtual ~Work() = default;
  const Handle& communicator() const { return comm_; }
  virtual void begin() = 0;
  bool advance();  // true: it is over, one way or another

 protected:
  virtual bool progress() = 0;
  bool touch(const void* p, size_t bytes, bool writes) const;
  bool fail(nccl::Result result, std::string text) {
    comm_->fail(result, std::move(text));
    return true;
  }
  const Handle comm_;

 private:
  double since_ = 0;
};

enum class Kind : int32_t { kAllReduce, kReduce, kBroadcast, kAllGather, kReduceScatter, kGather, kScatter };

class CollectiveWork final : public Work {
 public:
  CollectiveWork(Handle communicator, Call call, const void* in, void* out)
      : Work(std::move(communicator)), call_(call), in_(static_cast<const char*>(in)), out_(static_cast<char*>(out)) {}
  void begin() override;

 private:
  bool progress() override;
  Kind kind() const { return Kind(call_.kind); }
  bool reads() const, writes() const;
  bool in_parts() const { return kind() == Kind::kReduceScatter || kind() == Kind::kScatter; }
  size_t room() const;  // elements that a rank's part of a slot takes
  void write_slot();
  void read_slots();
  bool compare();
  char* slot(int rank, uint64_t round) const { return comm_->segment->slots[rank][round & 1]; }
  const Call& call_of(int rank) const { return comm_->segment->lines[rank].call[comm_->collectives & 1]; }

  const Call call_;
  const char* const in_;
  char* const out_;
  size_t at_ = 0;
  bool signed_ = false, refused_ = false;
};

struct Message {
  bool send;
  char* data;
  size_t bytes;
  int peer;
  size_t done = 0;
  bool over = false;
};

class MessageWork final : public Work {
 public:
  MessageWork(Handle communicator, std::vector<Message> messages)
      : Work(std::move(communicator)), messages_(std::move(messages)) {}
  void begin() override;

 private:
  bool progress() override;
  bool move(Message& m);
  std::vector<Message> messages_;
};

size_t size_of(nccl::Type type);
double now();           // seconds
double longest_wait();  // SHARDGRAD_EMULATED_NCCL_TIMEOUT_MS
cudaError_t enqueue(cudaStream_t stream, std::unique_ptr<Work> work);

}  // namespace sg::emulated_nccl
