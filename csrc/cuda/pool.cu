// Pooling of images. Every result has a thread that goes through what it is made of, in the order of the CPU; the
// gradient of a maximum, whose indices may name an element often, has a block for a piece of a plane instead.
#include "../ops/pool.h"

#include "cuda_device.h"
#include "cuda_queue.h"
#include "fault.cuh"
#include "lanes.cuh"
#include "planes.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    max_pool_kernel(Images<const T> x, Images<T> y, Images<int64_t> indices, FlatIndex<4> outputs, Pool pool) {
  using A = accumulate_t<T>;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < outputs.count; i += step) {
    const Place<4> at = outputs[i];
    const T* const plane = x.plane(at[0], at[1]);
    const PoolAxis::Window rows = pool.h.window(at[2]), cols = pool.w.window(at[3]);
    int64_t best_h = rows.begin, best_w = cols.begin;
    A best = A(plane[x.in_plane(rows.begin, cols.begin)]);
    for (int64_t h = rows.begin; h < rows.end; h++)
      for (int64_t w = cols.begin; w < cols.end; w++) {
        const A value = A(plane[x.in_plane(h, w)]);
        // A greater value or the first NaN; nothing follows a NaN.
        if (!(value <= best) && best == best) best = value, best_h = h, best_w = w;
      }
    y[at] = T(best);
    indices[at] = best_h * pool.w.size + best_w;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    avg_pool_kernel(Images<const T> x, Images<T> y, FlatIndex<4> outputs, Pool pool) {
  using A = accumulate_t<T>;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < outputs.count; i += step) {
    const Place<4> at = outputs[i];
    const T* const plane = x.plane(at[0], at[1]);
    const PoolAxis::Window rows = pool.h.window(at[2]), cols = pool.w.window(at[3]);
    A sum = 0;
    for (int64_t h = rows.begin; h < rows.end; h++)
      for (int64_t w = cols.begin; w < cols.end; w++) sum += A(plane[x.in_plane(h, w)]);
    y[at] = T(sum / A(pool.divisor(rows, cols)));
  }
}

// The outputs [first, last) whose windows hold position `at`.
struct Outputs {
  int64_t first, last;
  SG_DEVICE Outputs(const PoolAxis& axis, int64_t at, int64_t outputs) {
    const int64_t before = at + axis.pad - axis.kernel;  // a window that begins here ends just before `at`
    first = before < 0 ? 0 : before / axis.stride + 1;
    last = min(outputs, (at + axis.pad) / axis.stride + 1);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    avg_pool_backward_kernel(Images<const T> dy, Images<T> dx, FlatIndex<4> inputs, Pool pool, int64_t height,
                             int64_t width) {
  using A = accumulate_t<T>;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < inputs.count; i += step) {
    const Place<4> at = inputs[i];
    const T* const plane = dy.plane(at[0], at[1]);
    const Outputs rows(pool.h, at[2], height), cols(pool.w, at[3], width);
    A sum = 0;
    for (int64_t h = rows.first; h < rows.last; h++)
      for (int64_t w = cols.first; w < cols.last; w++)
        sum += A(plane[dy.in_plane(h, w)]) / A(pool.divisor(pool.h.window(h), pool.w.window(w)));
    dx[at] = T(sum);
  }
}

// ---- the gradient of maxima

constexpr int kScatterThreads = 128;
// Elements of a plane that a block sums, in shared memory.
template <class A>
constexpr int kPiece = int((32 << 10) / sizeof(A));

struct Planes {
  int64_t channels, height, width;  // of the outputs
  int64_t dx_width, size;           // of the plane of inputs
  int pieces;
  int64_t shape[4];  // of the indices
};

// The sum of `value` over the lanes with one target, in the order of the lanes, for the first of them (true). A target
// below 0 is none.
template <class A>
SG_DEVICE bool sum_of_target(int target, A& value) {
  const int lane = threadIdx.x % kWarpSize;
  const unsigned peers = __match_any_sync(kFullWarp, target);
  A sum = 0;
  for (unsigned left = target < 0 ? 0 : peers; __any_sync(kFullWarp, left != 0); left &= left - 1) {
    const A other = __shfl_sync(kFullWarp, value, left ? __ffs(int(left)) - 1 : lane);
    if (left) sum += other;
  }
  value = sum;
  return target >= 0 && __ffs(int(peers)) - 1 == lane;
}

// One block: a piece of a plane, for all outputs of the plane. Its warps add in turn, so the order of every sum is that
// of the outputs, by groups of 32.
template <class T>
__global__ void __launch_bounds__(kScatterThreads)
    max_pool_backward_kernel(Images<const T> dy, Images<const int64_t> indices, Images<T> dx, Planes planes,
                             FaultSink faults) {
  using A = accumulate_t<T>;
  SG_SHARED(A, sums, [kPiece<A>]);
  const int64_t plane = blockIdx.x / planes.pieces, n = plane / planes.channels, c = plane % planes.channels;
  const int piece = blockIdx.x % planes.pieces, warp = threadIdx.x / kWarpSize;
  const int64_t begin = int64_t(piece) * kPiece<A>, outputs = planes.height * planes.width;
  const int elements = int(min(int64_t(kPiece<A>), planes.size - begin));
  for (int i = threadIdx.x; i < elements; i += kScatterThreads) sums[i] = 0;
  __syncthreads();
  for (int64_t first = 0; first < outputs; first += kScatterThreads) {
    const int64_t i = first + threadIdx.x;
    int target = -1;
    A value = 0;
    if (i < outputs) {
      const Place<4> at{{n, c, i / planes.width, i % planes.width}};
      const int64_t given = indices[at], index = given < 0 ? given + planes.size : given;
      if (index < 0 || index >= planes.size) {
        if (piece == 0)
          raise_fault(faults, FaultKind::kIndex, given, planes.size, plane * outputs + i, 0, 4, planes.shape);
      } else if (index >= begin && index < begin + elements) {
        target = int(index - begin);
        value = A(dy[at]);
      }
    }
    const bool adds = sum_of_target(target, value);
    for (int turn = 0; turn < kScatterThreads / kWarpSize; turn++) {
      if (turn == warp && adds) sums[target] += value;
      __syncthreads();
    }
  }
  for (int i = threadIdx.x; i < elements; i += kScatterThreads) {
    const int64_t at = begin + i;
    dx[Place<4>{{n, c, at / planes.dx_width, at % planes.dx_width}}] = T(sums[i]);
  }
}

}  // namespace
}  // namespace gpu

void CudaDevice::maxPool2d(In x, Out y, Out indices, Rest geometry) {
  using namespace gpu;
  const Pool pool = pool_of(x, y, geometry, 6);
  SG_ASSERT(indices.ndim == 4 && indices.dtype == DType::k_int64);
  for (int d = 0; d < 4; d++) SG_ASSERT(indices.shape[d] == y.shape[d]);
  if (y.numel() == 0) return;
  dispatch_float("maxPool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(max_pool_kernel<T>, grid_for(y.numel(), kThreads), kThreads, 0, CudaQueue::current().stream(),
           Images<const T>(x), Images<T>(y), Images<int64_t>(indices), image_index(y), pool);
  });
}

void CudaDevice::maxPool2dBackward(In dy, In indices, Out dx) {
  using namespace gpu;
  SG_ASSERT(dy.ndim == 4 && dx.ndim == 4 && indices.ndim == 4 && dy.dtype == dx.dtype);
  SG_ASSERT(indices.dtype == DType::k_int64 && dx.shape[0] == dy.shape[0] && dx.shape[1] == dy.shape[1]);
  for (int d = 0; d < 4; d++) SG_ASSERT(indices.shape[d] == dy.shape[d]);
  if (dx.shape[0] * dx.shape[1] == 0) return;
  const CudaQueue& queue = CudaQueue::current();
  dispatch_float("maxPool2dBackward", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    constexpr int64_t kElements = kPiece<accumulate_t<T>>;
    Planes planes{dy.shape[1], dy.shape[2], dy.shape[3], dx.shape[3], dx.shape[2] * dx.shape[3], 0, {}};
    planes.pieces = int(std::max<int64_t>(1, (planes.size + kElements - 1) / kElements));
    std::copy_n(indices.shape, 4, planes.shape);
    launch(max_pool_backward_kernel<T>, unsigned(dx.shape[0] * dx.shape[1] * planes.pieces), kScatterThreads, 0,
           queue.stream(), Images<const T>(dy), Images<const int64_t>(indices), Images<T>(dx), planes,
           FaultSink{queue.fault_record(), "maxPool2dBackward", nullptr});
  });
}

void CudaDevice::avgPool2d(In x, Out y, Rest geometry) {
  using namespace gpu;
  const Pool pool = pool_of(x, y, geometry, 7);
  if (y.numel() == 0) return;
  dispatch_float("avgPool2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(avg_pool_kernel<T>, grid_for(y.numel(), kThreads), kThreads, 0, CudaQueue::current().stream(),
           Images<const T>(x), Images<T>(y), image_index(y), pool);
  });
}

void CudaDevice::avgPool2dBackward(In dy, Out dx, Rest geometry) {
  using namespace gpu;
  const Pool pool = pool_of(dx, dy, geometry, 7);
  if (dx.numel() == 0) return;
  dispatch_float("avgPool2dBackward", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(avg_pool_backward_kernel<T>, grid_for(dx.numel(), kThreads), kThreads, 0, CudaQueue::current().stream(),
           Images<const T>(dy), Images<T>(dx), image_index(dx), pool, dy.shape[2], dy.shape[3]);
  });
}

}  // namespace sg
