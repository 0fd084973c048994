// Matrix products by cuBLASLt. Tensors here have rows of adjacent elements and cuBLASLt wants adjacent columns, so what
// it computes is the transpose: C^T = B^T A^T; the vector it adds along columns is then our bias. What it cannot do in
// one go (float64 with GELU, odd rows of what is kept for backward) is a plain product into scratch memory in the type
// of the sums, finished by pointwise kernels.
#include <algorithm>
#include <optional>

#include "../ops/matmul.h"
#include "../ops/pointwise.h"
#include "../ops/reduce.h"
#include "cuda_device.h"
#include "cuda_error.h"
#include "cuda_queue.h"
#include "matmul_settings.h"

namespace sg {

std::atomic<bool> matmul_tf32{false};

namespace {

using namespace cublaslt;

// The last two dimensions as cuBLASLt sees them: by_rows, elements of a row are adjacent.
struct Matrix {
  bool by_rows;
  int64_t leading;
};

std::optional<Matrix> as_matrix(const View& v) {
  const int64_t rows = v.size(-2), columns = v.size(-1), down = v.stride(-2), across = v.stride(-1);
  if ((across == 1 || columns == 1) && (down >= columns || rows == 1)) return Matrix{true, rows == 1 ? columns : down};
  if ((down == 1 || rows == 1) && (across >= rows || columns == 1)) return Matrix{false, columns == 1 ? rows : across};
  return std::nullopt;
}

View contiguous_like(const View& like, DType dtype, Scratch& scratch) {
  View v = like;
  v.dtype = dtype;
  v.scalar = 0;
  int64_t stride = 1;
  for (int d = v.ndim - 1; d >= 0; stride *= v.shape[d--]) v.strides[d] = stride;
  v.data = scratch.take<char>(size_t(stride) * dtype_size(dtype));
  return v;
}

// Of all addresses that are sums of numbers with these bits, up to 256 bytes.
int32_t alignment(uintptr_t bits) {
  bits |= 256;
  return int32_t(bits & -bits);
}

char* at(const View& v, int64_t elements) { return v.ptr<char>() + elements * int64_t(dtype_size(v.dtype)); }

// One call of matmul whose operands cuBLASLt can use: matrices a and b of one float type, c (and pre, extra) with
// adjacent elements in rows, extra in c's type, bias contiguous in c's type.
struct Product {
  View a, b, c;
  const View *bias, *extra;
  View* pre;
  Epilogue epilogue;
  Matrix a_matrix, b_matrix;

  // False: cuBLASLt has no way to do it, and nothing was done.
  bool run(CudaQueue& queue) const;

 private:
  void run(CudaQueue& queue, LtPlan& plan, const int64_t (&offsets)[MatmulBatch::kOperands]) const;
  const View& added() const { return adds() && extra ? *extra : c; }
  const View* aux() const {
    return epilogue == Epilogue::kGelu ? pre : epilogue == Epilogue::kGeluBackward ? extra : nullptr;
  }
  bool adds() const { return epilogue == Epilogue::kResidual || epilogue == Epilogue::kAccumulate; }
};

bool Product::run(CudaQueue& queue) const {
  constexpr int64_t kAbsent = MatmulBatch::kAbsent;
  MatmulBatch batch(a, b, c, MaybeIn{extra}, MaybeOut{pre});
  int64_t m = c.size(-2);
  const int64_t n = c.size(-1), k = a.size(-1);
  const auto row = [](const View* v) { return v ? v->stride(-2) : kAbsent; };
  if (a_matrix.by_rows && m > 1) {
    const int64_t rows[] = {a_matrix.leading, kAbsent, c.stride(-2), row(extra), row(pre)};
    batch.fold_into_rows(m, rows);
  }
  const auto row_leading = [](const View& v) { return v.size(-2) == 1 ? v.size(-1) : v.stride(-2); };

  LtProblem p{};
  p.a = {int64_t(b.dtype), n, k, b_matrix.leading, 0, !b_matrix.by_rows};
  p.b = {int64_t(a.dtype), k, m, a_matrix.leading, 0, !a_matrix.by_rows};
  if (p.a.transposed) std::swap(p.a.rows, p.a.columns);
  if (p.b.transposed) std::swap(p.b.rows, p.b.columns);
  p.d = {int64_t(c.dtype), n, m, row_leading(c), 0, 0};
  p.batch = 1;
  p.epilogue = kPlain;
  if (epilogue == Epilogue::kGelu) p.epilogue = kGelu;
  if (epilogue == Epilogue::kGeluBackward) p.epilogue = kDGelu;
  if (epilogue == Epilogue::kGelu && pre) p.epilogue |= kWithAux;
  if (bias) p.epilogue = p.epilogue == kPlain ? int64_t(kWithBias) : p.epilogue | kWithBias;
  if (bias && epilogue == Epilogue::kGeluBackward) return false;
  if (adds() && extra && row_leading(*extra) != row_leading(c)) return false;
  if (const View* x = aux()) {
    p.aux_leading = row_leading(*x);
    if (x->dtype != c.dtype || p.aux_leading % 8 != 0 || reinterpret_cast<uintptr_t>(x->data) % 16 != 0) return false;
  }
  p.tf32 = matmul_tf32 && a.dtype == DType::k_float32;

  // The innermost batch dimension is cuBLASLt's, the others are loops.
  int64_t inner = 1;
  if (batch.ndim > 0) {
    const int64_t* const stride = batch.stride[batch.ndim - 1];
    inner = batch.size[batch.ndim - 1];
    p.a.batch_stride = stride[MatmulBatch::kB];
    p.b.batch_stride = stride[MatmulBatch::kA];
    p.d.batch_stride = stride[MatmulBatch::kC];
    if (adds() && extra && stride[MatmulBatch::kExtra] != p.d.batch_stride) return false;
    if (aux()) p.aux_batch_stride = stride[epilogue == Epilogue::kGelu ? MatmulBatch::kPre : MatmulBatch::kExtra];
    if (p.aux_batch_stride % 8 != 0) return false;
    p.batch = inner;
  }
  const View* const operands[] = {&b, &a, &added(), &c};
  constexpr int numbers[] = {MatmulBatch::kB, MatmulBatch::kA, MatmulBatch::kExtra, MatmulBatch::kC};
  for (int i = 0; i < 4; i++) {
    uintptr_t bits = reinterpret_cast<uintptr_t>(operands[i]->data);
    const int number = operands[i] == &c ? int(MatmulBatch::kC) : numbers[i];
    for (int d = 0; d + 1 < batch.ndim; d++)
      bits |= uintptr_t(batch.stride[d][number]) * dtype_size(operands[i]->dtype);
    p.alignment[i] = alignment(bits);
  }
  LtPlan& plan = queue.matmul_plans().find(p);
  if (!plan.exists) return false;
  for (int64_t i = 0; i < batch.count; i += inner) {
    int64_t offsets[MatmulBatch::kOperands];
    batch.offsets(i, offsets);
    run(queue, plan, offsets);
  }
  return true;
}

void Product::run(CudaQueue& queue, LtPlan& plan, const int64_t (&offsets)[MatmulBatch::kOperands]) const {
  const void* const first = at(b, offsets[MatmulBatch::kB]);
  const void* const second = at(a, offsets[MatmulBatch::kA]);
  void* const result = at(c, offsets[MatmulBatch::kC]);
  const void* const addend = at(added(), offsets[adds() && extra ? MatmulBatch::kExtra : MatmulBatch::kC]);
  if (bias) {
    check(api().description_set(plan.description, kBiasPointer, &bias->data, sizeof bias->data), "cublasLt: bias");
  }
  if (const View* x = aux()) {
    const void* const data = at(*x, offsets[x == pre ? MatmulBatch::kPre : MatmulBatch::kExtra]);
    check(api().description_set(plan.description, kEpilogueAuxPointer, &data, sizeof data), "cublasLt: auxiliary");
  }
  const bool wide = c.dtype == DType::k_float64;
  const float one = 1, beta = adds() ? 1 : 0;
  const double wide_one = 1, wide_beta = beta;
  Scratch scratch;
  void* const workspace = plan.workspace ? scratch.take<char>(plan.workspace) : nullptr;
  const void* const alpha_beta[] = {wide ? (const void*)&wide_one : &one, wide ? (const void*)&wide_beta : &beta};
  check(api().matmul(queue.matmul_plans().handle(), plan.description, alpha_beta[0], first, plan.a, second, plan.b,
                     alpha_beta[1], addend, plan.d, result, plan.d, &plan.algorithm, workspace, plan.workspace,
                     queue.stream()),
        "matmul");
}

}  // namespace

void CudaDevice::matmul(In a, In b, MaybeIn bias, MaybeIn extra, Out c, MaybeOut pre, MaybeOut columnSums,
                        double epilogue) {
  const Epilogue kind = Epilogue(int(epilogue));
  check_matmul(a, b, extra, c, pre, columnSums, kind);
  if (columnSums) {
    View column = *columnSums;
    column.ndim = 2;
    column.shape[1] = 1;
    column.strides[1] = 1;
    reduce(ReduceOp::k_sum, a, column, 2);
  }
  if (c.numel() == 0) return;
  CudaQueue& queue = CudaQueue::current();
  Scratch scratch;
  const auto adapted = [&](const View& v, DType dtype) {
    View copied = contiguous_like(v, dtype, scratch);
    copy(v, copied);
    return copied;
  };
  const DType sum_type = a.dtype == DType::k_float64 ? DType::k_float64 : DType::k_float32;

  Product product{a, b, c, bias.view, extra.view, pre.view, kind, {}, {}};
  if (!as_matrix(a)) product.a = adapted(a, a.dtype);
  if (!as_matrix(b)) product.b = adapted(b, b.dtype);
  product.a_matrix = *as_matrix(product.a);
  product.b_matrix = *as_matrix(product.b);

  // GELU's input becomes its output, once its derivative was taken from it.
  const auto turn_into_gelu = [&] {
    View input = kind == Epilogue::kGeluBackward && pre ? *pre : View{};
    if (input.data) pointwise(PointwiseOp::k_geluTanh, {&input, 1}, input, sum_type);
  };
  const auto in_rows = [](const View* v) {
    const auto m = v ? as_matrix(*v) : std::nullopt;
    return !v || (m && m->by_rows);
  };
  const bool direct = (c.dtype == a.dtype || c.dtype == sum_type) && in_rows(&c) && in_rows(pre.view) && a.size(-1) > 0;
  if (direct) {
    View bias_row, extra_rows;
    if (bias && (bias->dtype != c.dtype || (bias->stride(-1) != 1 && bias->numel() > 1))) {
      bias_row = adapted(*bias, c.dtype);
      product.bias = &bias_row;
    }
    if (extra && (extra->dtype != c.dtype || !in_rows(extra.view))) {
      extra_rows = adapted(*extra, c.dtype);
      product.extra = &extra_rows;
    }
    if (product.run(queue)) return turn_into_gelu();
  }

  // x = a b in the type of the sums, then everything else in one rounding
  View x = contiguous_like(c, sum_type, scratch);
  if (a.size(-1) == 0) {
    fill(x, 0);
  } else {
    product.c = x;
    product.bias = product.extra = nullptr;
    product.pre = nullptr;
    product.epilogue = Epilogue::kNone;
    if (!product.run(queue)) fail(ErrorCode::Device, "matmul: cuBLASLt has no product of ", dtype_name(a.dtype));
  }
  const auto apply = [&](PointwiseOp op, const View& first, const View* second, View& y) {
    View operands[2] = {first, second ? *second : first};
    pointwise(op, {operands, second ? 2 : 1}, y, sum_type);
  };
  if (bias) {
    View row = *bias;
    row.ndim = x.ndim;
    for (int d = 0; d < x.ndim; d++) {
      row.shape[d] = x.shape[d];
      row.strides[d] = d == x.ndim - 1 ? bias->stride(-1) : 0;
    }
    apply(PointwiseOp::k_add, x, &row, x);
  }
  if (pre && !extra) copy(x, *pre);
  switch (kind) {
    case Epilogue::kNone: copy(x, c); break;
    case Epilogue::kGelu: apply(PointwiseOp::k_geluTanh, x, nullptr, c); break;
    case Epilogue::kResidual: apply(PointwiseOp::k_add, x, extra.view, c); break;
    case Epilogue::kGeluBackward: apply(PointwiseOp::k_geluTanhBackward, x, extra.view, c); break;
    case Epilogue::kAccumulate: apply(PointwiseOp::k_add, x, &c, c); break;
  }
  turn_into_gelu();
}

}  // namespace sg
