// What a captured graph means for memory: it keeps reading and writing the addresses it was captured with, whatever
// JavaScript has meanwhile done with the tensors that had them.
#include "captured_memory.h"

#include <algorithm>

namespace sg {

CachingAllocator::Pool& CachingAllocator::pool_of(size_t size, int stream) {
  Pools& pools = capture_ ? capture_->pools : pools_;
  return pools[stream][size <= kSmallLimit ? 0 : 1];
}

CachingAllocator::Captured* CachingAllocator::begin_capture() {
  SG_ASSERT(!capture_);
  captured_.push_back(std::make_unique<Captured>());
  capture_ = captured_.back().get();
  name_pools(capture_->pools);
  return capture_;
}

void CachingAllocator::retain(Block* b) {
  if (!b->segment || b->segment->captured == capture_) return;
  if (capture_->retained.insert(b).second) hold(b);
}

void CachingAllocator::let_go(Block* b) {
  if (--b->holders > 0 || !b->gone) return;
  b->gone = false;
  stats_.pendingBytes -= double(b->requested);
  park_or_release(b);
}

void CachingAllocator::release_captured(Captured* captured) {
  for (Block* b : captured->retained) let_go(b);
  captured->retained.clear();
  captured->gone = true;
  for (Segment* s : segments_) {
    if (s->captured == captured) s->free_since = source_.issued(s->stream);
  }
  forget_captured();
}

// Graphs that are gone, and of whose segments none is left.
void CachingAllocator::forget_captured() {
  std::erase_if(captured_, [this](const std::unique_ptr<Captured>& c) {
    const auto is_its = [&](const Segment* s) { return s->captured == c.get(); };
    return c->gone && std::none_of(segments_.begin(), segments_.end(), is_its);
  });
}

}  // namespace sg
