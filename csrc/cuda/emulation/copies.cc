// Copies in the background (cp.async): the destination is poisoned at once, and the bytes land only in the wait that
// must have them.
#include <cstring>

#include "block.h"
#include "checker.h"
#include "ptx.h"

namespace sg::emulation {

#define SG_CALLER reinterpret_cast<uintptr_t>(__builtin_return_address(0))

void cp_async(void* shared, const void* global, int bytes, int source_bytes) {
  const auto to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
  if (to % unsigned(bytes) || from % unsigned(bytes) || source_bytes < 0 || source_bytes > bytes) {
    report("cp.async of %d of %d bytes from %p to %p: both must be aligned to %d bytes (%s)", source_bytes, bytes,
           global, shared, bytes, describe_code(SG_CALLER).c_str());
    abandon_block();
  }
  checker::copy_starts(shared, bytes, global, source_bytes, SG_CALLER);
  memset(shared, 0xff, size_t(bytes));
  Thread& self = block.self();
  self.copies.push_back({static_cast<char*>(shared), static_cast<const char*>(global), uint8_t(bytes),
                         uint8_t(source_bytes), self.copy_group, SG_CALLER});
}

void cp_async_commit() { block.self().copy_group++; }

void cp_async_wait(int pending) {
  Thread& self = block.self();
  if (self.copy_group > uint32_t(pending)) land_copies(self, self.copy_group - uint32_t(pending));
}

void land_copies(Thread& thread, uint32_t before_group) {
  size_t landed = 0;
  for (; landed < thread.copies.size() && thread.copies[landed].group < before_group; landed++) {
    const PendingCopy& copy = thread.copies[landed];
    memcpy(copy.to, copy.from, copy.source_bytes);
    memset(copy.to + copy.source_bytes, 0, size_t(copy.bytes - copy.source_bytes));
    checker::copy_lands(copy.to, copy.bytes, copy.code);
  }
  if (landed) thread.copies.erase(thread.copies.begin(), thread.copies.begin() + ptrdiff_t(landed));
}

}  // namespace sg::emulation
