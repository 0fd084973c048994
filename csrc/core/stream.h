// Stream: an in-order queue with one producer (the JavaScript thread that owns the device) and one consumer (the
// stream's own thread). Commands have any length and lie one after another in linked segments, so an enqueue is a copy
// and one sequentially consistent store. A full queue holds the producer back only while the stream is *executing*: a
// stream that waits for an event or a peer lets the queue grow, or simulated ranks on one thread would deadlock.
//
// On the CPU a command is done when it has run. A stream with a DeviceQueue only launches: its commands are done when
// the device says so, which its thread asks whenever it has nothing to launch.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "device_queue.h"

namespace sg {

class Stream;

using CommandFn = void (*)(Stream&, void* payload);

// Process-wide settings; tests lower the limits to find every place that blocks by mistake.
struct StreamSettings {
  std::atomic<uint64_t> queue_limit{16384};       // commands that may wait before the producer is held back
  std::atomic<uint64_t> hard_limit{1u << 20};     // commands that may wait while the stream itself waits; then an error
  std::atomic<uint64_t> staging_limit{1u << 28};  // bytes of host data that may wait to be copied
  std::atomic<int64_t> spin_ns{50'000};
  std::atomic<bool> inline_mode{false};  // run commands at once on the producer's thread (SHARDGRAD_SYNC=1)
};
StreamSettings& stream_settings();

// Tells why `stream` can never go on (a collective misses a rank that this very thread has to feed), or nothing.
using StuckHook = std::optional<std::string> (*)(const Stream& stream);
void set_stuck_hook(StuckHook hook);

class Stream {
 public:
  explicit Stream(std::string name, std::unique_ptr<DeviceQueue> queue = nullptr);
  ~Stream();  // halts and joins
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  const std::string& name() const { return name_; }

  // ---- producer
  // Room for a payload of at most `bytes`; nothing happens before commit, so a caller may give up in between.
  void* begin(size_t bytes) {
    if (!deferred_.empty()) issue_deferred();
    if (issued_ - done_seen_ >= settings_.queue_limit.load(std::memory_order_relaxed)) hold_back();
    if (write_->capacity - write_at_ < bytes + 2 * sizeof(Command)) grow(bytes);
    return write_->bytes() + write_at_ + sizeof(Command);
  }
  // Publishes the command whose payload was written; `used` may be less than was asked for. A command that `always`
  // runs is not skipped on a faulted stream: it settles a promise, frees memory or answers a peer.
  uint64_t commit(CommandFn run, const char* name, size_t used, bool always = false) {
    Command* c =
        new (write_->bytes() + write_at_) Command{run, name, uint32_t(aligned(sizeof(Command) + used)), always};
    write_at_ += c->bytes;
    issued_++;
    if (inline_) {
      run_inline();
    } else {
      published_.store(issued_);  // sequentially consistent, against the look at `asleep_`
      if (asleep_.load()) wake();
    }
    return issued_;
  }
  template <class Payload>
  uint64_t enqueue(CommandFn run, const char* name, const Payload& payload, bool always = false) {
    static_assert(std::is_trivially_copyable_v<Payload>);
    new (begin(sizeof(Payload))) Payload(payload);
    return commit(run, name, sizeof(Payload), always);
  }
  // Commands so far, without waits that are still to be issued.
  uint64_t issued() const { return issued_; }
  // The event "everything so far", waits included.
  uint64_t record_event();
  bool idle() const;
  // The following commands of this stream wait until `seq` commands of `on` are done. A stream with nothing to do
  // remembers that until it gets a command: waking its thread only to wait would cost each collective a thread switch.
  void wait_event(Stream& on, uint64_t seq);
  // The following commands of this stream wait for all that `on` was given.
  void wait_stream(Stream& on);
  // Counts host bytes that lie waiting in commands; holds the producer back by the same rule as a full queue.
  void add_staging(size_t bytes);
  void use_inline(bool on);
  bool runs_inline() const { return inline_; }
  // Skips what is left, ends the thread; commands that always run still do. The producer's last call.
  void halt();
  void join();

  // ---- any thread
  bool passed(uint64_t seq) const { return done_.load(std::memory_order_acquire) >= seq; }
  bool waiting() const { return waiting_.load(); }
  // Odd while the stream waits; another number in each wait.
  uint64_t wait_number() const { return waits_.load(); }
  // Of this wait: the latest look that was begun, and was in vain. 0: none, or it waits for nothing that can be named.
  uint64_t looked_in_vain() const { return looked_.load(); }
  static uint64_t next_look() { return ++looks_; }
  uint64_t given() const { return published_.load(); }  // commands
  // Those of which this thread is the producer.
  static std::vector<const Stream*> of_this_thread();
  static size_t count_of_this_thread();
  // The stream whose event this one waits for at the moment, or null.
  const Stream* waits_on() const { return waits_on_.load(); }
  // How long the commands of this stream have been held up by events of other streams.
  int64_t waited_ns() const { return waited_ns_.load(std::memory_order_relaxed); }
  bool faulted() const { return faulted_.load(std::memory_order_acquire); }
  // The fault of the earliest command sticks: what a device finds late may be of one long before.
  void raise(ErrorCode code, std::string text) { raise_of(running(), code, std::move(text)); }
  std::optional<Fault> take_fault(uint64_t up_to = UINT64_MAX);  // of the first `up_to` commands
  // Waits on the host; throws when the stream could never get there. A producer that waits right after every few
  // commands runs these itself from then on: two changes of threads would take longer than most of them.
  void host_wait(uint64_t seq);
  void host_wait_all();  // for everything the stream was given; its producer alone
  // The same, but gives up (false) while the stream itself waits for somebody else.
  bool host_wait_unless_waiting(uint64_t seq);

  // ---- consumer
  static Stream* current() { return current_; }  // the one whose commands this thread runs, or null
  DeviceQueue* queue() const { return queue_.get(); }
  uint64_t running() const { return ran_.load(std::memory_order_relaxed) + 1; }  // the command that runs
  // Calls `finish` on this thread once everything up to the running command is done.
  void when_done(void (*finish)(Stream&, void* argument), void* argument);
  void begin_capture(const void* keys);
  void remove_staging(size_t bytes) { staged_.fetch_sub(bytes, std::memory_order_relaxed); }
  // Marks the stream as waiting for a peer for as long as it lives: the producer is let go, the queue grows.
  class Waiting {
   public:
    explicit Waiting(Stream& s) : stream_(s) {
      stream_.looked_ = 0;
      stream_.waits_++;
      stream_.set_waiting(true);
    }
    ~Waiting() {
      stream_.set_waiting(false);
      stream_.waits_++;
    }
    // Around a look at what the stream waits for, which some other stream has to bring about.
    uint64_t look() const { return looks_.load(); }
    void looked_in_vain(uint64_t look) { stream_.looked_ = look; }

   private:
    Stream& stream_;
  };
  bool halting() const { return halting_.load(); }

 private:
  struct alignas(16) Command {
    CommandFn run;  // null: go on in the next segment
    const char* name;
    uint32_t bytes;
    bool always;
  };
  struct alignas(16) Segment {
    Segment* next = nullptr;
    size_t capacity;
    char* bytes() { return reinterpret_cast<char*>(this + 1); }
  };
  static size_t aligned(size_t n) { return (n + 15) & ~size_t(15); }
  static Segment* new_segment(size_t capacity);

  struct EventWait {
    Stream* on;
    uint64_t seq;
    bool over() const { return on->passed(seq) && !on->faulted(); }
  };
  void issue_deferred();
  void grow(size_t bytes);
  void hold_back();
  void wake();
  void rouse();
  void run_inline();
  void start();
  void loop();
  void run_all();
  bool help(uint64_t seq);
  void nap(std::unique_lock<std::mutex>& lock);
  void execute_next(uint64_t n);
  void execute(const Command& c, void* payload);
  void set_waiting(bool on);
  void ring();
  bool wait_on_bell(uint64_t seq, const Stream* waiter, int64_t timeout_ns);
  static void wait_event_command(Stream& self, void* payload);
  void raise_of(uint64_t seq, ErrorCode code, std::string text);
  void copy_fault(Stream& of);
  void finish_to(uint64_t seq);
  bool has_work() const { return published_.load() > ran_.load(std::memory_order_relaxed); }

  // ---- streams with a queue (stream_device.cc)
  struct Recorded;  // an event that a command records and others wait for
  struct InFlight {
    DeviceQueue::Event event;
    uint64_t seq;  // done, and all before it, when the event is reached
    void (*finish)(Stream&, void* argument);
    void* argument;
  };
  void ask_for(uint64_t seq);
  void mark(uint64_t seq);
  void mark_if_asked();
  void look();
  void watch_device();
  void give_up_capture(const char* why);
  void drain();
  Recorded* record();
  Recorded* recorded_from(uint64_t seq);
  void wait_on_device(Stream& on, uint64_t seq);
  static void release(Recorded* r);
  static void record_command(Stream& self, void* payload);
  static void device_wait_command(Stream& self, void* payload);

  const std::string name_;
  const std::thread::id producer_ = std::this_thread::get_id();
  const StreamSettings& settings_ = stream_settings();
  // producer
  Segment* write_;
  size_t write_at_ = 0;
  uint64_t issued_ = 0, done_seen_ = 0;  // done_seen_ is a cached done_: reading that one is a cache miss
  bool inline_ = false;
  int prompt_waits_ = 0;  // one after another, each for a few commands
  std::vector<EventWait> deferred_;
  std::deque<std::pair<uint64_t, Recorded*>> recorded_;
  // consumer
  static thread_local Stream* current_;
  Segment* read_;
  size_t read_at_ = 0;
  const std::unique_ptr<DeviceQueue> queue_;
  std::deque<InFlight> in_flight_;
  uint64_t marked_ = 0;           // the last command of in_flight_
  std::atomic<uint64_t> ran_{0};  // written by the consumer; commands that were run, if not done
  // shared
  std::atomic<Segment*> spare_{nullptr};
  alignas(64) std::atomic<uint64_t> published_{0};
  alignas(64) std::atomic<uint64_t> done_{0};
  alignas(64) std::atomic<bool> asleep_{false};
  std::atomic<bool> halting_{false}, faulted_{false}, waiting_{false}, producer_held_{false};
  std::atomic<bool> helped_{false};     // the producer runs what it waits for; this thread only looks now and then
  std::atomic<bool> consuming_{false};  // one of the two runs commands
  std::atomic<uint64_t> wake_at_{UINT64_MAX};  // the smallest sequence anybody sleeps for
  std::atomic<uint64_t> staged_{0};
  std::atomic<const Stream*> waits_on_{nullptr};
  std::atomic<int64_t> waited_ns_{0};
  std::atomic<uint64_t> waits_{0}, looked_{0};
  static inline std::atomic<uint64_t> looks_{1};
  std::mutex mutex_;                     // guards sleeping, wake_at_ and fault_; never held while a command runs
  std::condition_variable work_, bell_;  // the consumer sleeps on the one, everybody else on the other
  std::optional<Fault> fault_;
  uint64_t fault_of_ = 0;  // the command
  std::thread thread_;
};

}  // namespace sg
