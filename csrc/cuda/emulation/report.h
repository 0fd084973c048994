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
// The same pair of places is told once, however often it happens: true at the first time.
bool first_time(uintptr_t code, uintptr_t other = 0);
unsigned long report_count();

}  // namespace sg::emulation
