// Device::matmul: views become one Gemm a batch element. Batch dimensions over which b is broadcast and a and c lie one
// after another are folded into the rows. Many small products run one a task; large ones share the pool.
#include <vector>

#include "../ops/matmul.h"
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

void fold_into_rows(MatmulBatch& batch, Gemm& g) {
  constexpr int64_t kAbsent = MatmulBatch::kAbsent;
  const int64_t rows[] = {g.a.across, kAbsent, g.c.row, g.extra.data ? g.extra.row : kAbsent,
                          g.pre.data ? g.pre.row : kAbsent};
  batch.fold_into_rows(g.m, rows);
}

Gemm element(const MatmulBatch& batch, const Gemm& base, int64_t i) {
  Gemm g = base;
  int64_t at[MatmulBatch::kOperands];
  batch.offsets(i, at);
  g.a.data = address(g.a.data, at[MatmulBatch::kA], g.dtype);
  g.b.data = address(g.b.data, at[MatmulBatch::kB], g.dtype);
  g.c.data = address(g.c.data, at[MatmulBatch::kC], g.c.dtype);
  if (g.extra.data) g.extra.data = address(g.extra.data, at[MatmulBatch::kExtra], g.extra.dtype);
  if (g.pre.data) g.pre.data = address(g.pre.data, at[MatmulBatch::kPre], g.pre.dtype);
  return g;
}

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

}  // namespace

void CpuDevice::matmul(In a, In b, MaybeIn bias, MaybeIn extra, Out c, MaybeOut pre, MaybeOut columnSums,
                       double epilogue) {
  const Epilogue kind = Epilogue(int(epilogue));
  check_matmul(a, b, extra, c, pre, columnSums, kind);
  for (const View* v : {extra.view, static_cast<const View*>(pre.view), static_cast<const View*>(&c)}) {
    if (!v || rows_adjacent(*v)) continue;
    Packed extra_rows(extra ? *extra : c), c_rows(c), own_pre_rows(pre ? *pre : c);
    Packed& pre_rows = extra ? extra_rows : own_pre_rows;
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

  MatmulBatch batch(a, b, c, extra, pre);
  if (batch.count == 0) return;
  fold_into_rows(batch, g);
  const int64_t work = g.m * g.n * std::max<int64_t>(1, g.k);
  if (batch.count == 1 || work >= kLargeProduct) {
    for (int64_t i = 0; i < batch.count; i++) gemm(element(batch, g, i), true);
  } else {
    const int64_t grain = std::max<int64_t>(1, (1 << 19) / std::max<int64_t>(1, work));
    parallel_for(batch.count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) gemm(element(batch, g, i), false);
    });
  }
  if (columnSums)
    block_storer(sum_type, columnSums->dtype)(g.row_sums, 1, g.m, {columnSums->data, 0, columnSums->stride(-1)});
}

}  // namespace sg
