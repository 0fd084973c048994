// CommandLog: when the commands of all streams began and ended, while somebody records it (lib/profiler). Off, a
// command costs one load. The clock is that of now_ns(), which all processes of a host share. Commands of a stream that
// only launches are timed by marks on the device itself, and put onto that clock when the recording ends.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace sg {

class Stream;

// How an accelerator tells the time of what it does; the CUDA backend's, once a GPU was opened.
struct DeviceTimer {
  void* (*mark)();                             // on the thread of a stream: the moment when the device comes here
  int64_t (*reached_ns)(void* mark);           // waits for a mark, and returns now_ns()
  double (*elapsed_ms)(void* from, void* to);  // both were reached
  void (*forget)(void* mark);
};
inline std::atomic<const DeviceTimer*> device_timer{nullptr};

class CommandLog {
 public:
  struct Entry {
    const Stream* stream;
    uint64_t number;  // among the stream's commands
    const char* name;
    int64_t begin_ns, end_ns;
    void *from, *to;  // marks on the device, or null
  };
  struct Recording {
    std::deque<Entry> entries;
    uint64_t lost;  // there was no room for
  };

  static CommandLog& instance();
  static bool recording() { return on_.load(std::memory_order_relaxed); }
  void start(const void* owner);      // throws while another owner records
  Recording stop(const void* owner);  // empty where this owner does not record
  void add(const Entry& entry);
  // The clock of a device, set once by each stream that launches.
  void set_reference(const Stream& stream);

 private:
  struct Reference {
    void* mark;
    int64_t ns;
  };
  static inline std::atomic<bool> on_{false};
  std::mutex mutex_;
  const void* owner_ = nullptr;
  Recording recorded_{};
  std::unordered_map<const Stream*, Reference> references_;
};

// A command that runs, for as long as this lives. One without a name is none of the user's.
class LoggedCommand {
 public:
  LoggedCommand(const Stream& stream, const char* name) {
    if (name && CommandLog::recording()) begin(stream, name);
  }
  ~LoggedCommand() {
    if (entry_.stream) end();
  }
  LoggedCommand(const LoggedCommand&) = delete;

 private:
  void begin(const Stream& stream, const char* name);
  void end();
  CommandLog::Entry entry_{};
};

}  // namespace sg
