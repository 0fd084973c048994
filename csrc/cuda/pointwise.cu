// Pointwise operations. Operands of one float type that lie in vectors, or repeat in rows or columns, go to the kernel
// of their operation; every mixture of types and strides goes to one kernel a compute type, in which the operation is a
// switch that all threads take the same way.
#include "../ops/pointwise.h"

#include "cuda_device.h"
#include "cuda_queue.h"
#include "fault.cuh"
#include "lanes.cuh"
#include "pointwise.h"
#include "walk.cuh"

namespace sg {

namespace gpu {
namespace {

struct GeneralOperand {
  const void* data;  // null: the number
  double number;
  int64_t integer;
  DType dtype;
};
struct GeneralOperands {
  GeneralOperand in[kMaxInputs];
  void* out;
  DType out_dtype;
  int inputs;
};

template <class L>
SG_DEVICE L number_of(const GeneralOperand& x) {
  if constexpr (std::is_same_v<L, Int>) return Int(x.integer);
  else return L(typename L::value(x.number));
}

template <class L, Domain kDomain>
constexpr bool exists_in() {
  return kDomain == Domain::kAny || (kDomain == Domain::kInteger) == std::is_same_v<L, Int>;
}

template <class L>
SG_DEVICE L apply(PointwiseOp op, L a, [[maybe_unused]] L b, [[maybe_unused]] L c) {
  switch (op) {
#define SG_ROW(domain, name, arity, ...)                              \
  case PointwiseOp::k_##name:                                         \
    if constexpr (exists_in<L, Domain::domain>()) return __VA_ARGS__; \
    break;
    SG_POINTWISE(SG_ROW)
#undef SG_ROW
    case PointwiseOp::kCount: break;
  }
  return a;
}

SG_DEVICE bool divides(PointwiseOp op) {
  return op == PointwiseOp::k_fmod || op == PointwiseOp::k_remainder || op == PointwiseOp::k_floorDivide;
}

constexpr int kThreads = 256;

template <class L>
__global__ void __launch_bounds__(kThreads)
    general_kernel(PointwiseOp op, GeneralOperands x, Walk<kMaxInputs + 1> walk, FaultSink faults) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < walk.count; i += step) {
    int64_t at[kMaxInputs + 1];
    walk.locate(i, at);
    L operand[kMaxInputs];
    for (int k = 0; k < kMaxInputs; k++) {
      operand[k] = x.in[k].data ? load_any<L>(x.in[k].data, x.in[k].dtype, at[k + 1]) : number_of<L>(x.in[k]);
    }
    if constexpr (std::is_same_v<L, Int>) {
      if (divides(op) && operand[1].v == 0) {
        raise_fault(faults, FaultKind::kZeroDivision);
        continue;
      }
    }
    store_any(x.out, x.out_dtype, at[0], apply<L>(op, operand[0], operand[1], operand[2]));
  }
}

template <class L>
void run_general(PointwiseOp op, Ins inputs, Out y, CudaQueue& queue) {
  const int64_t* strides[kMaxInputs + 1] = {y.strides};
  GeneralOperands x{};
  x.out = y.data;
  x.out_dtype = y.dtype;
  x.inputs = inputs.count;
  for (int k = 0; k < inputs.count; k++) {
    const View& v = inputs[k];
    x.in[k] = {v.data, v.scalar, cast<int64_t>(v.scalar), v.dtype};
    if (!v.is_scalar()) strides[k + 1] = v.strides;
  }
  const Walk<kMaxInputs + 1> walk(y.ndim, y.shape, strides);
  const FaultSink faults{queue.fault_record(), kPointwiseOps[int(op)].name, nullptr};
  launch(general_kernel<L>, grid_for(walk.count, kThreads), kThreads, 0, queue.stream(), op, x, walk, faults);
}

// ---- operands that lie in vectors

// How an input runs along the elements of a contiguous result, if it does: the merged dimensions of both are one that
// is contiguous, or constant outer and contiguous inner ones (rows), or the other way round (columns), or constant,
// contiguous, constant.
bool in_vectors(const View& x, const View& y, VectorOperand& out) {
  constexpr int64_t kNarrow = int64_t(1) << 31;
  const int64_t* const strides[2] = {y.strides, x.strides};
  const Walk<2> walk(y.ndim, y.shape, strides);
  out = {x.data, 0, 0, 0};
  const int last = walk.ndim - 1;
  int64_t repeat = 1, period = 1;
  int d = last;
  if (d >= 0 && walk.strides[1][d] == 0) repeat = walk.shape[d--];
  if (d >= 0 && walk.strides[1][d] == 1) period = walk.shape[d--];
  if (d >= 0 && walk.strides[1][d] == 0) d--;
  else if (d < 0) period = 0;  // to the end: no wrapping
  if (d >= 0) return false;
  if ((repeat > 1 || period > 0) && walk.count >= kNarrow) return false;
  out.repeat = repeat > 1 ? uint32_t(repeat) : 0;
  out.period = uint32_t(period);
  return true;
}

bool run_vectors(PointwiseOp op, Ins inputs, Out y, cudaStream_t stream) {
  if (!y.contiguous() || !is_aligned16(y.data)) return false;
  const int64_t per_vector = int64_t(16 / dtype_size(y.dtype));
  VectorOperands operands{};
  for (int k = 0; k < inputs.count; k++) {
    const View& x = inputs[k];
    VectorOperand& operand = operands.in[k];
    if (x.is_scalar()) {
      operand = {nullptr, x.scalar, 0, 0};
      continue;
    }
    if (x.dtype != y.dtype || !in_vectors(x, y, operand)) return false;
    if (!operand.repeat && (!is_aligned16(x.data) || operand.period % per_vector != 0)) return false;
  }
  bool found = false;
  dispatch_float("pointwise", y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    found = pointwise_vectors<T>(op, operands, y.data, y.numel(), stream);
  });
  return found;
}

bool computes_in_its_type(DType dtype, DType compute) {
  return dtype == compute || (is_float16_kind(dtype) && compute == DType::k_float32);
}

[[noreturn]] void refuse(PointwiseOp op) {
  const PointwiseRow& row = kPointwiseOps[int(op)];
  fail(ErrorCode::DType, row.name, row.domain == Domain::kInteger ? ": expects integers or bool" : ": expects floats");
}

}  // namespace
}  // namespace gpu

void CudaDevice::pointwise(PointwiseOp op, Ins inputs, Out y, DType compute) {
  using namespace gpu;
  SG_ASSERT(int(op) >= 0 && op < PointwiseOp::kCount && inputs.count == kPointwiseOps[int(op)].arity);
  // In a bool, ~1 would be true as well.
  if (op == PointwiseOp::k_bitwiseNot && y.dtype == DType::k_bool_) op = PointwiseOp::k_logicalNot;
  const Domain domain = kPointwiseOps[int(op)].domain;
  if (domain != Domain::kAny && (domain == Domain::kInteger) != (compute == DType::k_int64)) refuse(op);
  if (op == PointwiseOp::k_pow && inputs[1].is_scalar()) {  // as on the CPU
    if (inputs[1].scalar == 2) return pointwise(PointwiseOp::k_square, {inputs.first, 1}, y, compute);
    if (inputs[1].scalar == 0.5 && compute != DType::k_int64)
      return pointwise(PointwiseOp::k_sqrt, {inputs.first, 1}, y, compute);
  }
  if (y.numel() == 0) return;
  CudaQueue& queue = CudaQueue::current();
  if (is_floating(y.dtype) && computes_in_its_type(y.dtype, compute) && run_vectors(op, inputs, y, queue.stream()))
    return;
  switch (compute) {
    case DType::k_float32: return run_general<Lane<float>>(op, inputs, y, queue);
    case DType::k_float64: return run_general<Lane<double>>(op, inputs, y, queue);
    case DType::k_int64: return run_general<Int>(op, inputs, y, queue);
    default: fail(ErrorCode::Internal, "pointwise: no arithmetic in ", dtype_name(compute));
  }
}

}  // namespace sg
