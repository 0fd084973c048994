// The switch between fibers, and their stacks: address space for all of them at once, memory only for what is touched,
// and a page without access below each, so that an overflow stops at once instead of writing over a neighbour.
#include "fiber.h"

#include <sys/mman.h>
#include <cstdint>
#include <cstdlib>

#ifdef __x86_64__
// Saves what the calling convention keeps, swaps stacks, restores.
asm(R"(
.text
.globl sg_emulation_switch
.hidden sg_emulation_switch
.type sg_emulation_switch,@function
sg_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sg_emulation_switch,.-sg_emulation_switch
)");
extern "C" void sg_emulation_switch(void** save, void* load);
#endif

namespace sg::emulation {

#ifdef __x86_64__
void Fiber::reset(char* stack, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + bytes - 64);
  *--top = nullptr;  // the return address `entry` never uses; it leaves the stack aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int saved_register = 0; saved_register < 6; saved_register++) *--top = nullptr;
  stack_pointer_ = top;
}
void Fiber::switch_to(Fiber& from, Fiber& to) { sg_emulation_switch(&from.stack_pointer_, to.stack_pointer_); }
#else
void Fiber::reset(char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
}
void Fiber::switch_to(Fiber& from, Fiber& to) { swapcontext(&from.context_, &to.context_); }
#endif

static char* all_stacks() {
  static char* const base = [] {
    void* p = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) abort();  // 128 MiB of addresses: nothing could run without them
    for (int i = 0; i < kMaxThreads; i++) mprotect(static_cast<char*>(p) + i * kStackBytes, 4096, PROT_NONE);
    return static_cast<char*>(p);
  }();
  return base;
}
char* stack_of(int fiber) { return all_stacks() + fiber * kStackBytes; }
size_t stack_bytes(int fiber) { return kStackBytes - size_t(fiber % 64) * 192; }
bool on_fiber_stack(const void* address) {
  return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(all_stacks()) < kStackBytes * kMaxThreads;
}
bool same_stack(const void* a, const void* b) {
  const auto stack = [](const void* p) { return size_t(static_cast<const char*>(p) - all_stacks()) / kStackBytes; };
  return stack(a) == stack(b);
}

}  // namespace sg::emulation
