// What the allocator tells of itself: the events that were recorded, and what lies where.
#include <algorithm>

#include "captured_memory.h"
#include "platform.h"

namespace sg {

namespace {

constexpr size_t kHistoryLength = size_t(1) << 16;

}  // namespace

void CachingAllocator::record_history(bool on) {
  recording_ = on;
  if (!on) return;
  history_.clear();
  history_next_ = 0;
}

void CachingAllocator::add_event(MemoryEvent::Action action, int stream, const void* address, size_t bytes) {
  const MemoryEvent event{action, uint8_t(stream), uint64_t(reinterpret_cast<uintptr_t>(address)), bytes, now_ns()};
  if (history_.size() < kHistoryLength) history_.push_back(event);
  else history_[history_next_] = event;
  history_next_ = (history_next_ + 1) % kHistoryLength;
}

std::vector<MemoryEvent> CachingAllocator::history() const {
  std::vector<MemoryEvent> ordered = history_;
  if (ordered.size() == kHistoryLength)
    std::rotate(ordered.begin(), ordered.begin() + long(history_next_), ordered.end());
  return ordered;
}

std::vector<CachingAllocator::SegmentInfo> CachingAllocator::snapshot() const {
  std::vector<SegmentInfo> all;
  for (const Segment* s : segments_) {
    SegmentInfo info{uint64_t(reinterpret_cast<uintptr_t>(s->data)), s->size, s->stream, {}};
    for (const Block* b = s->first; b; b = b->after) {
      const bool parked = !b->free && std::find(parked_[1 - s->stream].begin(), parked_[1 - s->stream].end(), b) !=
                                          parked_[1 - s->stream].end();
      info.blocks.push_back({uint64_t(reinterpret_cast<uintptr_t>(b->data)), b->size, b->requested,
                             b->free  ? BlockInfo::kFree
                             : parked ? BlockInfo::kPending
                                      : BlockInfo::kLive});
    }
    all.push_back(std::move(info));
  }
  return all;
}

}  // namespace sg
