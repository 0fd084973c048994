// Memory of the emulated devices, and the host's pinned memory: one range of addresses each, handed out with gaps. What
// is freed is handed out again as late as possible, so that a use after free does not hit a new tenant.
#pragma once
#include <cuda_runtime_api.h>
#include <cstddef>
#include <cstdint>

namespace sg::emulation {

inline constexpr size_t kArenaSpan = size_t(64) << 30;  // addresses, not memory
inline constexpr int kMostDevices = 16, kHostArena = kMostDevices, kNoArena = -1;

int arena_of(const void* p);  // a device, kHostArena or kNoArena
size_t arena_offset(const void* p);
char* arena_base(int arena);

cudaError_t allocate(int arena, size_t bytes, void** out);
// False: `p` is not the start of an allocation there.
bool release(int arena, void* p);
// The bytes from `p` to the end of its allocation; 0 when it lies in none.
size_t bytes_from(const void* p);
size_t allocated_bytes(int arena);

// Other host memory that kernels may touch (cudaHostRegister).
bool register_host(void* p, size_t bytes);  // false: it overlaps what is registered
bool unregister_host(void* p);
bool is_registered(const void* p, size_t bytes);
bool is_pinned(const void* p);

// Whether an operation of the running device may touch these bytes; reports if not. Ordinary host memory always passes.
bool may_access(const void* p, size_t bytes, const char* who);
bool peers(int device, int other);  // device may touch other's memory
void set_peers(int device, int other, bool may);

}  // namespace sg::emulation
