// cumsum and cumprod along the last dimension, in float64 for all float kinds and in int64 for integers, which wrap
// around. Short rows are folded by a warp each; long ones in tiles: the totals of tiles, the fold of those before each,
// then the tiles once more. Blocks of a product overflow where the whole does not, so products of floats keep their
// exponent apart.
#include "cuda_device.h"
#include "cuda_queue.h"
#include "lanes.cuh"
#include "prefix.cuh"
#include "walk.cuh"

namespace sg {

namespace gpu {

// mantissa * 2^exponent, with a mantissa in [0.5, 1), zero, infinite or NaN.
struct Scaled {
  double mantissa;
  int64_t exponent;
};

namespace {

SG_DEVICE Scaled scaled(double mantissa, int64_t exponent) {
  if (mantissa == 0 || !isfinite(mantissa)) return {mantissa, 0};
  int shift;
  mantissa = std::frexp(mantissa, &shift);
  return {mantissa, exponent + shift};
}

}  // namespace

SG_DEVICE Scaled shuffle_up(Scaled v, int delta) {
  return {shuffle_up(v.mantissa, delta), shuffle_up(v.exponent, delta)};
}
SG_DEVICE Scaled shuffle_from(Scaled v, int from) {
  return {shuffle_from(v.mantissa, from), shuffle_from(v.exponent, from)};
}

namespace {

// The operations, each with the lane its numbers are read and written as.
struct FloatSum : Sum<double> {
  using lane = Lane<double>;
  static SG_DEVICE double read(lane x) { return x.v; }
  static SG_DEVICE lane result(double total) { return total; }
};
struct IntSum : Sum<uint64_t> {
  using lane = Int;
  static SG_DEVICE uint64_t read(lane x) { return uint64_t(x.v); }
  static SG_DEVICE lane result(uint64_t total) { return Int::wrap(total); }
};
struct FloatProduct {
  using value = Scaled;
  using lane = Lane<double>;
  static SG_DEVICE Scaled identity() { return {0.5, 1}; }
  static SG_DEVICE Scaled combine(Scaled a, Scaled b) {
    return scaled(a.mantissa * b.mantissa, a.exponent + b.exponent);
  }
  static SG_DEVICE Scaled read(lane x) { return scaled(x.v, 0); }
  static SG_DEVICE lane result(Scaled total) {
    constexpr int64_t kBeyond = 4096;  // of all floats
    const int64_t e = total.exponent;
    return std::ldexp(total.mantissa, int(e > kBeyond ? kBeyond : e < -kBeyond ? -kBeyond : e));
  }
};
struct IntProduct {
  using value = uint64_t;
  using lane = Int;
  static SG_DEVICE uint64_t identity() { return 1; }
  static SG_DEVICE uint64_t combine(uint64_t a, uint64_t b) { return a * b; }
  static SG_DEVICE uint64_t read(lane x) { return uint64_t(x.v); }
  static SG_DEVICE lane result(uint64_t total) { return Int::wrap(total); }
};

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kItems = 8;  // elements a thread holds of a tile
constexpr int64_t kTile = kThreads * kItems,
                  kShort = 1024;  // a row that is left to one warp

// x and y: the first element to fold, in rows that walk by walk and step.
struct ScanRows {
  const void* x;
  void* y;
  DType x_type, y_type;
  int64_t n, x_step, y_step;
  Walk<2> walk;  // y, x
};

// T: the type of x and y, or void for any.
template <class Op, class T>
SG_DEVICE typename Op::value read(const ScanRows& rows, int64_t i) {
  using L = typename Op::lane;
  if constexpr (std::is_void_v<T>) return Op::read(load_any<L>(rows.x, rows.x_type, i));
  else return Op::read(to_lane<L>(static_cast<const T*>(rows.x)[i]));
}
template <class Op, class T>
SG_DEVICE void write(const ScanRows& rows, int64_t i, typename Op::value total) {
  if constexpr (std::is_void_v<T>) store_any(rows.y, rows.y_type, i, Op::result(total));
  else static_cast<T*>(rows.y)[i] = from_lane<T>(Op::result(total));
}

// The running folds over kItems elements of a warp, which lie together; item j of lane l is element 32 j + l. Returns
// the fold of all.
template <class Op>
SG_DEVICE typename Op::value scan_items(typename Op::value (&v)[kItems]) {
  typename Op::value carry = Op::identity();
#pragma unroll
  for (int item = 0; item < kItems; item++) {
    const typename Op::value up_to = warp_inclusive<Op>(v[item]);
    v[item] = Op::combine(carry, up_to);
    carry = Op::combine(carry, shuffle_from(up_to, kWarpSize - 1));
  }
  return carry;
}

template <class Op, class T>
SG_DEVICE void read_items(const ScanRows& rows, int64_t x, int64_t first, typename Op::value (&v)[kItems]) {
#pragma unroll
  for (int item = 0; item < kItems; item++) {
    const int64_t i = first + item * kWarpSize + lane_id();
    v[item] = i < rows.n ? read<Op, T>(rows, x + i * rows.x_step) : Op::identity();
  }
}

template <class Op, class T>
SG_DEVICE void write_items(const ScanRows& rows, int64_t y, int64_t first, typename Op::value before,
                           const typename Op::value (&v)[kItems]) {
#pragma unroll
  for (int item = 0; item < kItems; item++) {
    const int64_t i = first + item * kWarpSize + lane_id();
    if (i < rows.n) write<Op, T>(rows, y + i * rows.y_step, Op::combine(before, v[item]));
  }
}

template <class Op, class T>
__global__ void __launch_bounds__(kThreads) short_rows_kernel(ScanRows rows) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + warp_id();
  if (row >= rows.walk.count) return;
  int64_t at[2];
  rows.walk.locate(row, at);
  typename Op::value before = Op::identity(), v[kItems];
  for (int64_t first = 0; first < rows.n; first += kItems * kWarpSize) {
    read_items<Op, T>(rows, at[1], first, v);
    const typename Op::value all = scan_items<Op>(v);
    write_items<Op, T>(rows, at[0], first, before, v);
    before = Op::combine(before, all);
  }
}

// Block b: tile b % tiles of row b / tiles. totals: of each tile; when `finish`, of those before it in its row, and
// none where a row is one tile.
template <class Op, class T, bool kFinish>
__global__ void __launch_bounds__(kThreads) tiles_kernel(ScanRows rows, int64_t tiles, typename Op::value* totals) {
  const int64_t first = blockIdx.x % tiles * kTile + warp_id() * kItems * kWarpSize;
  int64_t at[2];
  rows.walk.locate(blockIdx.x / tiles, at);
  typename Op::value v[kItems], all;
  read_items<Op, T>(rows, at[1], first, v);
  const typename Op::value of_warp = scan_items<Op>(v);
  const typename Op::value before = fold_of_warps_before<Op, kWarps>(of_warp, all);
  if constexpr (kFinish) {
    write_items<Op, T>(rows, at[0], first, totals ? Op::combine(totals[blockIdx.x], before) : before, v);
  } else {
    if (threadIdx.x == 0) totals[blockIdx.x] = all;
  }
}

template <class Op, class T>
void run(const ScanRows& rows) {
  const cudaStream_t stream = CudaQueue::current().stream();
  const int64_t count = rows.walk.count, tiles = (rows.n + kTile - 1) / kTile;
  if (rows.n <= kShort) {
    launch(short_rows_kernel<Op, T>, dim3(unsigned((count + kWarps - 1) / kWarps)), kThreads, 0, stream, rows);
    return;
  }
  Scratch scratch;
  typename Op::value* totals = nullptr;
  const dim3 blocks(unsigned(count * tiles));
  if (tiles > 1) {
    totals = scratch.take<typename Op::value>(size_t(count * tiles));
    launch(tiles_kernel<Op, T, false>, blocks, kThreads, 0, stream, rows, tiles, totals);
    scan_rows<Op>(totals, count, tiles, nullptr, stream);
  }
  launch(tiles_kernel<Op, T, true>, blocks, kThreads, 0, stream, rows, tiles, totals);
}

ScanRows rows_of(In x, Out y, bool reverse) {
  SG_ASSERT(x.ndim == y.ndim);
  for (int d = 0; d < x.ndim; d++) SG_ASSERT(x.shape[d] == y.shape[d]);
  const int last = x.ndim - 1;
  const int64_t* const strides[2] = {y.strides, x.strides};
  ScanRows rows{x.data, y.data, x.dtype, y.dtype, 1, 0, 0, Walk<2>(std::max(0, last), x.shape, strides)};
  if (last < 0) return rows;
  rows.n = x.shape[last];
  rows.x_step = x.strides[last];
  rows.y_step = y.strides[last];
  if (reverse && rows.n > 0) {
    rows.x = static_cast<const char*>(rows.x) + (rows.n - 1) * rows.x_step * int64_t(dtype_size(x.dtype));
    rows.y = static_cast<char*>(rows.y) + (rows.n - 1) * rows.y_step * int64_t(dtype_size(y.dtype));
    rows.x_step = -rows.x_step;
    rows.y_step = -rows.y_step;
  }
  return rows;
}

// y has x's dtype, or is int64 where x is an integer or bool.
void check_dtypes(const char* op, In x, Out y) {
  const bool integer = !is_floating(x.dtype);
  const bool same = y.dtype == x.dtype && dtype_size(x.dtype) > (integer ? 0 : 1) && x.dtype != DType::k_bool_;
  if (same || (integer && y.dtype == DType::k_int64)) return;
  fail(ErrorCode::DType, op, ": cannot accumulate ", dtype_name(x.dtype), " in ", dtype_name(y.dtype));
}

}  // namespace

}  // namespace gpu

void CudaDevice::cumsum(In x, Out y, double reverse) {
  gpu::check_dtypes("cumsum", x, y);
  if (x.numel() == 0) return;
  const gpu::ScanRows rows = gpu::rows_of(x, y, reverse != 0);
  if (!is_floating(x.dtype)) return gpu::run<gpu::IntSum, void>(rows);
  dispatch_float("cumsum", x.dtype, [&](auto tag) { gpu::run<gpu::FloatSum, typename decltype(tag)::type>(rows); });
}

void CudaDevice::cumprod(In x, Out y) {
  gpu::check_dtypes("cumprod", x, y);
  if (x.numel() == 0) return;
  const gpu::ScanRows rows = gpu::rows_of(x, y, false);
  if (is_floating(x.dtype)) gpu::run<gpu::FloatProduct, void>(rows);
  else gpu::run<gpu::IntProduct, void>(rows);
}

}  // namespace sg
