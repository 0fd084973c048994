// What the check build knows of every byte of the arenas: whether it is allocated, written, freed, and who touched it
// last. Empty in the fast build.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sg::emulation::shadow {

#ifdef SG_EMULATION_CHECK
void allocated(const void* p, size_t bytes, size_t with_gap);  // nothing else lies in the gap behind it
void freed(const void* p, size_t bytes);
// Parts of an allocation, by an allocator on top: who touched them before still counts.
void mark(const void* p, size_t bytes, bool in_use);
// Accesses of an operation that is no kernel. False: a report was made.
bool touched(const void* p, size_t bytes, bool writes, const char* who);
// What was not initialised stays so in the copy: copying it is no fault.
bool copied(const void* to, const void* from, size_t bytes, const char* who);
#else
inline void allocated(const void*, size_t, size_t) {}
inline void freed(const void*, size_t) {}
inline void mark(const void*, size_t, bool) {}
inline bool touched(const void*, size_t, bool, const char*) { return true; }
inline bool copied(const void*, const void*, size_t, const char*) { return true; }
#endif

}  // namespace sg::emulation::shadow
