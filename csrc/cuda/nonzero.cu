// The positions of the elements that are not zero, in row-major order: tiles count theirs, the counts are scanned, and
// each tile then writes from where those before it end.
#include "cuda_device.h"
#include "cuda_queue.h"
#include "prefix.cuh"
#include "walk.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kItems = 16;  // elements of a thread, and of a warp those of 32 threads side by side
constexpr int64_t kTile = kThreads * kItems;

template <class U>
struct Elements {
  const U* x;
  U mask;  // without the sign of a float
  Walk<1> walk;
  SG_DEVICE bool is_set(int64_t i) const {
    if (i >= walk.count) return false;
    int64_t at[1];
    walk.locate(i, at);
    return (x[at[0]] & mask) != 0;
  }
};
struct Positions {
  int64_t* to;
  int64_t rows, row_step, step;
  int ndim;
  int64_t shape[kMaxDims];
  SG_DEVICE void put(int64_t row, int64_t position) const {
    if (row >= rows) return;  // more than were counted: written since
    for (int d = ndim - 1; d > 0; d--) {
      to[row * row_step + d * step] = position % shape[d];
      position /= shape[d];
    }
    if (ndim > 0) to[row * row_step] = position;
  }
};

// Bit l: whether item number `item` of lane l is set.
template <class U>
SG_DEVICE unsigned set_items(const Elements<U>& elements, int64_t first, int item) {
  return __ballot_sync(kFullWarp, elements.is_set(first + item * kWarpSize + lane_id()));
}

// counts[tile]: of this tile, or when writing of those before it.
template <class U, bool kWrite>
__global__ void __launch_bounds__(kThreads) tiles_kernel(Elements<U> elements, uint64_t* counts, Positions positions) {
  const int64_t first = blockIdx.x * kTile + warp_id() * kItems * kWarpSize;
  uint32_t of_warp = 0, all;
#pragma unroll 4
  for (int item = 0; item < kItems; item++) of_warp += __popc(set_items(elements, first, item));
  const uint32_t before = fold_of_warps_before<Sum<uint32_t>, kWarps>(of_warp, all);
  if constexpr (kWrite) {
    int64_t row = int64_t(counts[blockIdx.x]) + before;
#pragma unroll 1  // the elements are in the cache now, and what follows is long
    for (int item = 0; item < kItems; item++) {
      const unsigned set = set_items(elements, first, item), below = set & ((1u << lane_id()) - 1);
      if (set >> lane_id() & 1) positions.put(row + __popc(below), first + item * kWarpSize + lane_id());
      row += __popc(set);
    }
  } else {
    if (threadIdx.x == 0) counts[blockIdx.x] = all;
  }
}

}  // namespace
}  // namespace gpu

void CudaDevice::nonzero(In x, Out indices) {
  using namespace gpu;
  SG_ASSERT(indices.ndim == 2 && indices.shape[1] == x.ndim && indices.dtype == DType::k_int64);
  const Walk<1> walk(x.ndim, x.shape, {x.strides}, Order::kLogical);
  if (walk.count == 0 || indices.numel() == 0) return;
  Positions positions{indices.ptr<int64_t>(), indices.shape[0], indices.strides[0], indices.strides[1], x.ndim, {}};
  std::copy(x.shape, x.shape + x.ndim, positions.shape);
  const cudaStream_t stream = CudaQueue::current().stream();
  const int64_t tiles = (walk.count + kTile - 1) / kTile;
  Scratch scratch;
  uint64_t* const counts = scratch.take<uint64_t>(size_t(tiles));
  dispatch_bytes(x.dtype, [&](auto tag) {
    using U = typename decltype(tag)::type;
    const U sign = U(U(1) << (8 * sizeof(U) - 1)), mask = is_floating(x.dtype) ? U(~sign) : U(~U(0));
    const Elements<U> elements{x.ptr<const U>(), mask, walk};
    const dim3 blocks{unsigned(tiles)};
    launch(tiles_kernel<U, false>, blocks, kThreads, 0, stream, elements, counts, positions);
    scan_rows<Sum<uint64_t>>(counts, 1, tiles, nullptr, stream);
    launch(tiles_kernel<U, true>, blocks, kThreads, 0, stream, elements, counts, positions);
  });
}

}  // namespace sg
