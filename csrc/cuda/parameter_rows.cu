#include "parameter_rows.cuh"

namespace sg::gpu {

namespace {

constexpr int kColumns = 32, kSlices = 8;

// A block adds up 32 columns, its warps a slice of the parts each.
template <class A>
__global__ void __launch_bounds__(kColumns* kSlices)
    sum_parts_kernel(const A* from, int64_t parts, int64_t stride, int64_t n, void* to, DType dtype,
                     int64_t to_stride) {
  SG_SHARED(A, of_slice, [kSlices][kColumns]);
  const int lane = threadIdx.x % kColumns, slice = threadIdx.x / kColumns;
  const int64_t column = int64_t(blockIdx.x) * kColumns + lane;
  A total(0);
  if (column < n) {
    for (int64_t part = slice; part < parts; part += kSlices) total += from[part * stride + column];
  }
  of_slice[slice][lane] = total;
  __syncthreads();
  if (slice > 0 || column >= n) return;
#pragma unroll
  for (int s = 1; s < kSlices; s++) total += of_slice[s][lane];
  store_any(to, dtype, column * to_stride, Lane<A>(total));
}

}  // namespace

template <class A>
void sum_parts(const A* from, int64_t parts, int64_t stride, MaybeOut to, cudaStream_t stream) {
  if (!to || to->numel() == 0) return;
  SG_ASSERT(to->ndim == 1);
  const int64_t n = to->shape[0];
  launch(sum_parts_kernel<A>, unsigned((n + kColumns - 1) / kColumns), kColumns * kSlices, 0, stream, from, parts,
         stride, n, to->data, to->dtype, to->strides[0]);
}

template void sum_parts(const float*, int64_t, int64_t, MaybeOut, cudaStream_t);
template void sum_parts(const double*, int64_t, int64_t, MaybeOut, cudaStream_t);

}  // namespace sg::gpu
