// The pointwise engine. All operands share one loop nest (nest.h); each box of it is brought into contiguous lanes of
// the compute type (blocks.h), unless it already lies there, and the functor of the table runs over it in registers.
// When everything lies in one 16-bit type the kernel converts in registers and nothing is copied.
#include "../core/cast.h"
#include "../ops/pointwise.h"
#include "blocks.h"
#include "cpu_device.h"
#include "nest.h"

namespace sg {

namespace {

// A kernel's operand: memory, or one number (in the kind of the compute type) for all elements.
struct Operand {
  const void* data;
  double number;
  int64_t integer;
};

// n is a multiple of kPointwisePadding: one loop, without a second copy of every functor for the rest.
using PointwiseKernel = void (*)(const Operand* in, void* out, int64_t n);
constexpr int kPointwisePadding = 16;
constexpr int kMaxInputs = 3;

}  // namespace

}  // namespace sg

#define SG_KERNELS "../kernels/pointwise.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

struct Input {
  View view;
  LoadBlock load;
};

class Engine {
 public:
  Engine(PointwiseOp op, Ins inputs, Out y, DType compute) : inputs_(inputs.count), y_(y), nest_(nest_of(inputs, y)) {
    lane_ = fits_16_bit(inputs, compute) ? y.dtype : compute;
    lane_size_ = int64_t(dtype_size(lane_));
    kernel_ = SG_ISA_CALL(find_pointwise_kernel, op, lane_);
    if (!kernel_) refuse(op);
    bool in_place = true;
    for (int k = 0; k < inputs_; k++) {
      const View& x = inputs[k];
      numbers_[k] = number(x.scalar);
      in_[k] = {x, x.is_scalar() || is_float16_kind(lane_) ? nullptr : block_loader(x.dtype, lane_)};
      in_place &= x.is_scalar() || lies_in_lanes(k + 1, x) || is_number_of_row(k + 1);
    }
    if (!is_float16_kind(lane_)) {
      store_ = block_storer(lane_, y.dtype);
      if (op == PointwiseOp::k_identity && !inputs[0].is_scalar()) kernel_ = nullptr;
    }
    const bool lanes = lies_in_lanes(0, y);
    if (!kernel_) {  // a conversion goes through a buffer where neither side is what it converts in
      if (lanes || lies_in_lanes(1, inputs[0])) nest_.widen(kGrainElements);
    } else if (lanes && in_place) {
      nest_.widen(kGrainElements);
      nest_.heighten(kGrainElements);
      by_rows_ = nest_.max_rows() > 1;
    }
  }

  void run() const {
    if (by_rows_) nest_.parallel([&](const Box<4>& box) { rows(box); });
    else nest_.parallel([&](const Box<4>& b) { box(b); });
  }

 private:
  static Nest<4> nest_of(Ins inputs, const View& y) {
    static constexpr int64_t kConstant[kMaxDims] = {};
    const int64_t* strides[4] = {y.strides, kConstant, kConstant, kConstant};
    for (int k = 0; k < inputs.count; k++)
      if (!inputs[k].is_scalar()) strides[k + 1] = inputs[k].strides;
    return Nest<4>(y.ndim, y.shape, strides);
  }
  static Operand number(double v) { return {nullptr, v, cast<int64_t>(v)}; }
  [[noreturn]] static void refuse(PointwiseOp op) {
    const PointwiseRow& row = kPointwiseOps[int(op)];
    fail(ErrorCode::DType, row.name,
         row.domain == Domain::kInteger ? ": expects integers or bool" : ": expects floats");
  }

  bool fits_16_bit(Ins inputs, DType compute) const {
    if (compute != DType::k_float32 || !is_float16_kind(y_.dtype) || nest_.max_rows() > 1 || nest_.col_stride(0) != 1)
      return false;
    for (int k = 0; k < inputs_; k++) {
      const int64_t stride = nest_.col_stride(k + 1);
      if (!inputs[k].is_scalar() && (inputs[k].dtype != y_.dtype || (stride != 1 && stride != 0))) return false;
    }
    return true;
  }
  // Every box of operand k can be used where it lies.
  bool lies_in_lanes(int k, const View& v) const {
    return v.dtype == lane_ && nest_.max_rows() == 1 && nest_.col_stride(k) == 1;
  }
  bool is_number_of_row(int k) const { return nest_.max_rows() == 1 && nest_.col_stride(k) == 0; }
  bool is_direct(DType dtype, const Strided& s, const Box<4>& b) const {
    return dtype == lane_ && (s.col_stride == 1 || b.cols == 1) && (b.rows == 1 || s.row_stride == b.cols);
  }
  Strided part(int k, const View& v, const Box<4>& b) const {
    return {address(v.data, b.at[k], v.dtype), nest_.row_stride(k), nest_.col_stride(k)};
  }

  // The one element that a whole box shares.
  Operand shared_element(const Input& x, const Strided& s) const {
    Operand value = number(0);
    if (lane_ == DType::k_int64) x.load(s, 1, 1, &value.integer);
    else block_loader(x.view.dtype, DType::k_float64)(s, 1, 1, &value.number);
    return value;
  }

  void box(const Box<4>& b) const {
    alignas(64) char buffers[kMaxInputs + 1][kBoxElements * 8];
    const Strided target = part(0, y_, b);
    void* const out = is_direct(y_.dtype, target, b) ? target.data : buffers[kMaxInputs];
    Operand operands[kMaxInputs];
    for (int k = 0; k < kMaxInputs; k++) {
      operands[k] = numbers_[k];
      if (k >= inputs_ || in_[k].view.is_scalar()) continue;
      const Input& x = in_[k];
      const Strided source = part(k + 1, x.view, b);
      if (is_direct(x.view.dtype, source, b)) operands[k].data = source.data;
      else if (kernel_ && source.col_stride == 0 && (b.rows == 1 || source.row_stride == 0))
        operands[k] = shared_element(x, source);
      else {
        void* const to = kernel_ ? buffers[k] : out;
        x.load(source, b.rows, b.cols, to);
        operands[k].data = to;
      }
    }
    const void* result = out;
    if (kernel_) compute(operands, out, b.size());
    else result = operands[0].data;
    if (result != target.data) store_(result, b.rows, b.cols, target);
  }

  // Every row of the box where it lies.
  void rows(const Box<4>& b) const {
    Operand operands[kMaxInputs];
    std::copy(numbers_, numbers_ + kMaxInputs, operands);
    for (int64_t r = 0; r < b.rows; r++) {
      const auto row = [&](int k, const View& v) {
        return address(v.data, b.at[k] + r * nest_.row_stride(k), v.dtype);
      };
      for (int k = 0; k < inputs_; k++) {
        const Input& x = in_[k];
        if (x.view.is_scalar()) continue;
        void* const from = row(k + 1, x.view);
        if (nest_.col_stride(k + 1) == 0) operands[k] = shared_element(x, {from, 0, 0});
        else operands[k].data = from;
      }
      compute(operands, row(0, y_), b.cols);
    }
  }

  // Runs the kernel on any n: what is left over goes through padded copies.
  void compute(const Operand* in, void* out, int64_t n) const {
    const int64_t whole = n - n % kPointwisePadding, rest = n - whole;
    if (whole) kernel_(in, out, whole);
    if (!rest) return;
    alignas(64) char lanes[kMaxInputs + 1][kPointwisePadding * 8];
    Operand padded[kMaxInputs];
    for (int k = 0; k < kMaxInputs; k++) {
      padded[k] = in[k];
      if (!in[k].data) continue;
      std::memcpy(lanes[k], static_cast<const char*>(in[k].data) + whole * lane_size_, size_t(rest * lane_size_));
      // Valid elements again for the others: a functor may throw at anything else.
      for (int64_t filled = rest, n; filled < kPointwisePadding; filled += n) {
        n = std::min(filled, kPointwisePadding - filled);
        std::memcpy(lanes[k] + filled * lane_size_, lanes[k], size_t(n * lane_size_));
      }
      padded[k].data = lanes[k];
    }
    kernel_(padded, lanes[kMaxInputs], kPointwisePadding);
    std::memcpy(static_cast<char*>(out) + whole * lane_size_, lanes[kMaxInputs], size_t(rest * lane_size_));
  }

  int inputs_;
  View y_;
  Nest<4> nest_;
  PointwiseKernel kernel_;  // null: the identity, a conversion and no more
  DType lane_;              // what the kernel reads and writes
  int64_t lane_size_;
  bool by_rows_ = false;
  Input in_[kMaxInputs];
  Operand numbers_[kMaxInputs] = {};  // the values of scalar operands; nothing for absent ones
  StoreBlock store_ = nullptr;
};

}  // namespace

void CpuDevice::pointwise(PointwiseOp op, Ins inputs, Out y, DType compute) {
  SG_ASSERT(int(op) >= 0 && op < PointwiseOp::kCount && inputs.count == kPointwiseOps[int(op)].arity);
  SG_ASSERT(compute == lane_dtype(compute));
  // In a bool, ~1 would be true as well.
  if (op == PointwiseOp::k_bitwiseNot && y.dtype == DType::k_bool_) op = PointwiseOp::k_logicalNot;
  // The exponents of every loss and norm are worth a shortcut.
  if (op == PointwiseOp::k_pow && inputs[1].is_scalar()) {
    const double exponent = inputs[1].scalar;
    if (exponent == 2) return Engine(PointwiseOp::k_square, {inputs.first, 1}, y, compute).run();
    if (exponent == 0.5 && compute != DType::k_int64)
      return Engine(PointwiseOp::k_sqrt, {inputs.first, 1}, y, compute).run();
  }
  Engine(op, inputs, y, compute).run();
}

}  // namespace sg
