// The shared memory of the block that runs: first what the launch asked for, then the arrays its code declares, as they
// are met, with gaps between them. It starts as NaNs: on a GPU it holds whatever was there before.
#include "shared_memory.h"

#include <sys/mman.h>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "block.h"
#include "checker.h"
#include "device.h"

namespace sg::emulation {

namespace {
constexpr size_t kGap = 256;
struct Array {
  const void* key;
  size_t offset;
};
std::vector<Array> arrays;
size_t end_of_arrays, declared_bytes;
}  // namespace

char* shared_memory() {
  static char* const base = [] {
    void* p = mmap(nullptr, kSharedSpan, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();  // less than a megabyte
    return static_cast<char*>(p);
  }();
  return base;
}

void reset_shared_memory(size_t dynamic_bytes) {
  arrays.clear();
  end_of_arrays = kSharedLimit + kGap;
  declared_bytes = dynamic_bytes;
  memset(shared_memory(), 0xff, dynamic_bytes);
  checker::shared_memory_starts(dynamic_bytes);
}

void* shared_array(const void* key, size_t bytes, size_t alignment) {
  for (const Array& array : arrays)
    if (array.key == key) return shared_memory() + array.offset;
  alignment = alignment < 16 ? 16 : alignment;
  const size_t offset = (end_of_arrays + kGap + alignment - 1) / alignment * alignment;
  declared_bytes += bytes;
  if (declared_bytes > kSharedLimit) {
    report("%zu bytes of shared memory are more than the %zu of a block", declared_bytes, kSharedLimit);
    abandon_block();
  }
  end_of_arrays = offset + bytes;
  arrays.push_back({key, offset});
  memset(shared_memory() + offset, 0xff, bytes);
  checker::shared_array_starts(offset, bytes);
  return shared_memory() + offset;
}

void* dynamic_shared() { return shared_memory(); }

}  // namespace sg::emulation
