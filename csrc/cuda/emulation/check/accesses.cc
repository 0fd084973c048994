// Every access of a kernel, as the compiler's hooks and the emulator's own functions report it.
#include "accesses.h"

#include <link.h>
#include <algorithm>
#include <vector>

#include "../block.h"
#include "../checker.h"
#include "../device.h"
#include "../device_state.h"
#include "../memory.h"
#include "../options.h"
#include "../shared_memory.h"
#include "../stream.h"
#include "shadow.h"

namespace sg::emulation {

namespace {

constexpr size_t kSharedCells = kSharedSpan / 4;
uint8_t shared_states[kSharedSpan];
Cell shared_cells[kSharedCells];
size_t dynamic_bytes, end_of_arrays;

const char* name_of(const AccessKind& kind) { return kind.atomic ? "atomic" : kind.writes ? "write" : "read"; }

// ---- memory that a kernel may touch besides its own: constants and variables of loaded code, its arguments
struct Range {
  uintptr_t begin, end;
};
std::vector<Range> module_ranges;

int add_module(dl_phdr_info* info, size_t, void*) {
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
    module_ranges.push_back({begin, begin + segment.p_memsz});
  }
  return 0;
}
bool in_modules(uintptr_t address) {
  for (size_t i = 0; i < module_ranges.size(); i++) {
    if (address < module_ranges[i].begin || address >= module_ranges[i].end) continue;
    std::swap(module_ranges[i], module_ranges[0]);  // the same one is asked for again
    return true;
  }
  return false;
}
bool in_loaded_code(uintptr_t address) {
  if (in_modules(address)) return true;
  module_ranges.clear();
  dl_iterate_phdr(add_module, nullptr);
  return in_modules(address);
}

void touch_elsewhere(uintptr_t address, size_t bytes, const AccessKind& kind, uintptr_t code) {
  const auto arguments = reinterpret_cast<uintptr_t>(block.launch->arguments.get());
  void* const p = reinterpret_cast<void*>(address);
  if (on_fiber_stack(p)) {
    if (same_stack(p, __builtin_frame_address(0))) return;
    if (fault_is_new(code))
      tell("%s of another thread's local memory at %p (%s)", name_of(kind), p, describe_code(code).c_str());
    abandon_block();
  }
  if (address - arguments < block.launch->argument_bytes || is_registered(p, bytes) || in_loaded_code(address)) return;
  if (fault_is_new(code))
    tell("%s of host memory at %p, which the device cannot see (%s)", name_of(kind), p, describe_code(code).c_str());
  abandon_block();
}

// Whether an access reads what nobody wrote. Copies of structs read their padding too, which lies behind a member and
// is the smaller part; so the first byte and most of the others decide.
bool reads_unwritten(const uint8_t* states, size_t bytes, const AccessKind& kind) {
  return kind.reads && (states[0] == kAllocated || size_t(std::count(states, states + bytes, kAllocated)) * 2 > bytes);
}

void touch_device(int arena, uintptr_t address, size_t bytes, const AccessKind& kind, uintptr_t code) {
  const Shadow& shadow = shadow_of(arena);
  void* const p = reinterpret_cast<void*>(address);
  const size_t offset = arena_offset(p);
  if (arena != kHostArena && !peers(running_device(), arena)) {
    if (fault_is_new(code))
      tell("a kernel of device %d touches memory of device %d at %p without peer access (%s)", running_device(), arena,
           p, describe_code(code).c_str());
    abandon_block();
  }
  uint8_t* const states = shadow.states + offset;
  if (reads_unwritten(states, bytes, kind)) {
    if (fault_is_new(code))
      tell("%s of global memory at %p that was never written (%s)", name_of(kind), p, describe_code(code).c_str());
    std::replace(states, states + bytes, uint8_t(kAllocated), uint8_t(kWritten));
  }
  for (size_t i = 0; i < bytes; i++) {
    uint8_t& state = states[i];
    if (state == kNothing || state == kFreed) {
      if (fault_is_new(code))
        tell("%s of %zu bytes at %p, %s (%s)", name_of(kind), bytes, p,
             state == kFreed ? "which have been freed" : "outside of any allocation", describe_code(code).c_str());
      abandon_block();
    }
    if (kind.writes) state = kWritten;
  }
  access_cells(shadow.cells, offset, address, bytes, {false, kind.writes, kind.atomic, code});
  if (kind.atomic && kind.writes) meet_at(address);
}

void touch_shared(size_t offset, size_t bytes, const AccessKind& kind, uintptr_t code) {
  const auto address = reinterpret_cast<uintptr_t>(shared_memory()) + offset;
  uint8_t* const states = shared_states + offset;
  if (reads_unwritten(states, bytes, kind)) {
    if (fault_is_new(code))
      tell("%s of shared memory that was never written, or into which a copy is under way (%s)", name_of(kind),
           describe_code(code).c_str());
    std::replace(states, states + bytes, uint8_t(kAllocated), uint8_t(kWritten));
  }
  for (size_t i = 0; i < bytes; i++) {
    uint8_t& state = states[i];
    if (state == kNothing) {
      if (fault_is_new(code))
        tell("%s of %zu bytes outside of any shared array%s (%s)", name_of(kind), bytes,
             offset < kSharedLimit ? ", behind the launch's shared memory" : "", describe_code(code).c_str());
      abandon_block();
    }
    if (kind.writes) state = kWritten;
  }
  access_cells(shared_cells, offset, address, bytes, {true, kind.writes, kind.atomic, code});
}

void touch_from_host(int arena, uintptr_t address, const AccessKind& kind, uintptr_t code) {
  if (arena == kHostArena || !runtime_mutex.try_lock()) return;
  if (fault_is_new(code))
    tell("%s of device memory at %p by host code (%s)", name_of(kind), reinterpret_cast<void*>(address),
         describe_code(code).c_str());
  runtime_mutex.unlock();
}

}  // namespace

void touch(uintptr_t address, size_t bytes, const AccessKind& kind, uintptr_t code) {
  void* const p = reinterpret_cast<void*>(address);
  const bool in_kernel = on_fiber_stack(__builtin_frame_address(0));
  const int arena = arena_of(p);
  if (!in_kernel) {
    if (arena != kNoArena) touch_from_host(arena, address, kind, code);
    return;
  }
  const size_t in_shared = address - reinterpret_cast<uintptr_t>(shared_memory());
  if (arena == kNoArena && in_shared >= kSharedSpan) return touch_elsewhere(address, bytes, kind, code);
  if (kind.aligned && (bytes & (bytes - 1)) == 0 && address % std::min<size_t>(bytes, 16)) {
    if (fault_is_new(code))
      tell("%s of %zu bytes at %p, which is not aligned to them (%s)", name_of(kind), bytes, p,
           describe_code(code).c_str());
    abandon_block();
  }
  if (arena != kNoArena) touch_device(arena, address, bytes, kind, code);
  else touch_shared(in_shared, bytes, kind, code);
  if (options().preempt && random_number() % options().preempt == 0) yield_here();
}

namespace checker {

void access(const void* p, size_t bytes, Access access, uintptr_t code) {
  const bool atomic = access == Access::Atomic;
  touch(reinterpret_cast<uintptr_t>(p), bytes, {access != Access::Write, access != Access::Read, atomic, true}, code);
}

void copy_starts(void* to, int bytes, const void* from, int source_bytes, uintptr_t code) {
  const size_t offset = size_t(static_cast<char*>(to) - shared_memory());
  if (offset >= kSharedSpan) {
    if (fault_is_new(code)) tell("cp.async to %p, which is not in shared memory (%s)", to, describe_code(code).c_str());
    abandon_block();
  }
  if (source_bytes) touch(reinterpret_cast<uintptr_t>(from), size_t(source_bytes), {true, false, false, false}, code);
  touch(reinterpret_cast<uintptr_t>(to), size_t(bytes), {false, true, false, true}, code);
  std::fill_n(shared_states + offset, bytes, uint8_t(kAllocated));
}
void copy_lands(void* to, int bytes, uintptr_t code) {
  touch_shared(size_t(static_cast<char*>(to) - shared_memory()), size_t(bytes), {false, true, false, true}, code);
}

void shared_memory_starts(size_t bytes) {
  std::fill_n(shared_states, dynamic_bytes, uint8_t(kNothing));
  if (end_of_arrays > kSharedLimit)
    std::fill(shared_states + kSharedLimit, shared_states + end_of_arrays, uint8_t(kNothing));
  std::fill_n(shared_states, bytes, uint8_t(kAllocated));
  dynamic_bytes = bytes;
  end_of_arrays = 0;
}
void shared_array_starts(size_t offset, size_t bytes) {
  std::fill_n(shared_states + offset, bytes, uint8_t(kAllocated));
  end_of_arrays = std::max(end_of_arrays, offset + bytes);
}

}  // namespace checker
}  // namespace sg::emulation
