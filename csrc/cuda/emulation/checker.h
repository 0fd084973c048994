// Looks at every access of a kernel in the check build: bounds, freed and uninitialised memory, data races. In the fast
// build nothing of it exists; the empty functions below keep the callers free of conditions.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg::emulation {

struct Launch;
struct Barrier;
enum class Access;

namespace checker {

#ifdef SG_EMULATION_CHECK
void kernel_starts(const Launch& launch, uint64_t blocks);
void kernel_ends();
void block_starts(uint64_t index);
void barrier_completes(const Barrier& barrier, int last);
void warp_syncs(int warp);
void fence();
void access(const void* p, size_t bytes, Access access, uintptr_t code);
void copy_starts(void* to, int bytes, const void* from, int source_bytes, uintptr_t code);
void copy_lands(void* to, int bytes, uintptr_t code);
void shared_memory_starts(size_t dynamic_bytes);
void shared_array_starts(size_t offset, size_t bytes);
#else
inline void kernel_starts(const Launch&, uint64_t) {}
inline void kernel_ends() {}
inline void block_starts(uint64_t) {}
inline void barrier_completes(const Barrier&, int) {}
inline void warp_syncs(int) {}
inline void fence() {}
inline void access(const void*, size_t, Access, uintptr_t) {}
inline void copy_starts(void*, int, const void*, int, uintptr_t) {}
inline void copy_lands(void*, int, uintptr_t) {}
inline void shared_memory_starts(size_t) {}
inline void shared_array_starts(size_t, size_t) {}
#endif

}  // namespace checker
}  // namespace sg::emulation
