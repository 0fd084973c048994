// The one caching allocator of both backends. Blocks are cut from large segments and merged again when freed; a freed
// block is reused at once, since its next user runs later on the same stream. A block that another stream used is
// parked until that stream got past the use. Headers lie apart from the data, which kernels may still be writing.
// Fits are found by size bins (Masmano et al., "TLSF: a new dynamic memory allocator", 2004): a few loads an operation.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <utility>
#include <vector>

#include "error.h"

namespace sg {

inline constexpr int kStreamsPerDevice = 2;
inline constexpr int kComputeStream = 0, kCommunicationStream = 1;

// Where segments come from, and how far the device's streams have got.
class MemorySource {
 public:
  virtual ~MemorySource() = default;
  virtual void* map(size_t bytes) = 0;  // null: none left, or over the limit
  virtual void unmap(void* p, size_t bytes) = 0;
  virtual size_t limit() const = 0;         // what all devices that share this memory may map together
  virtual bool unmaps_at_once() const = 0;  // false: unmapping waits for the whole device
  virtual uint64_t issued(int stream) const = 0;
  virtual bool passed(int stream, uint64_t seq) const = 0;
  virtual bool wait(int stream, uint64_t seq) = 0;  // false: the stream waits for somebody else
};

// X(name): the one list of statistics; JavaScript reads the names from the addon, in this order. Bytes are what was
// asked for, except reserved and free ones. "live" is what handles hold; "pending" was freed but another stream uses
// it.
#define SG_MEMORY_STATS(X) \
  X(liveBytes)             \
  X(liveCount)             \
  X(reservedBytes)         \
  X(peakLiveBytes)         \
  X(peakReservedBytes)     \
  X(allocations)           \
  X(cacheHits)             \
  X(largestFreeBytes)      \
  X(pendingBytes)          \
  X(segments)              \
  X(releases)              \
  X(outOfMemories)

struct MemoryStats {
#define SG_ROW(name) double name = 0;
  SG_MEMORY_STATS(SG_ROW)
#undef SG_ROW
};

struct Segment;

struct Block {
  char* data;
  size_t size;                       // a multiple of the granule
  size_t requested;                  // what the user asked for; 0 in a free block
  Segment* segment;                  // null: adopted memory
  Block *before, *after;             // neighbours by address
  Block *previous_free, *next_free;  // neighbours in the bin
  uint64_t used_until;               // by the other stream; 0: never
  bool free;
  uint8_t stream;        // the one it belongs to
  uint16_t holders = 0;  // captured graphs and transfers that use it
  bool gone = false;     // freed, but for those
};

// What happened to which block, for memory snapshots.
struct MemoryEvent {
  enum Action : uint8_t { kAlloc, kFree, kPark, kMapSegment, kUnmapSegment, kOutOfMemory } action;
  uint8_t stream;
  uint64_t address, bytes;
  int64_t time_ns;
};

class CachingAllocator {
 public:
  static constexpr int kSubBins = 16, kLevels = 40;
  // Free blocks of one kind of segment of one stream, by size.
  struct Pool {
    bool small;
    int stream;
    uint64_t levels = 0;
    uint16_t bins[kLevels] = {};
    Block* first[kLevels][kSubBins] = {};
  };

  explicit CachingAllocator(MemorySource& source, const char* device_name);
  ~CachingAllocator();
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  // Throws OutOfMemory, having released what is cached. Zero bytes give a block too.
  Block* allocate(size_t bytes, int stream);
  void free(Block* block);
  // A block over memory of somebody else, which `owner` keeps alive until the block was freed and nobody uses it.
  Block* adopt(char* data, size_t bytes, std::shared_ptr<void> owner);
  // The command that was just enqueued on `stream` as number `seq` uses the block.
  static void record_use(Block* block, int stream, uint64_t seq);
  void empty_cache();  // gives every wholly free segment back
  // Somebody outside of the streams uses the block: its memory stays when it is freed, until the last one lets go.
  void hold(Block* block) { block->holders++; }
  void let_go(Block* block);

  // ---- captured_memory.cc: graphs keep the addresses they were captured with
  struct Captured;
  // Until end_capture, allocations come from pools that are the graph's alone, and what is freed into them is used
  // again within the graph only.
  Captured* begin_capture();
  Captured* end_capture() { return std::exchange(capture_, nullptr); }
  bool capturing() const { return capture_ != nullptr; }
  // The graph that is being captured uses the block: its memory stays when it is freed, until the graph goes.
  void retain(Block* block);
  void release_captured(Captured* captured);

  MemoryStats stats();
  void reset_peak();

  void record_history(bool on);
  struct BlockInfo {
    uint64_t address, size, requested;
    enum State : uint8_t { kLive, kFree, kPending } state;
  };
  struct SegmentInfo {
    uint64_t address, size;
    int stream;
    std::vector<BlockInfo> blocks;
  };
  std::vector<SegmentInfo> snapshot() const;
  std::vector<MemoryEvent> history() const;  // oldest first

 private:
  // Adopted memory goes back to its owner, and may be unmapped: both streams must have got past all that was enqueued
  // when it was freed.
  struct Adopted {
    std::unique_ptr<Block> block;
    std::shared_ptr<void> owner;
    bool freed = false;
    uint64_t until[kStreamsPerDevice] = {};
  };
  std::list<Adopted> adopted_;
  void free_adopted(Block* b);
  void park_or_release(Block* b);
  void forget_captured();
  void return_adopted(bool wait);
  using Pools = Pool[kStreamsPerDevice][2];
  static void name_pools(Pools& pools);
  Pool& pool_of(size_t size, int stream);
  Block* find(Pool& pool, size_t size, bool sparing);  // of segments that are too good for it
  void insert(Block* b);
  void remove(Block* b);
  void split(Block* b, size_t size);
  void release(Block* b);
  Block* absorb(Block* b, Block* next);
  Block* map_segment(Pool& pool, size_t size);
  void unmap_segment(Segment* s);
  void trade_in(size_t bytes, int stream);
  bool release_cached();
  void unpark(bool wait);
  Block* new_block();
  void add_event(MemoryEvent::Action action, int stream, const void* address, size_t bytes);
  void record(MemoryEvent::Action action, int stream, const void* address, size_t bytes) {
    if (recording_) add_event(action, stream, address, bytes);
  }
  [[noreturn]] void fail_out_of_memory(size_t bytes);

  static constexpr size_t kSmallLimit = size_t(1) << 20;

  MemorySource& source_;
  const char* const device_name_;
  Pools pools_;
  Captured* capture_ = nullptr;
  std::vector<std::unique_ptr<Captured>> captured_;
  std::vector<Segment*> segments_;
  std::deque<Block*> parked_[kStreamsPerDevice];  // by the stream that still uses them, in the order they were freed
  std::vector<std::unique_ptr<Block[]>> headers_;
  Block* spare_headers_ = nullptr;  // linked by next_free
  MemoryStats stats_;
  double traded_bytes_ = 0;
  std::vector<MemoryEvent> history_;
  size_t history_next_ = 0;
  bool recording_ = false;
};

}  // namespace sg
