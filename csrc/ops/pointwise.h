// The one table of pointwise operations: X(domain, name, arity, expression over the lanes a, b, c of type L). L is a
// number or a SIMD vector, so an expression uses arithmetic, the functions of vmath and functors.h, and `select` in
// place of branches. JavaScript reads the table from the addon; the order fixes the codes that cross the boundary.
// PyTorch's names and meaning: comparisons and predicates give 0 or 1, min and max propagate NaN, round is half to
// even.
#pragma once
#include "../core/device.h"

namespace sg {

// Which compute dtypes an operation exists in: kFloat: float32, float64; kInteger: int64; kAny: all three.
enum class Domain : int { kFloat, kAny, kInteger };

// clang-format off
#define SG_POINTWISE(X)                                                                                           \
  /* unary */                                                                                                     \
  X(kAny,     identity,               1, a)                                                                       \
  X(kAny,     neg,                    1, -a)                                                                      \
  X(kAny,     abs,                    1, abs(a))                                                                  \
  X(kAny,     sign,                   1, sign(a))                                                                 \
  X(kAny,     square,                 1, a * a)                                                                   \
  X(kFloat,   reciprocal,             1, L(1) / a)                                                                \
  X(kFloat,   sqrt,                   1, sqrt(a))                                                                 \
  X(kFloat,   rsqrt,                  1, L(1) / sqrt(a))                                                          \
  X(kFloat,   exp,                    1, exp(a))                                                                  \
  X(kFloat,   exp2,                   1, exp2(a))                                                                 \
  X(kFloat,   expm1,                  1, expm1(a))                                                                \
  X(kFloat,   log,                    1, log(a))                                                                  \
  X(kFloat,   log2,                   1, log2(a))                                                                 \
  X(kFloat,   log10,                  1, log10(a))                                                                \
  X(kFloat,   log1p,                  1, log1p(a))                                                                \
  X(kFloat,   sin,                    1, sin(a))                                                                  \
  X(kFloat,   cos,                    1, cos(a))                                                                  \
  X(kFloat,   tan,                    1, tan(a))                                                                  \
  X(kFloat,   asin,                   1, asin(a))                                                                 \
  X(kFloat,   acos,                   1, acos(a))                                                                 \
  X(kFloat,   atan,                   1, atan(a))                                                                 \
  X(kFloat,   sinh,                   1, sinh(a))                                                                 \
  X(kFloat,   cosh,                   1, cosh(a))                                                                 \
  X(kFloat,   tanh,                   1, tanh(a))                                                                 \
  X(kFloat,   asinh,                  1, asinh(a))                                                                \
  X(kFloat,   acosh,                  1, acosh(a))                                                                \
  X(kFloat,   atanh,                  1, atanh(a))                                                                \
  X(kFloat,   erf,                    1, erf(a))                                                                  \
  X(kFloat,   erfc,                   1, erfc(a))                                                                 \
  X(kFloat,   sigmoid,                1, sigmoid(a))                                                              \
  X(kFloat,   logSigmoid,             1, log_sigmoid(a))                                                          \
  X(kAny,     relu,                   1, select(a < L(0), L(0), a))                                               \
  X(kAny,     relu6,                  1, clamp(a, L(0), L(6)))                                                    \
  X(kFloat,   gelu,                   1, gelu_erf(a))                                                             \
  X(kFloat,   geluTanh,               1, gelu_tanh(a))                                                            \
  X(kFloat,   silu,                   1, silu(a))                                                                 \
  X(kFloat,   mish,                   1, mish(a))                                                                 \
  X(kFloat,   softplus,               1, softplus(a))                                                             \
  X(kFloat,   selu,                   1, selu(a))                                                                 \
  X(kFloat,   hardtanh,               1, clamp(a, L(-1), L(1)))                                                   \
  X(kFloat,   hardswish,              1, a * hardsigmoid(a))                                                      \
  X(kFloat,   hardsigmoid,            1, hardsigmoid(a))                                                          \
  X(kAny,     ceil,                   1, ceil(a))                                                                 \
  X(kAny,     floor,                  1, floor(a))                                                                \
  X(kAny,     round,                  1, round(a))                                                                \
  X(kAny,     trunc,                  1, trunc(a))                                                                \
  X(kFloat,   frac,                   1, a - trunc(a))                                                            \
  X(kFloat,   isnan,                  1, flag<L>(a != a))                                                         \
  X(kFloat,   isinf,                  1, flag<L>(abs(a) == L(INFINITY)))                                          \
  X(kFloat,   isfinite,               1, flag<L>(abs(a) < L(INFINITY)))                                           \
  X(kAny,     logicalNot,             1, flag<L>(a == L(0)))                                                      \
  X(kInteger, bitwiseNot,             1, ~a)                                                                      \
  /* binary */                                                                                                    \
  X(kAny,     add,                    2, a + b)                                                                   \
  X(kAny,     sub,                    2, a - b)                                                                   \
  X(kAny,     mul,                    2, a * b)                                                                   \
  X(kFloat,   div,                    2, a / b)                                                                   \
  X(kAny,     pow,                    2, pow(a, b))                                                               \
  X(kAny,     maximum,                2, maximum(a, b))                                                           \
  X(kAny,     minimum,                2, minimum(a, b))                                                           \
  X(kAny,     fmod,                   2, fmod(a, b))                                                              \
  X(kAny,     remainder,              2, remainder(a, b))                                                         \
  X(kAny,     floorDivide,            2, floor_divide(a, b))                                                      \
  X(kFloat,   atan2,                  2, atan2(a, b))                                                             \
  X(kFloat,   hypot,                  2, hypot(a, b))                                                             \
  X(kFloat,   logaddexp,              2, logaddexp(a, b))                                                         \
  X(kFloat,   copysign,               2, copysign(a, b))                                                          \
  X(kFloat,   xlogy,                  2, xlogy(a, b))                                                             \
  X(kAny,     eq,                     2, flag<L>(a == b))                                                         \
  X(kAny,     ne,                     2, flag<L>(a != b))                                                         \
  X(kAny,     lt,                     2, flag<L>(a < b))                                                          \
  X(kAny,     le,                     2, flag<L>(a <= b))                                                         \
  X(kAny,     gt,                     2, flag<L>(a > b))                                                          \
  X(kAny,     ge,                     2, flag<L>(a >= b))                                                         \
  X(kAny,     logicalAnd,             2, flag<L>((a != L(0)) & (b != L(0))))                                      \
  X(kAny,     logicalOr,              2, flag<L>((a != L(0)) | (b != L(0))))                                      \
  X(kAny,     logicalXor,             2, flag<L>((a != L(0)) ^ (b != L(0))))                                      \
  X(kInteger, bitwiseAnd,             2, a & b)                                                                   \
  X(kInteger, bitwiseOr,              2, a | b)                                                                   \
  X(kInteger, bitwiseXor,             2, a ^ b)                                                                   \
  X(kInteger, shiftLeft,              2, a << b)                                                                  \
  X(kInteger, shiftRight,             2, a >> b)                                                                  \
  X(kFloat,   leakyRelu,              2, select(a > L(0), a, a * b))             /* x, slope */                   \
  X(kFloat,   elu,                    2, select(a > L(0), a, b * expm1(a)))      /* x, alpha */                   \
  X(kFloat,   bceWithLogits,          2, bce_with_logits(a, b))                  /* x, target */                  \
  /* ternary */                                                                                                   \
  X(kAny,     where,                  3, select(a != L(0), b, c))                                                 \
  X(kAny,     clamp,                  3, clamp(a, b, c))                         /* x, low, high */               \
  X(kAny,     between,                3, flag<L>((a >= b) & (a <= c)))           /* clamp's mask */               \
  X(kFloat,   lerp,                   3, lerp(a, b, c))                                                           \
  X(kAny,     mulAdd,                 3, a * b + c)                                                               \
  X(kFloat,   smoothL1,               3, smooth_l1(a, b, c))                     /* x, y, beta */                 \
  X(kFloat,   huber,                  3, huber(a, b, c))                         /* x, y, delta */                \
  /* backward: a is dy, then what the rule needs: x the input, y the result */                                    \
  X(kFloat,   absBackward,            2, a * sign(b))                            /* x */                          \
  X(kFloat,   reciprocalBackward,     2, -a * b * b)                             /* y */                          \
  X(kFloat,   sqrtBackward,           2, a / (b + b))                            /* y */                          \
  X(kFloat,   rsqrtBackward,          2, L(-0.5) * a * b * b * b)                /* y */                          \
  X(kFloat,   erfBackward,            2, erf_backward(a, b))                     /* x */                          \
  X(kFloat,   tanhBackward,           2, a * (L(1) - b * b))                     /* y */                          \
  X(kFloat,   sigmoidBackward,        2, a * b * (L(1) - b))                     /* y */                          \
  X(kFloat,   logSigmoidBackward,     2, a * sigmoid(-b))                        /* x */                          \
  X(kFloat,   softplusBackward,       2, a * sigmoid(b))                         /* x */                          \
  X(kFloat,   reluBackward,           2, select(b <= L(0), L(0), a))             /* x or y */                     \
  X(kFloat,   relu6Backward,          2, inside(a, b, L(0), L(6)))               /* x or y */                     \
  X(kFloat,   hardtanhBackward,       2, inside(a, b, L(-1), L(1)))              /* x or y */                     \
  X(kFloat,   hardsigmoidBackward,    2, inside(a / L(6), b, L(-3), L(3)))       /* x */                          \
  X(kFloat,   hardswishBackward,      2, hardswish_backward(a, b))               /* x */                          \
  X(kFloat,   geluBackward,           2, a * gelu_erf_grad(b))                   /* x */                          \
  X(kFloat,   geluTanhBackward,       2, a * gelu_tanh_grad(b))                  /* x */                          \
  X(kFloat,   siluBackward,           2, silu_backward(a, b))                    /* x */                          \
  X(kFloat,   mishBackward,           2, mish_backward(a, b))                    /* x */                          \
  X(kFloat,   seluBackward,           2, selu_backward(a, b))                    /* x */                          \
  X(kFloat,   eluBackward,            3, select(b > L(0), a, a * c * exp(b)))    /* x, alpha */                   \
  X(kFloat,   leakyReluBackward,      3, select(b > L(0), a, a * c))             /* x, slope */                   \
  X(kFloat,   maximumBackward,        3, maximum_backward(a, b, c))              /* x, other: for x */            \
  X(kFloat,   minimumBackward,        3, maximum_backward(a, c, b))              /* x, other: for x */            \
  X(kFloat,   divBackward,            3, -a * b / c)                             /* y, b: for b of y = a / b */   \
  X(kFloat,   powBackward,            3, pow_backward(a, b, c))                  /* base, exponent: for base */   \
  X(kFloat,   powBackwardExponent,    3, pow_backward_exponent(a, b, c))         /* the same, for exponent */     \
  X(kFloat,   bceWithLogitsBackward,  3, a * (sigmoid(b) - c))                   /* x, target */                  \
  /* without dy, which would be a fourth operand: the derivative by x */                                          \
  X(kFloat,   smoothL1Derivative,     3, smooth_l1_derivative(a, b, c))          /* x, y, beta */                 \
  X(kFloat,   huberDerivative,        3, clamp(a - b, -c, c))                    /* x, y, delta */
// clang-format on

#define SG_ROW(domain, name, arity, ...) k_##name,
enum class PointwiseOp : int { SG_POINTWISE(SG_ROW) kCount };
#undef SG_ROW

struct PointwiseRow {
  const char* name;
  int arity;
  Domain domain;
};

// Indexed by the op's code; the Node-API layer hands it to JavaScript.
#define SG_ROW(domain, name, arity, ...) {#name, arity, Domain::domain},
inline constexpr PointwiseRow kPointwiseOps[] = {SG_POINTWISE(SG_ROW)};
#undef SG_ROW

}  // namespace sg
