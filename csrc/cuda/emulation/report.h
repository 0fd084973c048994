// Faults of kernels and of their callers. A report names kernel, block and thread, makes the launch fail with
// cudaErrorLaunchFailure, and so every test that looks at errors.
#pragma once
#include <cstdint>
#include <source_location>
#include <string>

namespace sg::emulation {

__attribute__((format(printf, 1, 2))) void report(const char* format, ...);
std::string describe(const std::source_location& site);
// File and line of machine code, callers of inlined functions included.
std::string describe_code(uintptr_t code);
// For faults that a loop repeats: counts the fault and says whether this pair of places is new, so that it should be
// told. Finding out the lines is slow, which is why the caller asks first.
bool fault_is_new(uintptr_t code, uintptr_t other = 0);
__attribute__((format(printf, 1, 2))) void tell(const char* format, ...);
unsigned long report_count();

}  // namespace sg::emulation
