// The pointwise table compiled into loops over registers: one function an operation and storage type. Besides the three
// compute types these are bfloat16 and float16, converted in registers, for the common case that a whole operation is
// in one 16-bit type. An operand without memory is a number that stays in a register.

#include "int_lanes.h"

template <class L, class T>
KI L number_of(const Operand& x) {
  if constexpr (std::is_same_v<T, int64_t>) return Int(x.integer);
  else return L(typename L::value(x.number));
}
template <class L, class T>
KI L lanes_at(const T* p, int64_t i, L number) {
  return p ? load<L>(p + i) : number;
}

#define SG_ROW(domain, name, arity, ...)                                                  \
  struct Op_##name {                                                                      \
    static constexpr Domain kDomain = Domain::domain;                                     \
    template <class L>                                                                    \
    KI static L apply([[maybe_unused]] L a, [[maybe_unused]] L b, [[maybe_unused]] L c) { \
      return __VA_ARGS__;                                                                 \
    }                                                                                     \
  };
SG_POINTWISE(SG_ROW)
#undef SG_ROW

template <class Op, class T>
KT void pointwise_loop(const Operand* in, void* out, int64_t n) {
  using L = lane_for<T>;
  static_assert(kPointwisePadding % L::W == 0);
  const T *a = static_cast<const T*>(in[0].data), *b = static_cast<const T*>(in[1].data);
  const T* c = static_cast<const T*>(in[2].data);
  const L na = number_of<L, T>(in[0]), nb = number_of<L, T>(in[1]), nc = number_of<L, T>(in[2]);
  T* y = static_cast<T*>(out);
  for (int64_t i = 0; i < n; i += L::W) {
    store(y + i, Op::template apply<L>(lanes_at(a, i, na), lanes_at(b, i, nb), lanes_at(c, i, nc)));
  }
}

template <class Op, class T>
constexpr PointwiseKernel pointwise_kernel_or_null() {
  constexpr bool integer = std::is_same_v<T, int64_t>;
  if constexpr (Op::kDomain == (integer ? Domain::kFloat : Domain::kInteger)) return nullptr;
  else return pointwise_loop<Op, T>;
}

template <class T>
inline PointwiseKernel pointwise_kernel_of(PointwiseOp op) {
#define SG_ROW(domain, name, arity, ...) pointwise_kernel_or_null<Op_##name, T>(),
  static constexpr PointwiseKernel table[] = {SG_POINTWISE(SG_ROW)};
#undef SG_ROW
  return table[int(op)];
}

// Null where the operation does not exist in that type.
inline PointwiseKernel find_pointwise_kernel(PointwiseOp op, DType storage) {
  switch (storage) {
    case DType::k_float32: return pointwise_kernel_of<float>(op);
    case DType::k_float64: return pointwise_kernel_of<double>(op);
    case DType::k_bfloat16: return pointwise_kernel_of<bfloat16>(op);
    case DType::k_float16: return pointwise_kernel_of<float16>(op);
    case DType::k_int64: return pointwise_kernel_of<int64_t>(op);
    default: return nullptr;
  }
}
