// Compiles one kernel file once per instruction set. A source file csrc/cpu/norm.cc says
//
//   #define SG_KERNELS "../kernels/norm.h"
//   #include "simd/for_each_isa.h"
//
// and calls SG_ISA_CALL(layer_norm, x, y): sg::avx512::layer_norm, sg::avx2::… or sg::portable::… The kernel file has
// no include guard and includes no standard header (they would land inside the namespace): the .cc includes those
// first.
//
// Instruction sets are chosen by function attributes, never by -march, so templates of the standard library stay
// baseline code and the linker cannot pick a copy that the machine cannot run. In a kernel file
//   KT  marks every function and every lambda that touches lanes: `KT void f(…)`, `[&](int task) KT { … }`
//   KI  marks every small function: inline, always inlined, same target. Functors of csrc/ops are compiled with it, too
//   KL  marks small lambdas: `[&](V x) KL { … }`
// A kernel that passes lanes to a function without either fails to compile ("target specific option mismatch").
//
// The lane API, the same in every namespace (lanes.h, vec_*.h, vmath.h). V is vf (float lanes) or vd (double lanes); T
// is float, double, bfloat16 or float16, converted on the way:
//   V::W, V::value, V::mask, lanes_of<T>       V(1.5) broadcasts; + - * / and comparisons; & | ^ ! on masks
//   load<V>(p), load<V>(p, n), store(p, v), store(p, v, n)   n: the first n lanes only (any n; others load as 0)
//   first<V>(n)  select(mask, a, b)  any(mask)  all(mask)
//   fma(a, b, c) = a b + c, fnma(a, b, c) = c - a b, min, max (b where either is NaN), abs, sqrt, copysign(magnitude,
//   sign) round (half to even), floor, ceil, trunc, scale(a, n) = a 2^n (n integral), fast_rcp(a) (a finite and not 0,
//   2 ulp) reduce_add, reduce_max, reduce_min         iota<V>() = 0, 1, 2… per_lane(f, a), per_lane(f, a, b) any scalar
//   function, lane by lane vmath.h: exp exp2 expm1 log log2 log10 log1p sigmoid tanh erf sin cos pow … and the GELU
//   family
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../../core/thread_pool.h"
#include "../../core/view.h"
#include "isa.h"

#if defined(__clang__)
#define SG_PRAGMA(text) _Pragma(#text)
#define SG_UNROLL(n) SG_PRAGMA(clang loop unroll_count(n))
#else
#define SG_PRAGMA(text) _Pragma(#text)
#define SG_UNROLL(n) SG_PRAGMA(GCC unroll n)
#pragma GCC diagnostic ignored "-Wpsabi"          // lanes cross no boundary between differently compiled code
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC's own AVX-512 headers start from an undefined register
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define KL __attribute__((always_inline)) KT
#define KI inline KL

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__x86_64__) && !defined(SG_PORTABLE_ONLY)

#define KT __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")))
namespace sg::avx512 {
#include "vec_avx512.h"
#include "vmath.h"
#include SG_KERNELS
}  // namespace sg::avx512
#undef KT

#define KT __attribute__((target("avx2,fma,f16c")))
namespace sg::avx2 {
#include "vec_avx2.h"
#include "vmath.h"
#include SG_KERNELS
}  // namespace sg::avx2
#undef KT
#endif

#define KT
namespace sg::portable {
#include "vec_portable.h"
#include "vmath.h"
#include SG_KERNELS
}  // namespace sg::portable
#undef KI
#undef KL
#undef KT
