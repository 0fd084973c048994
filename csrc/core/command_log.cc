#include "command_log.h"

#include "error.h"
#include "platform.h"
#include "stream.h"

namespace sg {

namespace {

constexpr size_t kMostEntries = size_t(1) << 21;

// The timer of a stream whose commands can be timed on its device at the moment.
const DeviceTimer* timer_of(const Stream& stream) {
  return stream.queue() && !stream.queue()->capturing() ? device_timer.load(std::memory_order_acquire) : nullptr;
}

}  // namespace

// Never destroyed: streams may outlive static destructors.
CommandLog& CommandLog::instance() {
  static CommandLog* log = new CommandLog;
  return *log;
}

void CommandLog::start(const void* owner) {
  std::lock_guard lock(mutex_);
  if (owner_) fail(ErrorCode::Value, "profiler: another profile of this process is being recorded");
  owner_ = owner;
  recorded_ = {};
  references_.clear();
  on_ = true;
}

CommandLog::Recording CommandLog::stop(const void* owner) {
  std::lock_guard lock(mutex_);
  if (owner_ != owner) return {};
  owner_ = nullptr;
  on_ = false;
  for (Entry& e : recorded_.entries) {
    if (!e.from) continue;
    const DeviceTimer& timer = *device_timer.load();
    const Reference& reference = references_.at(e.stream);
    timer.reached_ns(e.to);
    e.begin_ns = reference.ns + int64_t(timer.elapsed_ms(reference.mark, e.from) * 1e6);
    e.end_ns = reference.ns + int64_t(timer.elapsed_ms(reference.mark, e.to) * 1e6);
    timer.forget(e.from);
    timer.forget(e.to);
  }
  for (auto& [stream, reference] : references_) device_timer.load()->forget(reference.mark);
  references_.clear();
  return std::exchange(recorded_, {});
}

void CommandLog::add(const Entry& entry) {
  std::lock_guard lock(mutex_);
  if (on_ && recorded_.entries.size() < kMostEntries) {
    recorded_.entries.push_back(entry);
    return;
  }
  recorded_.lost += on_;
  if (!entry.from) return;
  device_timer.load()->forget(entry.from);
  device_timer.load()->forget(entry.to);
}

void CommandLog::set_reference(const Stream& stream) {
  {
    std::lock_guard lock(mutex_);
    if (references_.contains(&stream)) return;
  }
  const DeviceTimer& timer = *device_timer.load();
  void* const mark = timer.mark();
  const Reference reference{mark, timer.reached_ns(mark)};
  std::lock_guard lock(mutex_);
  if (on_) references_.emplace(&stream, reference);
  else timer.forget(mark);
}

// What the device says when it fails is the command's to report, and not the profile's.
void LoggedCommand::begin(const Stream& stream, const char* name) {
  entry_ = {&stream, stream.running(), name, now_ns(), 0, nullptr, nullptr};
  if (const DeviceTimer* timer = timer_of(stream)) {
    try {
      CommandLog::instance().set_reference(stream);
      entry_.from = timer->mark();
    } catch (const Error&) { entry_.stream = nullptr; }
  }
}

void LoggedCommand::end() {
  entry_.end_ns = now_ns();
  if (entry_.from) {
    const DeviceTimer* const timer = timer_of(*entry_.stream);
    try {
      if (timer) entry_.to = timer->mark();
    } catch (const Error&) {}
    if (!entry_.to) return device_timer.load()->forget(entry_.from);
  }
  CommandLog::instance().add(entry_);
}

}  // namespace sg
