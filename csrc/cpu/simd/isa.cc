// Detection by cpuid through the compiler's builtins, which also ask the operating system (xgetbv).
#include "isa.h"

#include <cstdlib>
#include <cstring>

#include "../../core/error.h"

namespace sg {

static Isa best() {
#if defined(__x86_64__) && !defined(SG_PORTABLE_ONLY)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return Isa::kPortable;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bf16");
  return wide ? Isa::kAvx512 : Isa::kAvx2;
#else
  return Isa::kPortable;
#endif
}

const char* isa_name(Isa isa) {
  static const char* const names[] = {"portable", "avx2", "avx512"};
  return names[int(isa)];
}

static Isa chosen() {
  const Isa top = best();
  const char* wish = std::getenv("SHARDGRAD_ISA");
  if (!wish || !*wish) return top;
  for (Isa i : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512})
    if (!std::strcmp(wish, isa_name(i))) return i < top ? i : top;
  fail(ErrorCode::Device, "SHARDGRAD_ISA: expects portable, avx2 or avx512, got '", wish, "'");
}

Isa isa() {
  static const Isa value = chosen();
  return value;
}

}  // namespace sg
