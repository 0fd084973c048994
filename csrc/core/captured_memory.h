// Segments, and the memory of captured graphs.
#pragma once
#include <unordered_set>

#include "caching_allocator.h"

namespace sg {

struct CachingAllocator::Captured {
  Pools pools;
  std::unordered_set<Block*> retained;  // of other pools
  bool gone = false;                    // the graph; blocks that are alive keep their segments
};

struct Segment {
  char* data;
  size_t size;
  int stream;
  bool shared;  // by requests of any size that fit
  CachingAllocator::Pool* pool;
  CachingAllocator::Captured* captured;  // the graph it belongs to, or null
  Block* first = nullptr;
  uint64_t free_since = 0;  // the stream's count when the last block was freed
  bool wholly_free() const { return first->free && !first->after; }
  bool may_go() const { return wholly_free() && (!captured || captured->gone); }
};

}  // namespace sg
