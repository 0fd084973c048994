// What glibc 2.28 does not have, in place of the functions of newer versions: hidden definitions, which the linker
// prefers for our objects and for libstdc++ and libgcc, which are linked statically. See old_versions.cc for what 2.28
// has under another version.
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#define REPLACEMENT extern "C" __attribute__((visibility("hidden")))

// 2.33; earlier, the C library's header made calls of these two out of stat and fstat. 1 is the version of struct stat.
extern "C" int __xstat(int version, const char* path, struct stat* out) noexcept;
extern "C" int __fxstat(int version, int file, struct stat* out) noexcept;
REPLACEMENT int stat(const char* path, struct stat* out) noexcept { return __xstat(1, path, out); }
REPLACEMENT int fstat(int file, struct stat* out) noexcept { return __fxstat(1, file, out); }

// 2.32: whether libstdc++ may leave out locked instructions. Never: Node has threads from the start.
REPLACEMENT char __libc_single_threaded;
char __libc_single_threaded = 0;

// 2.30: a wait until a time of another clock than the condition's, for std::condition_variable::wait_for. Where the C
// library has it, it is taken; otherwise the time is translated, as libstdc++ does for such systems.
REPLACEMENT int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                       const timespec* until) {
  using Wait = int (*)(pthread_cond_t*, pthread_mutex_t*, clockid_t, const timespec*);
  static const Wait wait = reinterpret_cast<Wait>(dlsym(RTLD_DEFAULT, "pthread_cond_clockwait"));
  if (wait) return wait(condition, mutex, clock, until);
  timespec there{}, here{};
  clock_gettime(clock, &there);
  clock_gettime(CLOCK_REALTIME, &here);
  constexpr long kSecond = 1'000'000'000;
  const long nanoseconds = here.tv_nsec + until->tv_nsec - there.tv_nsec;  // between -1 and 2 seconds
  const long carry = nanoseconds < 0 ? -1 : nanoseconds / kSecond;
  const timespec translated{here.tv_sec + until->tv_sec - there.tv_sec + carry, nanoseconds - carry * kSecond};
  return pthread_cond_timedwait(condition, mutex, &translated);
}

// 2.35: which loaded object a program counter belongs to and where its table for unwinding is, asked by libgcc for each
// frame that an exception passes. Walking the list of objects is what libgcc does without it.
#ifdef DLFO_STRUCT_HAS_EH_DBASE
namespace {

struct Search {
  ElfW(Addr) address;
  dl_find_object* found;
};

int visit(dl_phdr_info* object, size_t, void* argument) {
  const Search& search = *static_cast<Search*>(argument);
  const ElfW(Phdr)* unwinding = nullptr;
  bool inside = false;
  ElfW(Addr) first = ~ElfW(Addr)(0), end = 0;
  for (int i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    if (part.p_type == PT_GNU_EH_FRAME) unwinding = &part;
    if (part.p_type != PT_LOAD) continue;
    const ElfW(Addr) start = object->dlpi_addr + part.p_vaddr;
    inside = inside || (search.address >= start && search.address - start < part.p_memsz);
    if (start < first) first = start;
    if (start + part.p_memsz > end) end = start + part.p_memsz;
  }
  if (!inside || !unwinding) return 0;
  *search.found = {};
  search.found->dlfo_map_start = reinterpret_cast<void*>(first);
  search.found->dlfo_map_end = reinterpret_cast<void*>(end);
  search.found->dlfo_eh_frame = reinterpret_cast<void*>(object->dlpi_addr + unwinding->p_vaddr);
  return 1;
}

}  // namespace

REPLACEMENT int _dl_find_object(void* address, dl_find_object* found) noexcept {
  Search search{reinterpret_cast<ElfW(Addr)>(address), found};
  return dl_iterate_phdr(visit, &search) == 1 ? 0 : -1;
}
#endif
