// Which instruction set the kernels use, decided once at run time. One binary carries all of them (for_each_isa.h).
#pragma once

namespace sg {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The best set this machine has; kAvx512 includes the bf16 dot products. SHARDGRAD_ISA = portable | avx2 | avx512
// lowers it (never raises it), which is how the tests reach every path.
Isa isa();
const char* isa_name(Isa isa);

}  // namespace sg

// SG_PORTABLE_ONLY leaves the other sets out: the sanitized build, where they would cost most of the compile time.
// Calls sg::avx512::function, sg::avx2::function or sg::portable::function; the arguments are evaluated once. A
// template must deduce its parameters.
#if defined(__x86_64__) && !defined(SG_PORTABLE_ONLY)
#define SG_ISA_CALL(function, ...)                                         \
  (::sg::isa() == ::sg::Isa::kAvx512 ? ::sg::avx512::function(__VA_ARGS__) \
   : ::sg::isa() == ::sg::Isa::kAvx2 ? ::sg::avx2::function(__VA_ARGS__)   \
                                     : ::sg::portable::function(__VA_ARGS__))
#else
#define SG_ISA_CALL(function, ...) ::sg::portable::function(__VA_ARGS__)
#endif
