// A stack that a thread of a kernel runs on. Switching costs a dozen instructions on x86-64; elsewhere ucontext does it
// with two system calls.
#pragma once
#include <cstddef>
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace sg::emulation {

class Fiber {
 public:
  // Makes the fiber enter `entry`, which never returns, at the next switch to it; whatever it did before is forgotten.
  void reset(char* stack, size_t bytes, void (*entry)());
  static void switch_to(Fiber& from, Fiber& to);

 private:
#ifdef __x86_64__
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

// The stacks lie side by side, so that a look at the frame's address tells whether a kernel is running on it.
inline constexpr size_t kStackBytes = 128 << 10;
inline constexpr int kMaxThreads = 1024;  // of a block
char* stack_of(int fiber);
// Not the same for all: tops at equal distances would all want the same few cache lines.
size_t stack_bytes(int fiber);
bool on_fiber_stack(const void* address);
bool same_stack(const void* a, const void* b);  // both on stacks

}  // namespace sg::emulation
