// Sizes as in PyTorch's allocators: 512-byte granules; requests up to 1 MiB share 2 MiB segments, up to 10 MiB share
// segments of at most 20 MiB, in which as many as possible of the first one's size fit; larger ones get their own, in
// multiples of 2 MiB. A segment of its own does not serve what is far smaller: what it was made for, the gradient of an
// embedding, comes again while the small ones are alive.
#include "caching_allocator.h"

#include <algorithm>
#include <bit>
#include <string>

#include "captured_memory.h"
#include "platform.h"
#include "stream.h"

namespace sg {

namespace {

// For AddressSanitizer. It needs commands to run inline: otherwise a block is freed, for the host, while kernels that
// use it are still queued.
bool poisons() { return kRedZone > 0 && stream_settings().inline_mode; }

constexpr size_t kGranule = 512, kMiB = size_t(1) << 20;
constexpr size_t kSharedLimit = 10 * kMiB, kSharedSegment = 20 * kMiB;
constexpr size_t kFarSmaller = 4;  // times
constexpr size_t kMaxRequest = size_t(1) << 46;
constexpr int kHeadersAtOnce = 256;
constexpr int kLooks = 16;          // entries of a bin that are compared for the best fit
constexpr double kWorthwhile = 16;  // less than this part of all memory is what takes turns within a step
constexpr double kTrades = 4;  // how often all memory may be traded in; sizes that alternate for ever keep theirs then

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

struct Bin {
  int level, sub;
};

// Sixteen bins to a power of two; the first sixteen are exact.
Bin bin_of(size_t size) {
  const size_t granules = size / kGranule;
  if (granules < 16) return {0, int(granules)};
  const int high = int(std::bit_width(granules)) - 1;
  return {high - 3, int(granules >> (high - 4) & 15)};
}

std::string readable(double bytes) {
  static const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 5; unit++) bytes /= 1024;
  char text[40];
  std::snprintf(text, sizeof text, unit ? "%.2f %s" : "%.0f %s", bytes, units[unit]);
  return text;
}

}  // namespace

CachingAllocator::CachingAllocator(MemorySource& source, const char* device_name)
    : source_(source), device_name_(device_name) {
  name_pools(pools_);
}

void CachingAllocator::name_pools(Pools& pools) {
  for (int stream = 0; stream < kStreamsPerDevice; stream++) {
    for (int kind = 0; kind < 2; kind++) {
      pools[stream][kind].small = kind == 0;
      pools[stream][kind].stream = stream;
    }
  }
}

// The streams have ended: nothing uses the memory any more.
CachingAllocator::~CachingAllocator() {
  for (Segment* s : segments_) {
    unpoison(s->data, s->size);
    source_.unmap(s->data, s->size);
    delete s;
  }
}

Block* CachingAllocator::new_block() {
  if (!spare_headers_) {
    headers_.push_back(std::make_unique<Block[]>(kHeadersAtOnce));
    for (int i = 0; i < kHeadersAtOnce; i++) {
      headers_.back()[i].next_free = spare_headers_;
      spare_headers_ = &headers_.back()[i];
    }
  }
  Block* b = spare_headers_;
  spare_headers_ = b->next_free;
  return b;
}

void CachingAllocator::insert(Block* b) {
  Pool& pool = *b->segment->pool;
  const Bin bin = bin_of(b->size);
  Block*& first = pool.first[bin.level][bin.sub];
  b->free = true;
  b->previous_free = nullptr;
  b->next_free = first;
  if (first) first->previous_free = b;
  first = b;
  pool.levels |= uint64_t(1) << bin.level;
  pool.bins[bin.level] |= uint16_t(1 << bin.sub);
}

void CachingAllocator::remove(Block* b) {
  b->free = false;
  if (b->next_free) b->next_free->previous_free = b->previous_free;
  if (b->previous_free) {
    b->previous_free->next_free = b->next_free;
    return;
  }
  Pool& pool = *b->segment->pool;
  const Bin bin = bin_of(b->size);
  pool.first[bin.level][bin.sub] = b->next_free;
  if (b->next_free) return;
  pool.bins[bin.level] &= uint16_t(~(1 << bin.sub));
  if (!pool.bins[bin.level]) pool.levels &= ~(uint64_t(1) << bin.level);
}

// The best of a few blocks of the request's own bin, else the best of a few of the next bin that has any: what is left
// over then is larger still.
Block* CachingAllocator::find(Pool& pool, size_t size, bool sparing) {
  const auto best_of = [size](Block* b) {
    Block* best = nullptr;
    for (int i = 0; b && i < kLooks; i++, b = b->next_free) {
      if (b->size == size) return b;
      if (b->size > size && (!best || b->size < best->size)) best = b;
    }
    return best;
  };
  const Bin bin = bin_of(size);
  if (Block* b = best_of(pool.first[bin.level][bin.sub])) return b;
  int level = bin.level;
  unsigned larger = pool.bins[level] & (~0u << bin.sub << 1);
  if (!larger) {
    const uint64_t above = level == 63 ? 0 : pool.levels & (~uint64_t(0) << level << 1);
    if (!above) return nullptr;
    level = std::countr_zero(above);
    larger = pool.bins[level];
  }
  Block* const b = best_of(pool.first[level][std::countr_zero(larger)]);
  const bool too_good =
      sparing && b && !b->segment->shared && b->segment->wholly_free() && b->size > kFarSmaller * size;
  return too_good ? nullptr : b;
}

void CachingAllocator::split(Block* b, size_t size) {
  const size_t rest = b->size - size;
  if (rest < (b->segment->pool->small ? kGranule : kSmallLimit + kGranule)) return;
  Block* tail = new_block();
  *tail = {b->data + size, rest, 0, b->segment, b, b->after, nullptr, nullptr, 0, false, b->stream};
  if (b->after) b->after->before = tail;
  b->after = tail;
  b->size = size;
  insert(tail);
}

// `next` is the free right neighbour of `b`, already out of its bin.
Block* CachingAllocator::absorb(Block* b, Block* next) {
  b->size += next->size;
  b->after = next->after;
  if (next->after) next->after->before = b;
  next->next_free = spare_headers_;
  spare_headers_ = next;
  return b;
}

Block* CachingAllocator::map_segment(Pool& pool, size_t size) {
  size_t bytes = round_up(size, 2 * kMiB);
  const bool shared = pool.small || size < kSharedLimit;
  if (!pool.small && shared) bytes = round_up(size * (kSharedSegment / size), 2 * kMiB);
  void* data = source_.map(bytes);
  if (!data && bytes > round_up(size, 2 * kMiB)) {  // not enough for a shared segment: one of its own
    bytes = round_up(size, 2 * kMiB);
    data = source_.map(bytes);
  }
  if (!data) return nullptr;
  Segment* s = new Segment{static_cast<char*>(data), bytes, pool.stream, shared, &pool, capture_};
  segments_.push_back(s);
  Block* b = new_block();
  *b = {s->data, bytes, 0, s, nullptr, nullptr, nullptr, nullptr, 0, false, uint8_t(pool.stream)};
  s->first = b;
  stats_.reservedBytes += double(bytes);
  stats_.peakReservedBytes = std::max(stats_.peakReservedBytes, stats_.reservedBytes);
  stats_.segments++;
  record(MemoryEvent::kMapSegment, pool.stream, data, bytes);
  if (poisons()) poison(data, bytes);
  return b;
}

void CachingAllocator::unmap_segment(Segment* s) {
  remove(s->first);
  s->first->next_free = spare_headers_;
  spare_headers_ = s->first;
  record(MemoryEvent::kUnmapSegment, s->stream, s->data, s->size);
  unpoison(s->data, s->size);
  source_.unmap(s->data, s->size);
  stats_.reservedBytes -= double(s->size);
  stats_.segments--;
  delete s;
}

// Before memory grows beyond its peak, segments that nothing fits into go back, the longest idle first: those of
// weights that were loaded and copied would else lie beside a training step's own until the process ends. The host,
// which runs ahead, waits for the commands that used them.
void CachingAllocator::trade_in(size_t bytes, int stream) {
  if (!source_.unmaps_at_once() || stats_.reservedBytes + double(bytes) <= stats_.peakReservedBytes) return;
  if (traded_bytes_ > kTrades * stats_.peakReservedBytes) return;
  std::vector<Segment*> idle;
  double idle_bytes = 0;
  for (Segment* s : segments_) {
    if (s->stream != stream || !s->may_go()) continue;
    idle.push_back(s);
    idle_bytes += double(s->size);
  }
  if (idle_bytes < stats_.reservedBytes / kWorthwhile) return;
  std::sort(idle.begin(), idle.end(), [](Segment* a, Segment* b) { return a->free_since < b->free_since; });
  size_t given = 0;
  for (size_t i = 0; i < idle.size() && given < bytes && source_.wait(stream, idle[i]->free_since); i++) {
    given += idle[i]->size;
    std::erase(segments_, idle[i]);
    unmap_segment(idle[i]);
  }
  traded_bytes_ += double(given);
}

Block* CachingAllocator::allocate(size_t bytes, int stream) {
  stats_.allocations++;
  if (bytes > kMaxRequest) fail_out_of_memory(bytes);
  const size_t size = std::max(kGranule, round_up(bytes + kRedZone, kGranule));
  Pool& pool = pool_of(size, stream);
  unpark(false);
  Block* b = find(pool, size, true);
  if (b) {
    stats_.cacheHits++;
    remove(b);
  } else {
    trade_in(size, stream);
    b = map_segment(pool, size);
    if (!b) {
      release_cached();
      b = find(pool, size, false);
      if (b) remove(b);
      else b = map_segment(pool, size);
    }
    if (!b) fail_out_of_memory(bytes);
  }
  split(b, size);
  b->requested = bytes;
  b->used_until = 0;
  stats_.liveBytes += double(bytes);
  stats_.liveCount++;
  if (stats_.liveBytes > stats_.peakLiveBytes) stats_.peakLiveBytes = stats_.liveBytes;
  record(MemoryEvent::kAlloc, stream, b->data, b->size);
  unpoison(b->data, bytes);
  return b;
}

void CachingAllocator::record_use(Block* block, int stream, uint64_t seq) {
  if (stream != block->stream) block->used_until = seq;
}

void CachingAllocator::free(Block* b) {
  stats_.liveBytes -= double(b->requested);
  stats_.liveCount--;
  if (b->holders > 0) {
    b->gone = true;
    stats_.pendingBytes += double(b->requested);
    return;
  }
  park_or_release(b);
}

void CachingAllocator::park_or_release(Block* b) {
  if (!b->segment) return free_adopted(b);
  const int other = 1 - b->stream;
  if (b->used_until && !source_.passed(other, b->used_until)) {
    parked_[other].push_back(b);
    stats_.pendingBytes += double(b->requested);
    record(MemoryEvent::kPark, b->stream, b->data, b->size);
    return;
  }
  release(b);
}

Block* CachingAllocator::adopt(char* data, size_t bytes, std::shared_ptr<void> owner) {
  return_adopted(false);
  adopted_.push_back({std::make_unique<Block>(), std::move(owner)});
  Block* const b = adopted_.back().block.get();
  *b = {};
  b->data = data;
  b->size = b->requested = bytes;
  stats_.liveBytes += double(bytes);
  stats_.liveCount++;
  stats_.allocations++;
  stats_.peakLiveBytes = std::max(stats_.peakLiveBytes, stats_.liveBytes);
  record(MemoryEvent::kAlloc, b->stream, b->data, b->size);
  return b;
}

void CachingAllocator::free_adopted(Block* b) {
  const auto a = std::find_if(adopted_.begin(), adopted_.end(), [&](const Adopted& x) { return x.block.get() == b; });
  a->freed = true;
  for (int s = 0; s < kStreamsPerDevice; s++) a->until[s] = source_.issued(s);
  record(MemoryEvent::kFree, b->stream, b->data, b->size);
  return_adopted(false);
}

void CachingAllocator::return_adopted(bool wait) {
  adopted_.remove_if([&](const Adopted& a) {
    for (int s = 0; a.freed && s < kStreamsPerDevice; s++) {
      if (!source_.passed(s, a.until[s]) && !(wait && source_.wait(s, a.until[s]))) return false;
    }
    return a.freed;
  });
}

void CachingAllocator::release(Block* b) {
  record(MemoryEvent::kFree, b->stream, b->data, b->size);
  if (poisons()) poison(b->data, b->size);
  b->requested = 0;
  if (Block* next = b->after; next && next->free) {
    remove(next);
    absorb(b, next);
  }
  if (Block* before = b->before; before && before->free) {
    remove(before);
    b = absorb(before, b);
  }
  insert(b);
  if (b->segment->wholly_free()) b->segment->free_since = source_.issued(b->stream);
}

void CachingAllocator::unpark(bool wait) {
  return_adopted(wait);
  for (int stream = 0; stream < kStreamsPerDevice; stream++) {
    auto& list = parked_[stream];
    while (!list.empty()) {
      Block* b = list.front();
      if (!source_.passed(stream, b->used_until) && !(wait && source_.wait(stream, b->used_until))) break;
      list.pop_front();
      stats_.pendingBytes -= double(b->requested);
      release(b);
    }
  }
}

// Gives wholly free segments back to the system once the commands that used them are done. True if there was one.
bool CachingAllocator::release_cached() {
  unpark(true);
  const size_t before = segments_.size();
  std::erase_if(segments_, [this](Segment* s) {
    if (!s->may_go() || !source_.wait(s->stream, s->free_since)) return false;
    unmap_segment(s);
    return true;
  });
  if (segments_.size() == before) return false;
  forget_captured();
  stats_.releases++;
  return true;
}

void CachingAllocator::empty_cache() { release_cached(); }

void CachingAllocator::fail_out_of_memory(size_t bytes) {
  stats_.outOfMemories++;
  record(MemoryEvent::kOutOfMemory, 0, nullptr, bytes);
  fail(ErrorCode::OutOfMemory, "out of memory on ", device_name_, ": requested ", readable(double(bytes)), ", live ",
       readable(stats_.liveBytes), ", reserved ", readable(stats_.reservedBytes), ", limit ",
       readable(double(source_.limit())));
}

MemoryStats CachingAllocator::stats() {
  unpark(false);
  MemoryStats s = stats_;
  for (const auto& kinds : pools_) {
    for (const Pool& pool : kinds) {
      if (!pool.levels) continue;
      const int level = 63 - std::countl_zero(pool.levels);
      const int sub = 31 - std::countl_zero(unsigned(pool.bins[level]));
      for (const Block* b = pool.first[level][sub]; b; b = b->next_free) {
        s.largestFreeBytes = std::max(s.largestFreeBytes, double(b->size));
      }
    }
  }
  return s;
}

void CachingAllocator::reset_peak() {
  stats_.peakLiveBytes = stats_.liveBytes;
  stats_.peakReservedBytes = stats_.reservedBytes;
}

}  // namespace sg
