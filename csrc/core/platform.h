// The few things that differ between operating systems and processors: pausing in a spin, counting the usable cores,
// naming a thread, memory in huge pages. Everything else in csrc/core is standard C++, so that arm64 and macOS follow.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <thread>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace sg {

inline void cpu_relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Waits for `ready` until the clock says stop. It gives the core away every 32 pauses: the kernel often puts a woken
// thread on its waker's core, where a spin without yields keeps the very thread it waits for from running.
template <class F>
inline bool spin_until(int64_t ns, const F& ready) {
  const int64_t end = now_ns() + ns;
  do {
    for (int i = 0; i < 32; i++) {
      if (ready()) return true;
      cpu_relax();
    }
    std::this_thread::yield();
  } while (now_ns() < end);
  return ready();
}

int usable_cores();      // affinity mask and container quota respected
size_t usable_memory();  // physical memory, or the container's limit
void name_thread(const char* name);
// A whole number from 1 that an environment variable holds; nothing when it is not set. Throws on anything else.
std::optional<uint64_t> number_from_environment(const char* name);

// Page memory straight from the system, zeroed, at least 64-byte aligned; from 2 MiB on aligned to and asked to be in
// huge pages, which are worth up to a third of a kernel's time. Null when there is none.
void* map_pages(size_t bytes);
void unmap_pages(void* p, size_t bytes);

// Memory we hand out ourselves is unknown to AddressSanitizer: these tell it what may be touched.
#ifdef __SANITIZE_ADDRESS__
inline constexpr size_t kRedZone = 512;
inline void poison(const void* p, size_t bytes) { ASAN_POISON_MEMORY_REGION(p, bytes); }
inline void unpoison(const void* p, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(p, bytes); }
#else
inline constexpr size_t kRedZone = 0;
inline void poison(const void*, size_t) {}
inline void unpoison(const void*, size_t) {}
#endif

}  // namespace sg
