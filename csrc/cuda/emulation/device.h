// What kernels see instead of nvcc's built-ins when they are compiled for the emulator: qualifiers, indices, shared
// memory, barriers, warp functions, launching. All of it calls into the emulated runtime, which is compiled without
// instrumentation: in the check build every load and store of *this* translation unit is looked at.
#pragma once
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <source_location>
#include <type_traits>

#include "export.h"

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))
#undef __shared__
#define __shared__ use_SG_SHARED_instead
#undef __grid_constant__
#define __grid_constant__

#define SG_DEVICE inline __attribute__((always_inline))
#define SG_SHARED(T, name, ...)                           \
  typedef T name##_of_block __VA_ARGS__;                  \
  static const char name##_key = 0;                       \
  name##_of_block& name = *static_cast<name##_of_block*>( \
      ::sg::emulation::shared_array(&name##_key, sizeof(name##_of_block), alignof(name##_of_block)))
#define SG_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::sg::emulation::dynamic_shared())

// Constant for the thread that reads them: the scheduler sets them before it switches to a thread.
extern "C" {
extern SG_EMULATION_API const uint3 threadIdx, blockIdx;
extern SG_EMULATION_API const dim3 blockDim, gridDim;
}
inline constexpr int warpSize = 32;

namespace sg::emulation {

using Site = std::source_location;

enum class Collective { Shuffle, Vote, Match, SyncWarp, Reduce, LoadMatrix, MultiplyMatrix };
// Called once, by the lane that arrives last, with what every lane of the mask passed.
using CollectiveFn = void (*)(void* const* lanes, unsigned mask);
enum class Predicate { None, Count, And, Or };

SG_EMULATION_API void collective(unsigned mask, Collective kind, void* lane_argument, CollectiveFn run, Site site);
SG_EMULATION_API int block_barrier(Predicate predicate, int value, Site site);
SG_EMULATION_API void named_barrier(int id, int threads, bool wait, Site site);
// `source` is the lane this lane reads; replaces `bytes` (at most 16) at `value`.
SG_EMULATION_API void shuffle(unsigned mask, void* value, unsigned bytes, unsigned source, Site site);
SG_EMULATION_API unsigned ballot(unsigned mask, int predicate, Site site);
SG_EMULATION_API unsigned match_any(unsigned mask, unsigned long long value, Site site);
SG_EMULATION_API unsigned lane();
SG_EMULATION_API void fence();
SG_EMULATION_API void* shared_array(const void* key, size_t bytes, size_t alignment);
SG_EMULATION_API void* dynamic_shared();
// An access that the emulator makes in the kernel's name, seen by the checker as the caller's.
enum class Access { Read, Write, Atomic };
SG_EMULATION_API void note_access(const void* p, size_t bytes, Access access);

// `invoke` runs the kernel for one thread; `arguments` are copied.
using Invoke = void (*)(const void* arguments);
SG_EMULATION_API cudaError_t enqueue_kernel(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
                                            cudaStream_t stream, Invoke invoke, const void* arguments, size_t bytes,
                                            size_t alignment);

}  // namespace sg::emulation

namespace sg::gpu {
template <class... Parameters>
cudaError_t start_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                         std::type_identity_t<Parameters>... arguments) {
  const auto call = [=] { kernel(arguments...); };
  using Call = decltype(call);
  static_assert(std::is_trivially_destructible_v<Call>);
  return emulation::enqueue_kernel(
      reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream,
      [](const void* p) { (*static_cast<const std::remove_const_t<Call>*>(p))(); }, &call, sizeof call, alignof(Call));
}
}  // namespace sg::gpu

// ---- barriers and fences
#define SG_SITE ::sg::emulation::Site site = ::sg::emulation::Site::current()
inline void __syncthreads(SG_SITE) { sg::emulation::block_barrier(sg::emulation::Predicate::None, 0, site); }
inline int __syncthreads_count(int predicate, SG_SITE) {
  return sg::emulation::block_barrier(sg::emulation::Predicate::Count, predicate, site);
}
inline int __syncthreads_and(int predicate, SG_SITE) {
  return sg::emulation::block_barrier(sg::emulation::Predicate::And, predicate, site);
}
inline int __syncthreads_or(int predicate, SG_SITE) {
  return sg::emulation::block_barrier(sg::emulation::Predicate::Or, predicate, site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, SG_SITE) {
  sg::emulation::collective(mask, sg::emulation::Collective::SyncWarp, nullptr, nullptr, site);
}
inline void __threadfence() { sg::emulation::fence(); }
inline void __threadfence_system() { sg::emulation::fence(); }
inline void __threadfence_block() {}

// ---- warp functions
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SG_SITE) {
  const int lane = sg::emulation::lane();
  sg::emulation::shuffle(mask, &value, sizeof value, (lane & ~(width - 1)) | (source & (width - 1)), site);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SG_SITE) {
  const int lane = sg::emulation::lane(), source = lane ^ bits;
  sg::emulation::shuffle(mask, &value, sizeof value, source / width > lane / width ? lane : source, site);
  return value;
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SG_SITE) {
  const int lane = sg::emulation::lane(), source = lane + int(delta);
  sg::emulation::shuffle(mask, &value, sizeof value, (lane & (width - 1)) + int(delta) < width ? source : lane, site);
  return value;
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SG_SITE) {
  const int lane = sg::emulation::lane(), source = lane - int(delta);
  sg::emulation::shuffle(mask, &value, sizeof value, (lane & (width - 1)) >= int(delta) ? source : lane, site);
  return value;
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SG_SITE) {
  return sg::emulation::ballot(mask, predicate, site);
}
inline int __any_sync(unsigned mask, int predicate, SG_SITE) {
  return sg::emulation::ballot(mask, predicate, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SG_SITE) {
  return sg::emulation::ballot(mask, predicate, site) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, SG_SITE) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  return sg::emulation::match_any(mask, bits, site);
}
template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* all, SG_SITE) {
  *all = __match_any_sync(mask, value, site) == mask;
  return *all ? mask : 0;
}

namespace sg::emulation {
template <class T>
struct Reduction {
  T value;
  T result;
};
// The result of every lane of the mask is the fold of all their values.
template <class T, T (*kFold)(T, T)>
T reduce(unsigned mask, T value, Site site) {
  Reduction<T> mine{value, value};
  collective(
      mask, Collective::Reduce, &mine,
      [](void* const* lanes, unsigned members) __attribute__((no_sanitize("thread", "undefined"))) {
        T total{};
        bool first = true;
        for (unsigned left = members; left; left &= left - 1) {
          const T next = static_cast<Reduction<T>*>(lanes[__builtin_ctz(left)])->value;
          total = first ? next : kFold(total, next);
          first = false;
        }
        for (unsigned left = members; left; left &= left - 1)
          static_cast<Reduction<T>*>(lanes[__builtin_ctz(left)])->result = total;
      },
      site);
  return mine.result;
}
#define SG_FOLD(name, expression)                                               \
  template <class T>                                                            \
  __attribute__((no_sanitize("thread", "undefined"))) inline T name(T a, T b) { \
    return expression;                                                          \
  }
SG_FOLD(fold_add, a + b)
SG_FOLD(fold_min, b < a ? b : a)
SG_FOLD(fold_max, a < b ? b : a)
SG_FOLD(fold_and, a& b)
SG_FOLD(fold_or, a | b)
SG_FOLD(fold_xor, a ^ b)
#undef SG_FOLD
}  // namespace sg::emulation
#define SG_REDUX(name, T, fold)                                                 \
  inline T name(unsigned mask, T value, SG_SITE) {                              \
    return sg::emulation::reduce<T, sg::emulation::fold<T>>(mask, value, site); \
  }
SG_REDUX(__reduce_add_sync, unsigned, fold_add)
SG_REDUX(__reduce_add_sync, int, fold_add)
SG_REDUX(__reduce_min_sync, unsigned, fold_min)
SG_REDUX(__reduce_min_sync, int, fold_min)
SG_REDUX(__reduce_max_sync, unsigned, fold_max)
SG_REDUX(__reduce_max_sync, int, fold_max)
SG_REDUX(__reduce_and_sync, unsigned, fold_and)
SG_REDUX(__reduce_or_sync, unsigned, fold_or)
SG_REDUX(__reduce_xor_sync, unsigned, fold_xor)
#undef SG_REDUX

#include "atomics.h"
#include "intrinsics.h"
