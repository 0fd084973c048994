// One matrix product with its epilogue: what matmul, convolution and others hand to the kernels of kernels/gemm.h.
#pragma once
#include "../core/device.h"

namespace sg {

struct GemmOperand {
  const void* data;
  int64_t across, along;  // element strides across K (a: per row, b: per column) and along K; any values
};

struct GemmMatrix {  // row-major, neighbouring columns adjacent
  void* data = nullptr;
  DType dtype = DType::k_float32;
  int64_t row = 0;  // elements from one row to the next
};

// c[m, n] = epilogue(sum over k of a[m, k] b[k, n] + bias[n]). Sums run along K in one order for every blocking, so the
// bits do not depend on the number of threads.
struct Gemm {
  int64_t m, n, k;
  DType dtype;  // of a and b
  GemmOperand a, b;
  GemmMatrix c;
  const void* bias = nullptr;  // float (double where a and b are), or null
  Epilogue epilogue = Epilogue::kNone;
  GemmMatrix extra, pre;
  void* row_sums = nullptr;  // sums of a's rows, same type as bias, or null
};

// parallel: uses the thread pool and the scratch slots kShared*. Otherwise it may run inside a pool task, and uses
// kLocalA, kLocalB and kLocalC of that thread.
void gemm(const Gemm& g, bool parallel);

}  // namespace sg
