// The one entry for accesses of instrumented code.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg::emulation {

struct AccessKind {
  bool reads, writes, atomic;
  bool aligned;  // the compiler takes it to be aligned to its size
};
void touch(uintptr_t address, size_t bytes, const AccessKind& kind, uintptr_t code);

}  // namespace sg::emulation
