// The side of a stream that looks after its device: what was launched and is not yet done. The stream's thread marks
// the end of what it has launched with an event when it has nothing more to launch, or when somebody waits, and asks
// for the oldest of these events. So a step of thousands of launches costs a handful of events, and nothing else has to
// wait for the device.
#include <algorithm>
#include <chrono>

#include "platform.h"
#include "stream.h"

namespace sg {

// Used by the command that records it, by those that wait for it, and by its stream for later waits.
struct Stream::Recorded {
  Stream& on;
  std::atomic<int> users{2};
  std::atomic<bool> ready{false};
  DeviceQueue::Event event = nullptr;  // null: it could not be recorded
};

void Stream::release(Recorded* r) {
  if (r->users.fetch_sub(1) != 1) return;
  if (r->event) r->on.queue_->recycle(r->event);
  delete r;
}

// Whoever waits for `seq` says so before it looks: a busy stream then marks that place.
void Stream::ask_for(uint64_t seq) {
  if (!queue_ || passed(seq)) return;
  if (inline_) {  // this thread is the one that looks, and has not: a graph is being captured
    give_up_capture("something waited for the device while a graph was captured");
    return drain();
  }
  std::lock_guard lock(mutex_);
  wake_at_ = std::min(wake_at_.load(), seq);
}

void Stream::mark(uint64_t seq) {
  DeviceQueue::Event event = nullptr;
  try {
    event = queue_->record();
  } catch (const Error& e) { raise(e.code, e.what()); }
  in_flight_.push_back({event, seq, nullptr, nullptr});
  marked_ = seq;
}

void Stream::mark_if_asked() {
  constexpr uint64_t kLookEvery = 64;
  const uint64_t seq = ran_.load(std::memory_order_relaxed), wanted = wake_at_.load();
  if (!queue_->capturing() && marked_ < wanted && wanted <= seq) mark(seq);
  if (seq % kLookEvery == 0) look();
}

void Stream::when_done(void (*finish)(Stream&, void* argument), void* argument) {
  if (!queue_) return finish(*this, argument);
  if (queue_->capturing()) give_up_capture("a value was read while a graph was captured: read it after the replay");
  mark(running());  // which counts as soon as it is over
  in_flight_.back().finish = finish;
  in_flight_.back().argument = argument;
}

void Stream::begin_capture(const void* keys) {
  const uint64_t ran = ran_.load(std::memory_order_relaxed);
  if (marked_ < ran) mark(ran);  // what went before can still be asked for
  queue_->begin_capture(keys);
}

void Stream::give_up_capture(const char* why) {
  queue_->end_capture();
  raise(ErrorCode::Device, why);
}

void Stream::look() {
  while (!in_flight_.empty()) {
    const InFlight oldest = in_flight_.front();
    try {
      if (oldest.event && !queue_->reached(oldest.event)) return;
    } catch (const Error& e) { raise_of(oldest.seq, e.code, e.what()); }
    in_flight_.pop_front();
    if (oldest.event) queue_->recycle(oldest.event);
    if (auto fault = queue_->take_fault()) raise_of(oldest.seq, fault->code, std::move(fault->text));
    finish_to(oldest.seq);
    if (oldest.finish) oldest.finish(*this, oldest.argument);
  }
}

// Nothing to launch: looks until all is done or there is work again. Naps cost a look every 50 us, the length of a
// kernel or two; before the first nap it looks without pause for as long as a short step takes.
void Stream::watch_device() {
  constexpr int64_t kEagerNs = 300'000;
  constexpr auto kNap = std::chrono::microseconds(50);
  const auto wanted = [&] { return has_work() || halting(); };
  const uint64_t ran = ran_.load(std::memory_order_relaxed), wanted_at = wake_at_.load();
  if (queue_->capturing() && marked_ < wanted_at && wanted_at <= ran) {
    give_up_capture("something waited for the device while a graph was captured");
  }
  if (marked_ < ran && !queue_->capturing()) mark(ran);
  const auto over = [&] {
    look();
    return in_flight_.empty() || wanted();
  };
  if (spin_until(kEagerNs, over)) return;
  while (!over()) {
    std::unique_lock lock(mutex_);
    asleep_ = true;
    if (!wanted()) work_.wait_for(lock, kNap);
    asleep_ = false;
  }
}

void Stream::drain() {
  if (!queue_ || queue_->capturing()) return;
  const uint64_t ran = ran_.load(std::memory_order_relaxed);
  if (marked_ < ran) mark(ran);
  while (!in_flight_.empty()) {
    look();
    std::this_thread::yield();
  }
}

// ---- waits of one stream for another, on the device

void Stream::record_command(Stream& self, void* payload) {
  Recorded* const r = *static_cast<Recorded**>(payload);
  try {
    r->event = self.queue_->record();
  } catch (const Error& e) { self.raise(e.code, e.what()); }
  r->ready.store(true);
  release(r);
}

Stream::Recorded* Stream::record() {
  constexpr size_t kKept = 64;
  Recorded* const r = new Recorded{*this};
  enqueue(&record_command, "recordEvent", r, true);
  recorded_.emplace_back(issued_, r);
  while (recorded_.front().second != r && (recorded_.size() > kKept || passed(recorded_.front().first))) {
    release(recorded_.front().second);
    recorded_.pop_front();
  }
  return r;
}

// The first event that was recorded at `seq` or later.
Stream::Recorded* Stream::recorded_from(uint64_t seq) {
  for (auto& [at, recorded] : recorded_) {
    if (at >= seq) return recorded;
  }
  return record();
}

void Stream::wait_on_device(Stream& on, uint64_t seq) {
  Recorded* const r = on.recorded_from(seq);
  r->users++;
  enqueue(&device_wait_command, "waitEvent", r, true);
}

// The event may not have been recorded yet: its stream's thread has still to come to it.
void Stream::device_wait_command(Stream& self, void* payload) {
  Recorded* const r = *static_cast<Recorded**>(payload);
  constexpr auto kNap = std::chrono::microseconds(20);
  if (!spin_until(self.settings_.spin_ns, [&] { return r->ready.load(); })) {
    Waiting mark(self);
    self.waits_on_ = &r->on;
    for (;;) {
      const uint64_t look = mark.look();
      if (r->ready.load()) break;
      mark.looked_in_vain(look);
      std::this_thread::sleep_for(kNap);
    }
    self.waits_on_ = nullptr;
  }
  try {
    if (r->event) self.queue_->wait(r->event);
  } catch (const Error& e) { self.raise(e.code, e.what()); }
  self.copy_fault(r->on);
  release(r);
}

}  // namespace sg
