// What every backend's matmul begins with: the checks, and the batch dimensions as a loop of products.
#pragma once
#include "../core/device.h"

namespace sg {

inline void check_matmul(In a, In b, MaybeIn extra, In c, MaybeOut pre, MaybeOut columnSums, Epilogue epilogue) {
  if (a.dtype != b.dtype)
    fail(ErrorCode::DType, "matmul: a and b must have one dtype, got ", dtype_name(a.dtype), " and ",
         dtype_name(b.dtype));
  if ((epilogue == Epilogue::kResidual || epilogue == Epilogue::kGeluBackward) != bool(extra))
    fail(ErrorCode::Internal, "matmul: `extra` belongs to the epilogues kResidual and kGeluBackward, got ",
         int(epilogue), extra ? " with it" : " without it");
  if (pre && epilogue != Epilogue::kGelu && !(epilogue == Epilogue::kGeluBackward && pre->data == extra->data))
    fail(ErrorCode::Internal, "matmul: `pre` belongs to the epilogue kGelu, or is `extra` of kGeluBackward");
  if (columnSums && c.ndim > 2)
    fail(ErrorCode::Shape, "matmul: column sums need a single matrix, got ", c.ndim, " dimensions");
}

// The batch dimensions, with the stride of everything that moves along them.
struct MatmulBatch {
  enum { kA, kB, kC, kExtra, kPre, kOperands };
  int ndim = 0;
  int64_t count = 1, size[kMaxDims], stride[kMaxDims][kOperands];

  MatmulBatch(In a, In b, In c, MaybeIn extra, MaybeOut pre) {
    const View* const views[kOperands] = {&a, &b, &c, extra.view, pre.view};
    for (int d = 0; d < c.ndim - 2; d++) {
      count *= c.shape[d];
      if (c.shape[d] == 1) continue;
      size[ndim] = c.shape[d];
      for (int k = 0; k < kOperands; k++) stride[ndim][k] = views[k] ? views[k]->strides[d] : 0;
      ndim++;
    }
  }

  // Rows of neighbouring batch elements that follow one another become rows of one product of `rows` rows. `row` is how
  // far apart an operand's rows lie; kAbsent where there is no operand.
  static constexpr int64_t kAbsent = INT64_MIN;
  void fold_into_rows(int64_t& rows, const int64_t (&row)[kOperands]) {
    const auto follows = [&](int k) { return row[k] == kAbsent || stride[ndim - 1][k] == rows * row[k]; };
    while (ndim && stride[ndim - 1][kB] == 0 && follows(kA) && follows(kC) && follows(kExtra) && follows(kPre)) {
      rows *= size[--ndim];
      count /= size[ndim];
    }
  }

  // The operands' offsets of batch element i.
  void offsets(int64_t i, int64_t (&at)[kOperands]) const {
    for (int k = 0; k < kOperands; k++) at[k] = 0;
    for (int d = ndim - 1; d >= 0; i /= size[d--]) {
      for (int k = 0; k < kOperands; k++) at[k] += i % size[d] * stride[d][k];
    }
  }
};

}  // namespace sg
