// Group: the ranks that communicate, seen from one of them. Collectives run in order on a stream's thread; every rank
// of the group calls the same ones in the same order. Tensors are contiguous and were checked to lie inside their
// storages; what the ranks disagree on is found out here and thrown as a DistributedError that names both sides.
//
// Sums run in rank order 0, 1, ... N-1, in float32 for the 16-bit and 8-bit floats and otherwise in the type itself, on
// every transport and for every size: results are equal bit for bit from run to run and on every rank.
#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../core/stream.h"
#include "../core/view.h"
#include "blocked.h"
#include "carrier.h"
#include "recorder.h"
#include "signature.h"
#include "watch.h"

namespace sg {

class Group;

// What a group is made of, whatever carries it.
struct GroupInfo {
  std::string name;
  int rank, size;
  std::vector<int> world_ranks;  // of each rank; empty: the group is the world
  std::shared_ptr<FlightRecorder> recorder;
  int64_t timeout_ns;               // of a call that does not say its own
  std::string key;                  // the same for all its ranks and for no other group; may be empty
  std::weak_ptr<Group> world = {};  // of a group that is none itself
};

class Group : public Carrier, public std::enable_shared_from_this<Group> {
 public:
  explicit Group(GroupInfo info);
  virtual ~Group() = default;
  const GroupInfo& info() const { return info_; }
  const std::string& name() const { return info_.name; }
  int rank() const { return info_.rank; }
  int size() const { return info_.size; }

  // What moves the data: the group itself, which moves bytes of the host, unless something else was put on top of it.
  Carrier& carrier() { return carrier_ ? *carrier_ : *this; }
  void carry_by(std::unique_ptr<Carrier> carrier) { carrier_ = std::move(carrier); }

  // ---- for a carrier that moves the data itself: on the stream's thread, between enter() and exit(). Returns when
  // every rank has come to this call and calls the same; throws as the operation would.
  virtual void agree(Stream&, Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r) = 0;
  // The same for messages: the other rank of each expects it.
  virtual void agree(Stream&, const std::vector<Message>& messages) = 0;
  // The entry of the recorder that this call belongs to is finished by the caller, and not when the call ends.
  uint64_t take_entry() { return std::exchange(entry_, 0); }

  // On JavaScript's thread: the number a call will have, 0 for messages. A call that fails before it begins leaves a
  // gap here, so this is for what has not started yet.
  uint64_t number_ahead(Collective call, const Stream& on) {
    called_on_ = &on;
    const bool message = call == Collective::kSend || call == Collective::kReceive || call == Collective::kExchange;
    return message ? 0 : ++ahead_;
  }
  // The entry of the recorder that the next collective belongs to, and its timeout (0: the group's).
  void enter(const Stream& stream, uint64_t entry, int64_t timeout_ns);
  void exit(bool failed) noexcept;

  // ---- any thread
  // This and every other rank's waits end with an error that gives the reason.
  virtual void abort(const std::string& reason) = 0;
  // Memory in which collectives need no copy. `owner` keeps it.
  virtual char* share(size_t bytes, std::shared_ptr<void>& owner) = 0;
  // All ranks have joined: nobody has to find the group any more.
  virtual void seal() = 0;
  // This rank takes part no more; the others are told so if they still expect it.
  virtual void leave() = 0;
  virtual void beat() = 0;  // called by the heartbeat thread, every 250 ms

  // ---- for find_standstill(), on JavaScript's thread
  std::thread::id owner() const { return owner_; }
  uint64_t ahead() const { return ahead_; }
  const Stream* called_on() const { return called_on_; }    // null: nothing was called
  const Stream* running_on() const { return running_on_; }  // of the call that runs
  uint64_t running() const { return running_; }             // its number, 0: none, or messages
  int awaited() const { return awaited_; }                  // of a long wait; a rank that it needs
  std::string show_running() const;
  virtual bool failed() const = 0;
  // Changes before this rank gives bytes to the system or takes some.
  virtual uint64_t transfers() const { return 0; }
  // Whether this rank waits for bytes that `peer`, in this process, has sent and that have not come.
  virtual bool may_come(const Group&) const { return false; }

  // ---- for waits and errors
  virtual PeerState peer_state(int peer) const = 0;
  virtual void check_failed() = 0;                               // throws when some rank has given up
  virtual const char* silence() const { return "has stopped"; }  // what no heartbeat means
  // Of the world: what this rank says of the call it waits in, and what another one has said last.
  virtual void say_blocked(const Blocked& mine) = 0;
  virtual Blocked blocked(int world_rank) const = 0;
  virtual void listen() {}  // takes in what the others have said
  // Whether `peer` has to end the call it speaks of before it can begin what this rank waits for.
  bool is_held_up(int peer, const Blocked& call) const;
  std::shared_ptr<Group> world() { return is_world() ? shared_from_this() : info_.world.lock(); }
  bool is_world() const { return info_.world_ranks.empty(); }
  int world_rank(int rank) const { return is_world() ? rank : info_.world_ranks[size_t(rank)]; }
  uint64_t key() const { return key_; }
  uint64_t call_number() const { return entry_; }  // among all of this rank; 0: it has none
  const Signature& current() const { return current_; }
  int64_t timeout_ns() const { return timeout_ns_; }
  std::string who(int rank) const;  // rank 1, or: rank 1 (world rank 5)
  std::string show_current() const { return show_call(current_, name()); }
  // On all ranks, because of a peer or for a reason of our own.
  [[noreturn]] void give_up(const std::string& reason, int peer = -1);

 protected:
  // Numbers the collective that begins; throws what poisoned the group.
  const Signature& begin(Collective call, DType dtype, int64_t count, int root, Rest counts, Reduction r);
  // The same for messages, which are not numbered: only two ranks know of them.
  void begin_messages(const std::vector<Message>& messages);
  // Gives up when a rank calls something else.
  void compare(int peer, const Signature& theirs);
  void compare_message(int peer, const Signature& theirs, const Signature& mine);
  Signature sign_message(const Message& m) const;
  // Whether `peer` has not begun what this rank waits for at some time since `said_ns` of its clock.
  virtual bool has_not_begun(int peer, int64_t said_ns) const = 0;
  // Said of a long wait.
  void needs(int peer) { awaited_ = peer; }
  [[noreturn]] void raise_failure(int culprit, const char* reason) const;

 private:
  void blame(int peer) const;
  const Signature& sign(const Signature& s);
  const GroupInfo info_;
  const uint64_t key_;  // a hash
  const std::thread::id owner_;
  std::atomic<const Stream*> running_on_{nullptr};
  std::atomic<uint64_t> running_{0};  // number of the collective
  std::atomic<int> awaited_{-1};
  const Stream* called_on_ = nullptr;
  Signature current_{};  // what this rank is doing
  uint64_t sequence_ = 0, ahead_ = 0, entry_ = 0;
  int64_t timeout_ns_ = 0;
  std::unique_ptr<Carrier> carrier_;
};

// The groups of this process by number. A command holds the number: a group that was closed meanwhile is an error.
int add_group(std::shared_ptr<Group> group);
std::shared_ptr<Group> find_group(int id);  // throws
std::vector<std::shared_ptr<Group>> all_groups();
// Whether a rank of it has ever been in this process.
bool has_joined_here(const Group& group, int rank);
void remove_group(int id);

}  // namespace sg
