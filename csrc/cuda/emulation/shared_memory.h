// Where the shared memory of the running block lies.
#pragma once
#include <cstddef>

namespace sg::emulation {

inline constexpr size_t kSharedLimit = 232448;                        // 227 KiB, what a block may have on Hopper
inline constexpr size_t kSharedSpan = 2 * kSharedLimit + (64 << 10);  // with the gaps between arrays
char* shared_memory();

}  // namespace sg::emulation
