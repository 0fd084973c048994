// Copies, casts and fills. A copy within one dtype moves bits in words as wide
// as the layout of both sides allows, and through tiles in shared memory where
// one side is transposed. Casts between the hot float types have a kernel;
// every other cast is the identity of the pointwise table.
#include "../ops/pointwise.h"

#include "cuda_device.h"
#include "cuda_error.h"
#include "cuda_queue.h"
#include "lanes.cuh"
#include "walk.cuh"
#include "words.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256;
// What a thread has under way at once.
constexpr int kInFlight = 4;

template <class Word>
__global__ void __launch_bounds__(kThreads) move_kernel(const Word* from, Word* to, Walk<2> walk) {
  const int64_t step = int64_t(gridDim.x) * kThreads * kInFlight;
  for (int64_t first = int64_t(blockIdx.x) * kThreads * kInFlight + threadIdx.x; first < walk.count; first += step) {
    Word word[kInFlight];
    int64_t place[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; j++) {
      if (first + j * kThreads >= walk.count) break;
      int64_t at[2];
      walk.locate(first + j * kThreads, at);
      place[j] = at[0];
      word[j] = from[at[1]];
    }
#pragma unroll
    for (int j = 0; j < kInFlight; j++) {
      if (first + j * kThreads < walk.count) to[place[j]] = word[j];
    }
  }
}

template <class Word>
__global__ void __launch_bounds__(kThreads) fill_kernel(Word* to, Word word, Walk<1> walk) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < walk.count; i += step) {
    int64_t at[1];
    walk.locate(i, at);
    to[at[0]] = word;
  }
}

// A matrix whose rows lie side by side in x and whose columns in y, and how the
// matrices of a batch lie.
struct Transpose {
  int64_t rows, cols, row_tiles, col_tiles;
  int64_t from_col, to_row;  // strides; the other two are 1
  Walk<2> batch;
};

// Of small elements more go into a tile, so that its lines are of 64 bytes at
// least.
template <class Word>
constexpr int kTile = sizeof(Word) <= 2 ? 64 : 32;

template <class Word>
__global__ void __launch_bounds__(kThreads) transpose_kernel(const Word* from, Word* to, Transpose t) {
  constexpr int kSide = kTile<Word>, kStep = kThreads / kSide;
  // One bank more than the tile is wide: neither rows nor columns meet in a
  // bank.
  constexpr int kPadding = sizeof(Word) < 4 ? 4 / sizeof(Word) : 1;
  SG_SHARED(Word, tile, [kSide][kSide + kPadding]);
  const int across = threadIdx.x % kSide, down = threadIdx.x / kSide;
  const int64_t tiles = t.row_tiles * t.col_tiles, all = tiles * t.batch.count;
  for (int64_t block = blockIdx.x; block < all; block += gridDim.x) {
    int64_t at[2];
    t.batch.locate(block / tiles, at);
    const int64_t row = block % tiles / t.col_tiles * kSide, col = block % t.col_tiles * kSide;
#pragma unroll
    for (int j = down; j < kSide; j += kStep) {
      if (row + across < t.rows && col + j < t.cols) {
        tile[j][across] = from[at[1] + row + across + (col + j) * t.from_col];
      }
    }
    __syncthreads();
#pragma unroll
    for (int j = down; j < kSide; j += kStep) {
      if (row + j < t.rows && col + across < t.cols) {
        to[at[0] + (row + j) * t.to_row + col + across] = tile[across][j];
      }
    }
    __syncthreads();
  }
}

// Finds the dimension that is innermost in x, if y has another: worth tiles
// where both sides of the matrix are long enough to fill some.
bool find_transpose(const Walk<2>& walk, int64_t side, Transpose& t) {
  constexpr int64_t kWorthIt = 8;
  const int last = walk.ndim - 1;
  if (walk.ndim < 2 || walk.strides[0][last] != 1 || walk.shape[last] < kWorthIt) return false;
  for (int d = 0; d < last; d++) {
    if (walk.strides[1][d] != 1 || walk.shape[d] < kWorthIt) continue;
    t.rows = walk.shape[d];
    t.cols = walk.shape[last];
    t.row_tiles = (t.rows + side - 1) / side;
    t.col_tiles = (t.cols + side - 1) / side;
    t.from_col = walk.strides[1][last];
    t.to_row = walk.strides[0][d];
    int64_t shape[kMaxDims];
    std::copy(walk.shape, walk.shape + last, shape);
    shape[d] = 1;
    t.batch = Walk<2>(last, shape, {walk.strides[0], walk.strides[1]});
    return true;
  }
  return false;
}

template <class Word>
bool transpose(const View& x, const View& y, const Walk<2>& walk, cudaStream_t stream) {
  Transpose t;
  if (!find_transpose(walk, kTile<Word>, t)) return false;
  const dim3 grid = grid_for(t.batch.count * t.row_tiles * t.col_tiles, 1);
  launch(transpose_kernel<Word>, grid, kThreads, 0, stream, x.ptr<const Word>(), y.ptr<Word>(), t);
  return true;
}

// y[i] = x[i], both of one dtype.
void move(const View& x, const View& y, cudaStream_t stream) {
  if (y.numel() == 0 || (x.data == y.data && std::equal(x.strides, x.strides + x.ndim, y.strides))) return;
  const size_t size = dtype_size(y.dtype);
  Walk<2> walk(y.ndim, y.shape, {y.strides, x.strides});
  if (walk.ndim == 0 || (walk.ndim == 1 && walk.strides[0][0] == 1 && walk.strides[1][0] == 1)) {
    const size_t bytes = size_t(walk.count) * size;
    return check(cudaMemcpyAsync(y.data, x.data, bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  }
  bool done = false;
  dispatch_bytes(y.dtype, [&](auto tag) { done = transpose<typename decltype(tag)::type>(x, y, walk, stream); });
  if (done) return;
  const auto addresses = reinterpret_cast<uintptr_t>(x.data) | reinterpret_cast<uintptr_t>(y.data);
  dispatch_word(widest_word(walk, addresses, size), [&](auto tag) {
    using Word = typename decltype(tag)::type;
    const dim3 grid = grid_for((walk.count + kInFlight - 1) / kInFlight, kThreads);
    launch(move_kernel<Word>, grid, kThreads, 0, stream, x.ptr<const Word>(), y.ptr<Word>(), walk);
  });
}

// ---- casts

constexpr int kCastCount = 8;  // 16 bytes of the 16-bit type

template <class From, class To>
__global__ void __launch_bounds__(kThreads) cast_kernel(const From* from, To* to, Walk<2> walk) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < walk.count; i += step) {
    int64_t at[2];
    walk.locate(i, at);
    Packs<From, kCastCount> x;
    Packs<To, kCastCount> y;
    x.load(from + at[1] * kCastCount);
#pragma unroll
    for (int j = 0; j < kCastCount; j++) y.set(j, To(float(x.get(j))));
    y.store(to + at[0] * kCastCount);
  }
}

template <class From, class To>
bool cast_packs(const View& x, const View& y, cudaStream_t stream) {
  Walk<2> walk(y.ndim, y.shape, {y.strides, x.strides});
  if (!is_aligned16(x.data) || !is_aligned16(y.data) || !walk.widen(kCastCount)) return false;
  launch(cast_kernel<From, To>, grid_for(walk.count, kThreads), kThreads, 0, stream, x.ptr<const From>(), y.ptr<To>(),
         walk);
  return true;
}

// float32 to a 16-bit float and back, in packs.
bool cast_hot(const View& x, const View& y, cudaStream_t stream) {
  const auto is = [&](DType from, DType to) { return x.dtype == from && y.dtype == to; };
  if (is(DType::k_float32, DType::k_bfloat16)) return cast_packs<float, bfloat16>(x, y, stream);
  if (is(DType::k_bfloat16, DType::k_float32)) return cast_packs<bfloat16, float>(x, y, stream);
  if (is(DType::k_float32, DType::k_float16)) return cast_packs<float, float16>(x, y, stream);
  if (is(DType::k_float16, DType::k_float32)) return cast_packs<float16, float>(x, y, stream);
  return false;
}

// ---- sequences and triangles

__global__ void __launch_bounds__(kThreads)
    arange_kernel(void* y, DType dtype, int64_t stride, int64_t count, double start, double step) {
  const int64_t threads = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += threads) {
    // Rounded twice, as on the CPU: no fused multiplication and addition.
    store_any(y, dtype, i * stride, Lane<double>(__dadd_rn(start, __dmul_rn(double(i), step))));
  }
}

// Operands of the walk: y, x, and row minus column.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    triangle_kernel(const Word* x, Word* y, int64_t edge, bool upper, Walk<3> walk) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < walk.count; i += step) {
    int64_t at[3];
    walk.locate(i, at);
    const bool kept = upper ? at[2] <= edge : at[2] >= edge;
    y[at[0]] = kept ? x[at[1]] : Word(0);
  }
}

// The view [begin, begin + size) of dimension d.
View narrow(const View& v, int d, int64_t begin, int64_t size) {
  View part = v;
  part.data = v.ptr<char>() + begin * v.strides[d] * int64_t(dtype_size(v.dtype));
  part.shape[d] = size;
  return part;
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::copy(In x, Out y) {
  if (x.is_scalar()) return fill(y, x.scalar);
  const cudaStream_t stream = CudaQueue::current().stream();
  if (x.dtype == y.dtype) return move(x, y, stream);
  if (cast_hot(x, y, stream)) return;
  View input = x;
  pointwise(PointwiseOp::k_identity, {&input, 1}, y, lane_dtype(x.dtype));
}

void CudaDevice::fill(Out y, double value) {
  if (y.numel() == 0) return;
  const size_t size = dtype_size(y.dtype);
  Pack<uint64_t> pattern{};
  dispatch_all(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T one = cast<T>(cast<typename lane_for<T>::value>(value));
    for (size_t i = 0; i < sizeof pattern; i += sizeof(T))
      std::memcpy(reinterpret_cast<char*>(&pattern) + i, &one, sizeof(T));
  });
  Walk<1> walk(y.ndim, y.shape, {y.strides});
  dispatch_word(widest_word(walk, reinterpret_cast<uintptr_t>(y.data), size), [&](auto tag) {
    using Word = typename decltype(tag)::type;
    Word word;
    std::memcpy(&word, &pattern, sizeof word);
    launch(fill_kernel<Word>, grid_for(walk.count, kThreads), kThreads, 0, CudaQueue::current().stream(), y.ptr<Word>(),
           word, walk);
  });
}

void CudaDevice::arange(Out y, double start, double step) {
  SG_ASSERT(y.ndim == 1);
  if (y.numel() == 0) return;
  launch(arange_kernel, grid_for(y.shape[0], kThreads), kThreads, 0, CudaQueue::current().stream(), y.data, y.dtype,
         y.strides[0], y.shape[0], start, step);
}

void CudaDevice::cat(Out y, double dim, Ins xs) {
  int64_t begin = 0;
  for (int k = 0; k < xs.count; k++) {
    const int64_t size = xs[k].shape[int(dim)];
    move(xs[k], narrow(y, int(dim), begin, size), CudaQueue::current().stream());
    begin += size;
  }
}

void CudaDevice::triangle(In x, Out y, double diagonal, double upper) {
  // An upper triangle keeps row - column <= -diagonal, a lower one row - column
  // >= -diagonal.
  const int64_t edge = -cast<int64_t>(std::clamp(diagonal, -0x1p53, 0x1p53));
  int64_t distance[kMaxDims] = {};
  distance[y.ndim - 2] = 1;
  distance[y.ndim - 1] = -1;
  const Walk<3> walk(y.ndim, y.shape, {y.strides, x.strides, distance});
  if (walk.count == 0) return;
  dispatch_bytes(y.dtype, [&](auto tag) {
    using Word = typename decltype(tag)::type;
    launch(triangle_kernel<Word>, grid_for(walk.count, kThreads), kThreads, 0, CudaQueue::current().stream(),
           x.ptr<const Word>(), y.ptr<Word>(), edge, upper != 0, walk);
  });
}

}  // namespace sg
