#include "pinned_pool.h"

#include <bit>
#include <cuda_runtime_api.h>

namespace sg {

namespace {

constexpr size_t kSmallest = 64, kSlab = size_t(64) << 10, kKeptAtMost = size_t(256) << 20;

void* pinned(size_t bytes) {
  void* p = nullptr;
  if (cudaHostAlloc(&p, bytes, cudaHostAllocPortable) == cudaSuccess) return p;
  (void)cudaGetLastError();
  return nullptr;
}

}  // namespace

PinnedPool& PinnedPool::instance() {
  static auto* const pool = new PinnedPool;
  return *pool;
}

int PinnedPool::class_of(size_t bytes) { return std::bit_width(std::max(bytes, kSmallest) - 1); }

void* PinnedPool::allocate(size_t bytes) {
  const int size_class = class_of(bytes);
  if (size_class >= kClasses) return nullptr;
  const size_t size = size_t(1) << size_class;
  std::lock_guard lock(mutex_);
  auto& free = free_[size_class];
  if (free.empty()) {
    // what will not be kept anyway needs not be the size of its class
    const size_t slab = size > kKeptAtMost ? bytes : std::max(size, kSlab);
    char* const fresh = static_cast<char*>(pinned(slab));
    if (!fresh) return nullptr;
    for (size_t at = 0; at < slab; at += size) free.push_back(fresh + at);
  } else if (size > kSlab) {
    kept_ -= size;
  }
  void* const p = free.back();
  free.pop_back();
  given_.emplace(p, size_class);
  return p;
}

void PinnedPool::free(void* p) {
  std::lock_guard lock(mutex_);
  const auto found = given_.find(p);
  const int size_class = found->second;
  const size_t size = size_t(1) << size_class;
  given_.erase(found);
  if (size > kSlab && kept_ + size > kKeptAtMost) {
    (void)cudaFreeHost(p);
    return;
  }
  if (size > kSlab) kept_ += size;
  free_[size_class].push_back(p);
}

}  // namespace sg
