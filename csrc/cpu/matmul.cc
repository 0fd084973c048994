// Device::matmul: views become one Gemm a batch element. Batch dimensions over which b is broadcast and a and c lie one
// after another are folded into the rows. Many small products run one a task; large ones share the pool.
#include <vector>

#include "blocks.h"
#include "cpu_device.h"
#include "gemm.h"

#define SG_KERNELS "../kernels/gemm.h"
#include "simd/for_each_isa.h"

namespace sg {

void gemm(const Gemm& g, bool parallel) { SG_ISA_CALL(gemm_any, g, parallel); }

namespace {

// Multiply-adds from which a product is worth the whole pool (about 300 microseconds of one core).
constexpr int64_t kLargeProduct = 16 << 20;

// The batch dimensions, with the stride of everything that moves along them.
struct Batch {
  enum { kA, kB, kC, kExtra, kPre, kOperands };
  int ndim = 0;
  int64_t count = 1, size[kMaxDims], stride[kMaxDims][kOperands];

  Batch(In a, In b, In c, MaybeIn extra, MaybeOut pre) {
    const View* const views[kOperands] = {&a, &b, &c, extra.view, pre.view};
    for (int d = 0; d < c.ndim - 2; d++) {
      count *= c.shape[d];
      if (c.shape[d] == 1) continue;
      size[ndim] = c.shape[d];
      for (int k = 0; k < kOperands; k++) stride[ndim][k] = views[k] ? views[k]->strides[d] : 0;
      ndim++;
    }
  }

  // Rows of neighbouring batch elements that follow one another become rows of one product.
  void fold_into_rows(Gemm& g) {
    const auto follows = [&](int k, int64_t row) { return stride[ndim - 1][k] == g.m * row; };
    while (ndim && stride[ndim - 1][kB] == 0 && follows(kA, g.a.across) && follows(kC, g.c.row) &&
           (!g.extra.data || follows(kExtra, g.extra.row)) && (!g.pre.data || follows(kPre, g.pre.row))) {
      g.m *= size[--ndim];
      count /= size[ndim];
    }
  }

  Gemm element(const Gemm& base, int64_t i) const {
    Gemm g = base;
    for (int d = ndim - 1; d >= 0; i /= size[d--]) {
      const int64_t x = i % size[d];
      g.a.data = address(g.a.data, x * stride[d][kA], g.dtype);
      g.b.data = address(g.b.data, x * stride[d][kB], g.dtype);
      g.c.data = address(g.c.data, x * stride[d][kC], g.c.dtype);
      if (g.extra.data) g.extra.data = address(g.extra.data, x * stride[d][kExtra], g.extra.dtype);
      if (g.pre.data) g.pre.data = address(g.pre.data, x * stride[d][kPre], g.pre.dtype);
    }
    return g;
  }
};

// A contiguous stand-in for a matrix whose neighbouring columns are not adjacent.
struct Packed {
  std::vector<char> bytes;
  View view;
  explicit Packed(const View& like) : bytes(like.numel() * dtype_size(like.dtype) + 1), view(like) {  // never null
    view.data = bytes.data();
    int64_t stride = 1;
    for (int d = view.ndim - 1; d >= 0; stride *= view.shape[d--]) view.strides[d] = stride;
  }
};

bool rows_adjacent(const View& v) { return v.stride(-1) == 1 || v.size(-1) == 1; }
GemmMatrix matrix(const View& v) { return {v.data, v.dtype, v.stride(-2)}; }

void check(In a, In b, MaybeIn extra, Out c, MaybeOut columnSums, Epilogue epilogue) {
  if (a.dtype != b.dtype)
    fail(ErrorCode::DType, "matmul: a and b must have one dtype, got ", dtype_name(a.dtype), " and ",
         dtype_name(b.dtype));
  if ((epilogue == Epilogue::kResidual || epilogue == Epilogue::kGeluBackward) != bool(extra))
    fail(ErrorCode::Internal, "matmul: `extra` belongs to the epilogues kResidual and kGeluBackward, got ",
         int(epilogue), extra ? " with it" : " without it");
  if (columnSums && c.ndim > 2)
    fail(ErrorCode::Shape, "matmul: column sums need a single matrix, got ", c.ndim, " dimensions");
}

}  // namespace

void CpuDevice::matmul(In a, In b, MaybeIn bias, MaybeIn extra, Out c, MaybeOut pre, MaybeOut columnSums,
                       double epilogue) {
  const Epilogue kind = Epilogue(int(epilogue));
  check(a, b, extra, c, columnSums, kind);
  for (const View* v : {extra.view, static_cast<const View*>(pre.view), static_cast<const View*>(&c)}) {
    if (!v || rows_adjacent(*v)) continue;
    Packed extra_rows(extra ? *extra : c), c_rows(c), pre_rows(pre ? *pre : c);
    if (extra) copy(*extra, extra_rows.view);
    if (kind == Epilogue::kAccumulate) copy(c, c_rows.view);
    matmul(a, b, bias, MaybeIn{extra ? &extra_rows.view : nullptr}, c_rows.view,
           MaybeOut{pre ? &pre_rows.view : nullptr}, columnSums, epilogue);
    copy(c_rows.view, c);
    if (pre) copy(pre_rows.view, *pre);
    return;
  }

  Gemm g{};
  g.m = c.size(-2), g.n = c.size(-1), g.k = a.size(-1);
  g.dtype = a.dtype;
  g.a = {a.data, a.stride(-2), a.stride(-1)};
  g.b = {b.data, b.stride(-1), b.stride(-2)};
  g.c = matrix(c);
  g.epilogue = kind;
  if (extra) g.extra = matrix(*extra);
  if (pre) g.pre = matrix(*pre);
  const DType sum_type = a.dtype == DType::k_float64 ? DType::k_float64 : DType::k_float32;
  char* vectors = scratch<char>(Scratch::kSharedC, (g.m + g.n) * dtype_size(sum_type));
  if (columnSums) g.row_sums = vectors;
  if (bias) {
    g.bias = vectors + g.m * dtype_size(sum_type);
    block_loader(bias->dtype, sum_type)({bias->data, 0, bias->stride(-1)}, 1, g.n, const_cast<void*>(g.bias));
  }

  Batch batch(a, b, c, extra, pre);
  if (batch.count == 0) return;
  batch.fold_into_rows(g);
  const int64_t work = g.m * g.n * std::max<int64_t>(1, g.k);
  if (batch.count == 1 || work >= kLargeProduct) {
    for (int64_t i = 0; i < batch.count; i++) gemm(batch.element(g, i), true);
  } else {
    const int64_t grain = std::max<int64_t>(1, (1 << 19) / std::max<int64_t>(1, work));
    parallel_for(batch.count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) gemm(batch.element(g, i), false);
    });
  }
  if (columnSums)
    block_storer(sum_type, columnSums->dtype)(g.row_sums, 1, g.m, {columnSums->data, 0, columnSums->stride(-1)});
}

}  // namespace sg
