// sort and topk along the last dimension, by keys of ops/sort_key.h. Short rows are ordered by counting: every element
// compares itself with all others of its row, and the number before it is its place. Few of a long row are selected
// (topk.cuh); otherwise rows are sorted whole. Values are copied from the input, not from the keys.
#include "../ops/sort_key.h"

#include "cuda_device.h"
#include "radix_sort.h"
#include "row_order.h"
#include "topk.cuh"

namespace sg {

namespace gpu {

namespace {

constexpr int kThreads = 256;

template <class U>
using KeyOf = std::conditional_t<sizeof(U) == 8, uint64_t, uint32_t>;

// ---- rows of at most kThreads elements

template <class U>
__global__ void __launch_bounds__(kThreads) count_smaller_kernel(SortRows<U> rows, KeyMap<U> map) {
  SG_SHARED(U, keys, [kThreads]);
  const int n = int(rows.n), rows_in_block = kThreads / n;
  const int mine = int(threadIdx.x) / n, i = int(threadIdx.x) % n;
  const int64_t row = int64_t(blockIdx.x) * rows_in_block + mine;
  const bool used = mine < rows_in_block && row < rows.walk.count;
  int64_t at[3] = {};
  U bits{};
  if (used) {
    rows.walk.locate(row, at);
    bits = rows.x[at[0] + i * rows.step[0]];
    keys[threadIdx.x] = map(bits);
  }
  __syncthreads();
  if (!used) return;
  const U key = keys[threadIdx.x];
  const U* const others = keys + mine * n;
  int place = 0;
  for (int j = 0; j < n; j++) place += others[j] < key || (others[j] == key && j < i);
  if (place < rows.k) rows.put(at, place, bits, i);
}

// ---- rows that are sorted whole; `first` is the number of the first of them

template <class U>
__global__ void __launch_bounds__(kThreads)
    keys_kernel(SortRows<U> rows, KeyMap<U> map, int64_t first, int64_t count, KeyOf<U>* keys) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count * rows.n; i += step) {
    const int64_t row = i / rows.n, column = i - row * rows.n;
    int64_t at[1];
    rows.walk.locate(first + row, at);
    keys[i] = map(rows.x[at[0] + column * rows.step[0]]);
  }
}

template <class U>
__global__ void __launch_bounds__(kThreads)
    put_kernel(SortRows<U> rows, int64_t first, int64_t count, const uint32_t* positions) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count * rows.k; i += step) {
    const int64_t row = i / rows.k, place = i - row * rows.k, from = positions[row * rows.n + place];
    int64_t at[3];
    rows.walk.locate(first + row, at);
    rows.put(at, place, rows.values ? rows.x[at[0] + from * rows.step[0]] : U{}, from);
  }
}

template <class U>
void sort_whole(const SortRows<U>& rows, const KeyMap<U>& map, cudaStream_t stream) {
  constexpr int64_t kTogether = int64_t(1) << 24;  // elements: what bounds the working memory
  const int64_t count = rows.walk.count, part = std::clamp<int64_t>(kTogether / rows.n, 1, count);
  Scratch scratch;
  RadixSort<KeyOf<U>> sorter(scratch, part, rows.n);
  for (int64_t first = 0; first < count; first += part) {
    const int64_t together = std::min(part, count - first);
    launch(keys_kernel<U>, grid_for(together * rows.n, kThreads), kThreads, 0, stream, rows, map, first, together,
           sorter.keys());
    const auto ordered = sorter.sort(together, int(8 * sizeof(U)), stream);
    launch(put_kernel<U>, grid_for(together * rows.k, kThreads), kThreads, 0, stream, rows, first, together,
           ordered.positions);
  }
}

template <class U>
void order_rows_of(In x, MaybeOut values, Out indices, int64_t n, int64_t k, bool descending) {
  const cudaStream_t stream = CudaQueue::current().stream();
  const int64_t* const strides[3] = {x.strides, values ? values->strides : nullptr, indices.strides};
  SortRows<U> rows{x.ptr<const U>(), values ? values->ptr<U>() : nullptr, indices.ptr<int64_t>(), n, k, {0, 0, 0}, {}};
  const int last = x.ndim - 1;
  rows.walk = Walk<3>(std::max(0, last), x.shape, strides);
  for (int operand = 0; operand < 3 && last >= 0; operand++) {
    if (strides[operand]) rows.step[operand] = strides[operand][last];
  }
  if (rows.walk.count == 0) return;
  const KeyMap<U> map(x.dtype, descending);
  if (n <= kThreads) {
    const int64_t in_block = kThreads / n;
    launch(count_smaller_kernel<U>, dim3(unsigned((rows.walk.count + in_block - 1) / in_block)), kThreads, 0, stream,
           rows, map);
  } else if (k <= kMostSelected && n <= kLongestToSelectFrom) {
    launch(select_kernel<U>, dim3(unsigned(rows.walk.count)), kSelectThreads, 0, stream, rows, map);
  } else {
    sort_whole(rows, map, stream);
  }
}

}  // namespace

void order_rows(const char* op, In x, MaybeOut values, Out indices, bool descending) {
  SG_ASSERT(x.ndim == indices.ndim && indices.dtype == DType::k_int64);
  SG_ASSERT(!values || (values->ndim == x.ndim && values->dtype == x.dtype));
  for (int d = 0; d < x.ndim; d++) {
    const bool last = d == x.ndim - 1;
    SG_ASSERT(!values || values->shape[d] == indices.shape[d]);
    SG_ASSERT(last ? indices.shape[d] <= x.shape[d] : indices.shape[d] == x.shape[d]);
  }
  const int64_t n = x.ndim > 0 ? x.size(-1) : 1, k = x.ndim > 0 ? indices.size(-1) : 1;
  if (k == 0) return;
  if (n > int64_t(UINT32_MAX)) fail(ErrorCode::Shape, op, ": a row of ", n, " elements is longer than ", UINT32_MAX);
  dispatch_bytes(x.dtype,
                 [&](auto tag) { order_rows_of<typename decltype(tag)::type>(x, values, indices, n, k, descending); });
}

}  // namespace gpu

void CudaDevice::sort(In x, Out values, Out indices, double descending) {
  SG_ASSERT(x.ndim == 0 || (values.ndim == x.ndim && values.size(-1) == x.size(-1)));
  gpu::order_rows("sort", x, MaybeOut{&values}, indices, descending != 0);
}

void CudaDevice::topk(In x, Out values, Out indices, double largest) {
  gpu::order_rows("topk", x, MaybeOut{&values}, indices, largest != 0);
}

}  // namespace sg
