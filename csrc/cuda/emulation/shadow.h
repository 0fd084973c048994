// What the check build knows of every byte of the arenas: not allocated, allocated, written, freed. Empty in the fast
// build.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg::emulation::shadow {

#ifdef SG_EMULATION_CHECK
void allocated(const void* p, size_t bytes);
void freed(const void* p, size_t bytes);
// An access of an operation that is no kernel (a copy, a library): marks what it writes, looks for races. False: a
// report was made.
bool touched(const void* p, size_t bytes, bool writes, const char* who);
#else
inline void allocated(const void*, size_t) {}
inline void freed(const void*, size_t) {}
inline bool touched(const void*, size_t, bool, const char*) { return true; }
#endif

}  // namespace sg::emulation::shadow
