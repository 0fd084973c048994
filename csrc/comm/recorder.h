// FlightRecorder: the last 2,000 collectives of a rank, with what is known of each: enqueued, started, done or failed.
// It lies in a file that outlives the process, if it is given one, so that `shardgrad debug dump` reads what a rank did
// that hangs or is dead. The file belongs to one process at a time; readers look without a lock and may see an entry
// half written, which costs them that one line.
#pragma once
#include <atomic>
#include <string>
#include <string_view>
#include <vector>

#include "signature.h"

namespace sg {

class FlightRecorder {
 public:
  static constexpr uint64_t kEntries = 2000;

  struct Entry {
    uint64_t number;  // counted from 1; 0: never used
    int64_t enqueued_ns, started_ns, done_ns;
    Signature call;
    char group[31];
    bool failed;
  };

  // Without a path, in plain memory. A file that exists is replaced. One that cannot be made costs the file and not the
  // job: the recorder stays in memory and says so.
  FlightRecorder(const std::string& path, int rank);
  ~FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  // On JavaScript's thread: the number of the new entry.
  uint64_t enqueued(const std::string& group, const Signature& call);
  // On the stream's thread. An entry that was overwritten meanwhile is left alone.
  void started(uint64_t number, const Signature& call);
  void done(uint64_t number, bool failed);
  // This rank fails because of that one (of the world).
  void blame(int rank);
  // What the entry said of where it was called.
  std::string_view where(uint64_t number) const;

  struct Recording {
    int rank, process;
    int blames;                  // the rank for which this one failed; -1: none
    int64_t wall_offset_ns;      // wall clock minus the entries' clock
    std::vector<Entry> entries;  // oldest first
  };
  static Recording read(const std::string& path);  // throws for what is no recording

 private:
  struct Header;
  Header& header() const { return *static_cast<Header*>(memory_); }
  Entry* entry(uint64_t number) const;
  void* memory_;
};

}  // namespace sg
