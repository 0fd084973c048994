// The sleeping and waking of streams. Every pair "store mine, look at yours" here is sequentially consistent on both
// sides (published_/asleep_, done_/wake_at_, waiting_/producer_held_), so that no wake-up is lost and none is a system
// call unless somebody sleeps.
#include "stream.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>

#include "command_log.h"
#include "platform.h"
#include "ranges.h"

namespace sg {

namespace {

constexpr size_t kSegmentBytes = 32 << 10;
constexpr int64_t kStuckCheckNs = 50'000'000;
constexpr auto kLookNap = std::chrono::microseconds(20);
std::atomic<StuckHook> stuck_hook{nullptr};

bool wanted_by_environment() {
  const char* text = std::getenv("SHARDGRAD_SYNC");
  return text && *text && std::strcmp(text, "0") != 0;
}

}  // namespace

StreamSettings& stream_settings() {
  static StreamSettings* settings = [] {
    auto* s = new StreamSettings;
    s->inline_mode = wanted_by_environment();
    return s;
  }();
  return *settings;
}

void set_stuck_hook(StuckHook hook) { stuck_hook = hook; }

Stream::Segment* Stream::new_segment(size_t capacity) {
  void* memory = ::operator new(sizeof(Segment) + capacity, std::align_val_t(alignof(Segment)));
  return new (memory) Segment{nullptr, capacity};
}

thread_local Stream* Stream::current_ = nullptr;

namespace {

struct Streams {
  std::mutex mutex;
  std::vector<Stream*> all;
};

// Never destroyed: streams may outlive static destructors.
Streams& streams() {
  static Streams* all = new Streams;
  return *all;
}

}  // namespace

// A thread's own streams stay while it looks at them.
std::vector<const Stream*> Stream::of_this_thread() {
  Streams& s = streams();
  std::lock_guard lock(s.mutex);
  std::vector<const Stream*> mine;
  for (const Stream* stream : s.all)
    if (stream->producer_ == std::this_thread::get_id()) mine.push_back(stream);
  return mine;
}

size_t Stream::count_of_this_thread() {
  Streams& s = streams();
  std::lock_guard lock(s.mutex);
  const auto mine = [id = std::this_thread::get_id()](const Stream* stream) { return stream->producer_ == id; };
  return size_t(std::count_if(s.all.begin(), s.all.end(), mine));
}

Stream::Stream(std::string name, std::unique_ptr<DeviceQueue> queue)
    : name_(std::move(name)), write_(new_segment(kSegmentBytes)), read_(write_), queue_(std::move(queue)) {
  inline_ = settings_.inline_mode;
  {
    std::lock_guard lock(streams().mutex);
    streams().all.push_back(this);
  }
  if (!inline_) start();
}

Stream::~Stream() {
  halt();
  join();
  {
    std::lock_guard lock(streams().mutex);
    std::erase(streams().all, this);
  }
  for (auto& [seq, recorded] : recorded_) release(recorded);
  Segment* rest = spare_.exchange(nullptr);
  if (rest) rest->next = read_;
  else rest = read_;
  while (rest) ::operator delete(std::exchange(rest, rest->next), std::align_val_t(alignof(Segment)));
}

void Stream::start() {
  thread_ = std::thread([this] { loop(); });
}

// A command that is larger than a segment gets one of its own size.
void Stream::grow(size_t bytes) {
  const size_t needed = aligned(bytes) + 2 * sizeof(Command);
  Segment* next = needed <= kSegmentBytes ? spare_.exchange(nullptr) : nullptr;
  if (next) next->next = nullptr;
  else next = new_segment(std::max(needed, kSegmentBytes));
  new (write_->bytes() + write_at_) Command{nullptr, nullptr, 0, false};
  write_->next = next;
  write_ = next;
  write_at_ = 0;
}

void Stream::hold_back() {
  const uint64_t limit = std::max<uint64_t>(1, settings_.queue_limit);
  done_seen_ = done_.load(std::memory_order_acquire);
  if (issued_ - done_seen_ < limit) return;
  const uint64_t target = issued_ - limit + std::max<uint64_t>(1, limit / 4);  // come back when a quarter is free
  {
    std::unique_lock lock(mutex_);
    producer_held_ = true;
    while (!waiting_) {
      wake_at_ = std::min(wake_at_.load(), target);
      if (done_.load() >= target) break;
      bell_.wait(lock);
    }
    producer_held_ = false;
  }
  done_seen_ = done_.load(std::memory_order_acquire);
  if (issued_ - done_seen_ < settings_.hard_limit) return;
  const StuckHook hook = stuck_hook;
  const auto why = hook ? hook(*this) : std::nullopt;
  fail(ErrorCode::Distributed, name_, ": ", issued_ - done_seen_, " commands are queued behind a wait",
       why ? ": " + *why : std::string());
}

void Stream::add_staging(size_t bytes) {
  const uint64_t limit = settings_.staging_limit;
  const auto fits = [&] { return staged_.load() == 0 || staged_.load() + bytes <= limit; };
  if (!inline_ && !fits()) {
    std::unique_lock lock(mutex_);
    producer_held_ = true;
    while (!waiting_ && !fits()) {
      const uint64_t done = done_.load();
      wake_at_ = std::min(wake_at_.load(), done + 1);
      if (done_.load() != done) continue;
      bell_.wait(lock);
    }
    producer_held_ = false;
  }
  staged_.fetch_add(bytes, std::memory_order_relaxed);
}

void Stream::use_inline(bool on) {
  if (on == inline_) return;
  host_wait_all();
  inline_ = on;
  if (!on && !thread_.joinable()) start();
}

void Stream::halt() {
  if (halting_.exchange(true)) return;
  raise(ErrorCode::Device, name_ + ": the thread that owns the device is ending");
  rouse();
  ring();
}

void Stream::join() {
  if (thread_.joinable()) thread_.join();
}

void Stream::raise_of(uint64_t seq, ErrorCode code, std::string text) {
  std::lock_guard lock(mutex_);
  if (!fault_ || seq < fault_of_) {
    fault_ = Fault{code, std::move(text)};
    fault_of_ = seq;
  }
  faulted_ = true;
}

std::optional<Fault> Stream::take_fault(uint64_t up_to) {
  if (!faulted()) return std::nullopt;
  std::lock_guard lock(mutex_);
  if (halting_) return fault_;  // stays, so that nothing runs any more
  if (fault_ && fault_of_ > up_to) return std::nullopt;
  faulted_ = false;
  return std::exchange(fault_, std::nullopt);
}

// Sleeps until `seq` commands are done. False: the time ran out, or the stream that waits is to end.
bool Stream::wait_on_bell(uint64_t seq, const Stream* waiter, int64_t timeout_ns) {
  // A waiter that is halted sleeps on a bell that its halt does not ring; it looks up often enough.
  constexpr int64_t kLookNs = 20'000'000;
  const int64_t end = now_ns() + timeout_ns;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_at_ = std::min(wake_at_.load(), seq);
    if (done_.load() >= seq) return true;
    const int64_t left = end - now_ns();
    if (left <= 0 || (waiter && waiter->halting())) return false;
    bell_.wait_for(lock, std::chrono::nanoseconds(std::min(left, kLookNs)));
  }
}

void Stream::host_wait(uint64_t seq) {
  ask_for(seq);
  if (help(seq)) return;
  if (spin_until(settings_.spin_ns, [&] { return passed(seq); })) return;
  while (!wait_on_bell(seq, nullptr, kStuckCheckNs)) {
    const StuckHook hook = stuck_hook;
    if (!hook || !waiting()) continue;
    if (const auto why = hook(*this)) fail(ErrorCode::Distributed, "a synchronous wait would never end: ", *why);
  }
}

bool Stream::host_wait_unless_waiting(uint64_t seq) {
  constexpr int64_t kTickNs = 1'000'000;
  ask_for(seq);
  if (spin_until(settings_.spin_ns, [&] { return passed(seq); })) return true;
  while (!wait_on_bell(seq, nullptr, kTickNs)) {
    if (waiting()) return false;
  }
  return true;
}

void Stream::wait_event_command(Stream& self, void* payload) {
  const EventWait& event = *static_cast<EventWait*>(payload);
  Stream& on = *event.on;
  on.ask_for(event.seq);
  if (&self != &on) on.help(event.seq);
  const auto ready = [&] { return on.passed(event.seq) || self.halting(); };
  const int64_t start = now_ns();
  if (!spin_until(self.settings_.spin_ns, ready)) {
    Waiting mark(self);
    self.waits_on_ = &on;
    // What was launched before goes on, and the one that this stream waits for may be waiting for that.
    if (self.queue_ && self.marked_ < self.ran_.load() && !self.queue_->capturing()) self.mark(self.ran_.load());
    for (;;) {
      const uint64_t look = mark.look();
      if (ready()) break;
      if (self.in_flight_.empty()) mark.looked_in_vain(look);
      if (self.queue_) {
        self.look();
        std::this_thread::sleep_for(kLookNap);
      } else on.wait_on_bell(event.seq, &self, kStuckCheckNs);
    }
    self.waits_on_ = nullptr;
  }
  self.waited_ns_.fetch_add(now_ns() - start, std::memory_order_relaxed);
  self.copy_fault(on);
}

void Stream::copy_fault(Stream& of) {
  if (!of.faulted()) return;
  std::optional<Fault> copy;
  {
    std::lock_guard lock(of.mutex_);
    copy = of.fault_;
  }
  if (copy) raise(copy->code, copy->text);
}

uint64_t Stream::record_event() {
  issue_deferred();
  if (queue_) record();
  return issued_;
}

void Stream::wait_event(Stream& on, uint64_t seq) {
  const EventWait event{&on, seq};
  if (&on == this || event.over()) return;
  if (queue_ && on.queue_) return wait_on_device(on, seq);
  if (inline_ || !passed(issued_)) {
    enqueue(&wait_event_command, "waitEvent", event);
    return;
  }
  const auto same = std::find_if(deferred_.begin(), deferred_.end(), [&](const EventWait& e) { return e.on == &on; });
  if (same == deferred_.end()) deferred_.push_back(event);
  else same->seq = std::max(same->seq, seq);
}

void Stream::wait_stream(Stream& on) {
  for (const EventWait& event : on.deferred_) wait_event(*event.on, event.seq);
  wait_event(on, on.issued_);
}

void Stream::issue_deferred() {
  while (!deferred_.empty()) {
    const EventWait event = deferred_.back();
    deferred_.pop_back();  // first: an enqueue issues the others
    if (!event.over()) enqueue(&wait_event_command, "waitEvent", event);
  }
}

bool Stream::idle() const {
  return passed(issued_) &&
         std::all_of(deferred_.begin(), deferred_.end(), [](const EventWait& e) { return e.over(); });
}

void Stream::host_wait_all() {
  for (const EventWait& event : deferred_) event.on->host_wait(event.seq);
  issue_deferred();  // what is left of them brings a fault over
  host_wait(issued_);
}

void Stream::set_waiting(bool on) {
  waiting_ = on;
  if (on && producer_held_) ring();
}

void Stream::ring() {
  {
    std::lock_guard lock(mutex_);
    wake_at_ = UINT64_MAX;  // whoever still sleeps asks again
  }
  bell_.notify_all();
}

void Stream::execute(const Command& c, void* payload) {
  if (faulted() && !c.always) return;
  const Range range(c.name);
  const LoggedCommand logged(*this, c.name);
  try {
    c.run(*this, payload);
  } catch (const Error& e) {
    const std::string text = e.what(), prefix = std::string(c.name) + ": ";
    raise(e.code, text.starts_with(prefix) ? text : prefix + text);
  } catch (const std::bad_alloc&) {
    raise(ErrorCode::OutOfMemory, std::string(c.name) + ": out of memory for the kernel's own working memory");
  } catch (const std::exception& e) { raise(ErrorCode::Internal, std::string(c.name) + ": " + e.what()); }
}

void Stream::execute_next(uint64_t n) {
  Command* c = reinterpret_cast<Command*>(read_->bytes() + read_at_);
  if (!c->run) {
    Segment* old = std::exchange(read_, read_->next);
    if (old->capacity == kSegmentBytes) old = spare_.exchange(old);
    if (old) ::operator delete(old, std::align_val_t(alignof(Segment)));
    c = reinterpret_cast<Command*>(read_->bytes());
    read_at_ = 0;
  }
  read_at_ += c->bytes;
  execute(*c, c + 1);
  ran_.store(n, std::memory_order_relaxed);
  if (queue_) mark_if_asked();
  else finish_to(n);
}

void Stream::finish_to(uint64_t seq) {
  done_.store(seq);
  if (seq >= wake_at_.load()) ring();
}

void Stream::run_inline() {
  Stream* const outer = std::exchange(current_, this);
  if (queue_) queue_->attach();
  execute_next(issued_);
  if (queue_) drain();
  current_ = outer;
  published_.store(issued_);  // after done_: the thread, if there is one, never sees work
}

void Stream::loop() {
  name_thread("shardgrad stream");
  current_ = this;
  if (queue_) queue_->attach();
  const auto wanted = [&] { return (has_work() && !consuming_) || helped_ || halting(); };
  for (;;) {
    run_all();
    if (queue_) watch_device();
    if (halting() && !has_work()) return drain();
    if (spin_until(helped_ ? 0 : settings_.spin_ns.load(), wanted) && !helped_) continue;
    std::unique_lock lock(mutex_);
    // Said again at every turn: a producer that was late to wake an earlier sleep has taken it back.
    for (asleep_ = true; !wanted(); asleep_ = true) work_.wait(lock);
    if (helped_) nap(lock);
    asleep_ = false;
  }
}

}  // namespace sg
