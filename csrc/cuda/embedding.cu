// Embedding lookup, its gradient, and one-hot. Negative indices do not count from the end here, as in PyTorch: they are
// the usual sign of a padding value that slipped in.
#include "cuda_device.h"
#include "cuda_error.h"
#include "fault.cuh"
#include "indexed.h"
#include "lanes.cuh"
#include "walk.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr IndexRule kRows{false, "rows"};

// A one for each index; the zeros are there.
__global__ void __launch_bounds__(kThreads) set_ones_kernel(const void* index, bool wide, Walk<1> walk, int64_t classes,
                                                            void* y, DType dtype, FaultSink faults) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < walk.count; i += step) {
    int64_t at[1];
    walk.locate(i, at);
    const int64_t v = wide ? static_cast<const int64_t*>(index)[at[0]] : static_cast<const int32_t*>(index)[at[0]];
    if (uint64_t(v) < uint64_t(classes)) store_any(y, dtype, i * classes + v, Int(1));
    else raise_fault(faults, FaultKind::kEntry, v, i, classes);
  }
}

}  // namespace
}  // namespace gpu

void CudaDevice::embedding(In weight, In index, Out y) {
  SG_ASSERT(weight.ndim == 2 && y.dtype == weight.dtype);
  View indices = index;
  const IndexPlan plan = IndexPlan::at("embedding", weight, {&indices, 1}, y, 0);
  if (y.numel() > 0) gpu::read_by_index(plan, gpu::kRows, weight, y);
  else gpu::check_by_index(plan, gpu::kRows);
}

void CudaDevice::embeddingBackward(In dy, In index, Out dweight, double paddingIndex) {
  SG_ASSERT(dweight.ndim == 2);
  View indices = index, table = dweight;
  table.dtype = dy.dtype;  // the sums may be kept in another
  const IndexPlan plan = IndexPlan::at("embeddingBackward", table, {&indices, 1}, dy, 0);
  gpu::sum_by_index(plan, gpu::kRows, dweight, dy, int64_t(paddingIndex));
}

void CudaDevice::oneHot(In index, Out y) {
  using namespace gpu;
  SG_ASSERT(y.ndim > 0 && y.contiguous());
  const int64_t classes = y.size(-1);
  SG_ASSERT(y.numel() == index.numel() * classes);
  const Walk<1> walk(index.ndim, index.shape, {index.strides}, Order::kLogical);
  if (walk.count == 0) return;
  CudaQueue& queue = CudaQueue::current();
  const size_t bytes = size_t(y.numel()) * dtype_size(y.dtype);
  if (bytes) check(cudaMemsetAsync(y.data, 0, bytes, queue.stream()), "oneHot");
  launch(set_ones_kernel, grid_for(walk.count, kThreads), kThreads, 0, queue.stream(), index.data,
         index.dtype == DType::k_int64, walk, classes, y.data, y.dtype,
         FaultSink{queue.fault_record(), "oneHot", "classes"});
}

}  // namespace sg
