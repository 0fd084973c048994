// The functions that -fsanitize=thread makes a compiler call at every access. libtsan is not linked: these are ours,
// and the code they look at is the kernels'. Volatile accesses count as atomic, as they do for those who use them.
#include <cstring>

#include "../export.h"
#include "accesses.h"

using sg::emulation::touch;

#define SG_HOOK extern "C" SG_EMULATION_API
#define SG_CODE reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define SG_HOOKS(bytes)                                                                                          \
  SG_HOOK void __tsan_read##bytes(void* p) { touch(uintptr_t(p), bytes, {true, false, false, true}, SG_CODE); }  \
  SG_HOOK void __tsan_write##bytes(void* p) { touch(uintptr_t(p), bytes, {false, true, false, true}, SG_CODE); } \
  SG_HOOK void __tsan_unaligned_read##bytes(void* p) {                                                           \
    touch(uintptr_t(p), bytes, {true, false, false, false}, SG_CODE);                                            \
  }                                                                                                              \
  SG_HOOK void __tsan_unaligned_write##bytes(void* p) {                                                          \
    touch(uintptr_t(p), bytes, {false, true, false, false}, SG_CODE);                                            \
  }                                                                                                              \
  SG_HOOK void __tsan_volatile_read##bytes(void* p) {                                                            \
    touch(uintptr_t(p), bytes, {true, false, true, true}, SG_CODE);                                              \
  }                                                                                                              \
  SG_HOOK void __tsan_volatile_write##bytes(void* p) {                                                           \
    touch(uintptr_t(p), bytes, {false, true, true, true}, SG_CODE);                                              \
  }                                                                                                              \
  SG_HOOK void __tsan_unaligned_volatile_read##bytes(void* p) {                                                  \
    touch(uintptr_t(p), bytes, {true, false, true, false}, SG_CODE);                                             \
  }                                                                                                              \
  SG_HOOK void __tsan_unaligned_volatile_write##bytes(void* p) {                                                 \
    touch(uintptr_t(p), bytes, {false, true, true, false}, SG_CODE);                                             \
  }
SG_HOOKS(1)
SG_HOOKS(2)
SG_HOOKS(4)
SG_HOOKS(8)
SG_HOOKS(16)

SG_HOOK void __tsan_read_range(void* p, size_t bytes) {
  touch(uintptr_t(p), bytes, {true, false, false, false}, SG_CODE);
}
SG_HOOK void __tsan_write_range(void* p, size_t bytes) {
  touch(uintptr_t(p), bytes, {false, true, false, false}, SG_CODE);
}
SG_HOOK void __tsan_init() {}
SG_HOOK void __tsan_func_entry(void*) {}
SG_HOOK void __tsan_func_exit() {}
SG_HOOK void __tsan_vptr_update(void**, void*) {}
SG_HOOK void __tsan_vptr_read(void**) {}

// Atomics of host code in the same files (streams, counters): really atomic, and not looked at.
#define SG_ATOMIC_UPDATE(bits, T, name, builtin) \
  SG_HOOK T __tsan_atomic##bits##_##name(volatile T* p, T value, int) { return builtin(p, value, __ATOMIC_SEQ_CST); }
#define SG_ATOMICS(bits, T)                                                                                       \
  SG_HOOK T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  SG_HOOK void __tsan_atomic##bits##_store(volatile T* p, T value, int) {                                         \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                                 \
  }                                                                                                               \
  SG_ATOMIC_UPDATE(bits, T, exchange, __atomic_exchange_n)                                                        \
  SG_ATOMIC_UPDATE(bits, T, fetch_add, __atomic_fetch_add)                                                        \
  SG_ATOMIC_UPDATE(bits, T, fetch_sub, __atomic_fetch_sub)                                                        \
  SG_ATOMIC_UPDATE(bits, T, fetch_and, __atomic_fetch_and)                                                        \
  SG_ATOMIC_UPDATE(bits, T, fetch_or, __atomic_fetch_or)                                                          \
  SG_ATOMIC_UPDATE(bits, T, fetch_xor, __atomic_fetch_xor)                                                        \
  SG_HOOK bool __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T value, int, int) {     \
    return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);            \
  }                                                                                                               \
  SG_HOOK bool __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* expected, T value, int, int) {       \
    return __atomic_compare_exchange_n(p, expected, value, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
  }
SG_ATOMICS(8, uint8_t)
SG_ATOMICS(16, uint16_t)
SG_ATOMICS(32, uint32_t)
SG_ATOMICS(64, uint64_t)
SG_HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
SG_HOOK void __tsan_atomic_signal_fence(int) {}
