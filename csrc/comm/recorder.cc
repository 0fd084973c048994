#include "recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "../core/error.h"
#include "../core/platform.h"

namespace sg {

struct FlightRecorder::Header {
  char magic[8];
  uint32_t version, entry_bytes;
  int32_t rank, process, blames;
  int64_t wall_offset_ns;
  uint64_t next;
};

namespace {

constexpr char kMagic[8] = {'s', 'g', 'f', 'l', 'i', 'g', 'h', 't'};
constexpr uint32_t kVersion = 1;
constexpr size_t kHeaderBytes = 64;
constexpr size_t kBytes = kHeaderBytes + FlightRecorder::kEntries * sizeof(FlightRecorder::Entry);

// Writes every byte of it: memory of a file that has holes is a SIGBUS on a full disk.
bool fill(int file) {
  const std::vector<char> zeros(kBytes);
  for (size_t at = 0; at < kBytes;) {
    const ssize_t n = write(file, zeros.data() + at, kBytes - at);
    if (n <= 0) return false;
    at += size_t(n);
  }
  return true;
}

int64_t wall_offset_ns() {
  timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  return int64_t(wall.tv_sec) * 1'000'000'000 + wall.tv_nsec - now_ns();
}

}  // namespace

FlightRecorder::FlightRecorder(const std::string& path, int rank) {
  static_assert(sizeof(Header) <= kHeaderBytes && std::is_trivially_copyable_v<Entry>);
  int file = -1;
  if (!path.empty()) {
    unlink(path.c_str());
    file = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0 || !fill(file)) {
      std::fprintf(stderr, "shardgrad: the flight recorder of rank %d stays in memory: cannot make %s: %s\n", rank,
                   path.c_str(), std::strerror(errno));
      if (file >= 0) {
        close(file);
        unlink(path.c_str());
      }
      file = -1;
    }
  }
  const int flags = file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  memory_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, flags, file, 0);
  const int error = errno;
  if (file >= 0) close(file);
  if (memory_ == MAP_FAILED) fail(ErrorCode::Distributed, "flight recorder: ", std::strerror(error));
  Header& h = header();
  h.version = kVersion;
  h.entry_bytes = sizeof(Entry);
  h.rank = rank;
  h.process = int32_t(getpid());
  h.blames = -1;
  h.wall_offset_ns = wall_offset_ns();
  std::memcpy(h.magic, kMagic, sizeof kMagic);
}

FlightRecorder::~FlightRecorder() { munmap(memory_, kBytes); }

FlightRecorder::Entry* FlightRecorder::entry(uint64_t number) const {
  return reinterpret_cast<Entry*>(static_cast<char*>(memory_) + kHeaderBytes) + (number - 1) % kEntries;
}

// The number goes first and comes last: the stream's thread, which may finish an entry that is lapped, leaves alone
// what has another one.
uint64_t FlightRecorder::enqueued(const std::string& group, const Signature& call) {
  const uint64_t number = ++header().next;
  Entry& e = *entry(number);
  std::atomic_ref(e.number).store(0);
  e.call = call;
  std::snprintf(e.group, sizeof e.group, "%s", group.c_str());
  e.failed = false;
  e.enqueued_ns = now_ns();
  e.started_ns = e.done_ns = 0;
  std::atomic_ref(e.number).store(number);
  return number;
}

void FlightRecorder::started(uint64_t number, const Signature& call) {
  Entry& e = *entry(number);
  if (std::atomic_ref(e.number).load() != number) return;
  e.call = call;
  e.started_ns = now_ns();
}

void FlightRecorder::done(uint64_t number, bool failed) {
  Entry& e = *entry(number);
  if (std::atomic_ref(e.number).load() != number) return;
  e.failed = failed;
  e.done_ns = now_ns();
}

void FlightRecorder::blame(int rank) { std::atomic_ref(header().blames).store(rank); }

std::string_view FlightRecorder::where(uint64_t number) const {
  Entry& e = *entry(number);
  if (number == 0 || std::atomic_ref(e.number).load() != number) return {};
  return e.call.where;
}

FlightRecorder::Recording FlightRecorder::read(const std::string& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail(ErrorCode::Distributed, "flight recorder: cannot open ", path, ": ", std::strerror(errno));
  std::vector<char> bytes(kBytes);
  size_t got = 0;
  for (ssize_t n; got < kBytes && (n = ::read(file, bytes.data() + got, kBytes - got)) > 0;) got += size_t(n);
  close(file);
  Header h;
  std::memcpy(&h, bytes.data(), sizeof h);
  if (got < kBytes || std::memcmp(h.magic, kMagic, sizeof kMagic) != 0 || h.version != kVersion ||
      h.entry_bytes != sizeof(Entry)) {
    fail(ErrorCode::Distributed, "flight recorder: ", path, " is no recording of this version");
  }
  Recording recording{h.rank, h.process, h.blames, h.wall_offset_ns, {}};
  for (uint64_t i = 0; i < kEntries; i++) {
    Entry e;
    std::memcpy(&e, bytes.data() + kHeaderBytes + i * sizeof(Entry), sizeof e);
    if (e.number == 0 || e.call.call == Collective::kNone || !sound(e.call)) continue;
    e.group[sizeof e.group - 1] = 0;
    recording.entries.push_back(e);
  }
  std::sort(recording.entries.begin(), recording.entries.end(),
            [](const Entry& a, const Entry& b) { return a.number < b.number; });
  return recording;
}

}  // namespace sg
