// What the ranks of an emulated communicator share: a segment of POSIX shared memory, in one process or in several. Its
// bytes begin as zeros, and that is a valid start for all of it.
//
// A collective is a sequence of rounds, as in our own groups on shared memory: a rank writes its half of a slot, counts
// its round up, and reads the others' when theirs have got there. Halves are used in turn, so whoever has reached round
// r + 1 has read round r.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

namespace sg::emulated_nccl {

inline constexpr int kMostRanks = 16;
inline constexpr size_t kSlotBytes = 256 << 10, kChannelBytes = 64 << 10;

// What a rank says of the collective that begins.
struct Call {
  int32_t kind, type, operation, root;
  uint64_t count;
  double factor;  // of a premultiplied sum; each rank has its own
};

struct alignas(64) RankLine {
  std::atomic<int32_t> process, device;
  std::atomic<uint64_t> round, splits;
  Call call[2];  // by turns, as the halves of slots
  int32_t color[2], key[2];
};

// From one rank to another: one piece of a message at a time.
struct alignas(64) Channel {
  std::atomic<uint64_t> written, read;
  uint64_t message_bytes, piece_bytes;
  char data[kChannelBytes];
};

struct Segment {
  std::atomic<int32_t> ranks, joined, aborted;
  RankLine lines[kMostRanks];
  alignas(64) char slots[kMostRanks][2][kSlotBytes];
  Channel channels[kMostRanks][kMostRanks];
};

// Maps the segment of that name, which whoever comes first makes; null: the system refuses.
Segment* open_segment(const std::string& name);
void close_segment(Segment* segment);
void remove_name(const std::string& name);
// A name nobody else has. Segments whose makers have died before all ranks had come are taken away.
std::string new_name();

}  // namespace sg::emulated_nccl
