// Reductions of the table. The operation is a switch that all threads take the same way, once a round of loads; what a
// round gives is folded in the compute type and then into float64 (int64), so a float32 sum of a hundred million
// elements keeps seven digits. Elements side by side are loaded as packs, along the reduced dimensions or across them.
#include "../ops/reduce.h"

#include "cuda_device.h"
#include "cuda_queue.h"
#include "group.cuh"
#include "reduce_plan.h"

namespace sg {

namespace gpu {
namespace {

#define SG_ROW(domain, name, term_, fold_, identity_, result_)  \
  struct Reduce_##name {                                        \
    template <class L>                                          \
    SG_DEVICE static L term(L a) {                              \
      return term_;                                             \
    }                                                           \
    template <class L>                                          \
    SG_DEVICE static L fold(L a, L b) {                         \
      return fold_;                                             \
    }                                                           \
    template <class W>                                          \
    SG_DEVICE static W result(W a, [[maybe_unused]] double n) { \
      return W(result_);                                        \
    }                                                           \
  };
SG_REDUCE(SG_ROW)
#undef SG_ROW

// Calls f(Reduce_sum{}), ... for those that lanes L have.
template <class L, class F>
SG_DEVICE void with_reduction(ReduceOp op, F&& f) {
  switch (op) {
#define SG_ROW(domain, name, ...)                                                                \
  case ReduceOp::k_##name:                                                                       \
    if constexpr (Domain::domain == Domain::kAny || !std::is_same_v<L, Int>) f(Reduce_##name{}); \
    return;
    SG_REDUCE(SG_ROW)
#undef SG_ROW
    default: return;
  }
}

// Partial results are kept in float64 or int64.
template <class L>
using Wide = std::conditional_t<std::is_same_v<L, Int>, Int, Lane<double>>;

template <class W>
SG_DEVICE W fold_wide(ReduceOp op, W a, W b) {
  with_reduction<W>(op, [&](auto reduction) { a = decltype(reduction)::fold(a, b); });
  return a;
}

// How elements of x become lanes: packs of one type, or single elements of any. What is loaded stays as it is until all
// loads of a round are under way: the first conversion would wait for its load.
template <class T>
struct PackLoader {
  using L = lane_for<T>;
  using Loaded = Pack<T>;
  static constexpr int kCount = Pack<T>::kCount;
  SG_DEVICE static Loaded load(const void* x, DType, int64_t at) {
    return *reinterpret_cast<const Pack<T>*>(static_cast<const T*>(x) + at);
  }
  SG_DEVICE static L lane(const Loaded& pack, int i) { return to_lane<L>(pack.at[i]); }
};
template <class Lanes>
struct AnyLoader {
  using L = Lanes;
  using Loaded = L;
  static constexpr int kCount = 1;
  SG_DEVICE static Loaded load(const void* x, DType dtype, int64_t at) { return load_any<L>(x, dtype, at); }
  SG_DEVICE static L lane(Loaded x, int) { return x; }
};

struct ReduceTask {
  ReduceOp op;
  DType x_dtype, y_dtype;
  const void* x;
  void* y;
  void* partials;   // a wide number for each part of each result; null: there is one part
  double identity;  // its term is itself
  double count;     // elements of a result
  int group;
  int64_t parts;
  Walk<2> kept;        // x and y
  Walk<1> kept_packs;  // x, in packs: of column_kernel
  Walk<1> reduced;     // x, in packs: of row_kernel
};

template <class W>
SG_DEVICE void finish(const ReduceTask& t, int64_t result, W total) {
  int64_t at[2];
  t.kept.locate(result, at);
  with_reduction<W>(t.op, [&](auto reduction) { total = W(decltype(reduction)::result(total.v, t.count)); });
  store_any(t.y, t.y_dtype, at[1], total);
}

template <class W>
SG_DEVICE void finish_or_keep(const ReduceTask& t, int64_t result, int64_t part, W total) {
  if (t.partials) static_cast<W*>(t.partials)[result * t.parts + part] = total;
  else finish(t, result, total);
}

// A group of threads folds the elements of a result, or of a part of it.
template <class Loader>
__global__ void __launch_bounds__(kReduceThreads, 3) row_kernel(ReduceTask t) {
  using L = typename Loader::L;
  using W = Wide<L>;
  constexpr int kCount = Loader::kCount;
  SG_SHARED(W, of_warps, [kReduceThreads / kWarpSize]);
  const L identity(cast<typename L::value>(t.identity));
  const int groups = kReduceThreads / t.group, lane = threadIdx.x % t.group;
  const int64_t tasks = t.kept.count * t.parts;
  for (int64_t first = int64_t(blockIdx.x) * groups; first < tasks; first += int64_t(gridDim.x) * groups) {
    const int64_t task = first + threadIdx.x / t.group, result = task / t.parts, part = task - result * t.parts;
    W total(cast<typename W::value>(t.identity));
    if (task < tasks) {
      int64_t base[2];
      t.kept.locate(result, base);
      const int64_t end = t.reduced.count * (part + 1) / t.parts;
      for (int64_t i = t.reduced.count * part / t.parts + lane; i < end; i += t.group * kReduceInFlight) {
        typename Loader::Loaded loaded[kReduceInFlight];
#pragma unroll
        for (int j = 0; j < kReduceInFlight; j++) {
          if (i + j * t.group >= end) break;
          int64_t at[1];
          t.reduced.locate(i + j * t.group, at);
          loaded[j] = Loader::load(t.x, t.x_dtype, base[0] + at[0] * kCount);
        }
        L x[kReduceInFlight][kCount];
#pragma unroll
        for (int j = 0; j < kReduceInFlight; j++) {
          for (int c = 0; c < kCount; c++) x[j][c] = i + j * t.group < end ? Loader::lane(loaded[j], c) : identity;
        }
        with_reduction<L>(t.op, [&](auto reduction) {
          using Op = decltype(reduction);
          L sum = identity;
#pragma unroll
          for (int c = 0; c < kCount; c++) {
            const L low = Op::fold(Op::term(x[0][c]), Op::term(x[1][c]));
            const L high = Op::fold(Op::term(x[2][c]), Op::term(x[3][c]));
            sum = Op::fold(sum, Op::template fold<L>(low, high));
          }
          total = Op::fold(total, W(typename W::value(sum.v)));
        });
      }
    }
    total = fold_group(total, t.group, of_warps, [&](W a, W b) { return fold_wide(t.op, a, b); });
    if (lane == 0 && task < tasks) finish_or_keep(t, result, part, total);
  }
}

// A thread folds a pack of neighbouring results over some rows; the rows of a block are joined in shared memory. Here
// t.group is how many packs lie beside each other in a block.
template <class Loader>
__global__ void __launch_bounds__(kReduceThreads) column_kernel(ReduceTask t) {
  using L = typename Loader::L;
  using W = Wide<L>;
  constexpr int kCount = Loader::kCount;
  SG_SHARED(W, totals, [kCount][kReduceThreads]);
  const L identity(cast<typename L::value>(t.identity));
  const int lane = threadIdx.x % t.group, down = threadIdx.x / t.group, height = kReduceThreads / t.group;
  const int64_t packs = t.kept_packs.count, tasks = (packs + t.group - 1) / t.group * t.parts;
  for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int64_t pack = task / t.parts * t.group + lane, part = task % t.parts;
    W total[kCount];
    for (int c = 0; c < kCount; c++) total[c] = W(cast<typename W::value>(t.identity));
    if (pack < packs) {
      int64_t base[1];
      t.kept_packs.locate(pack, base);
      const int64_t end = t.reduced.count * (part + 1) / t.parts;
      for (int64_t row = t.reduced.count * part / t.parts + down; row < end; row += height * kReduceInFlight) {
        typename Loader::Loaded loaded[kReduceInFlight];
#pragma unroll
        for (int j = 0; j < kReduceInFlight; j++) {
          if (row + j * height >= end) break;
          int64_t at[1];
          t.reduced.locate(row + j * height, at);
          loaded[j] = Loader::load(t.x, t.x_dtype, base[0] * kCount + at[0]);
        }
        L x[kReduceInFlight][kCount];
#pragma unroll
        for (int j = 0; j < kReduceInFlight; j++) {
          for (int c = 0; c < kCount; c++) x[j][c] = row + j * height < end ? Loader::lane(loaded[j], c) : identity;
        }
        with_reduction<L>(t.op, [&](auto reduction) {
          using Op = decltype(reduction);
#pragma unroll
          for (int c = 0; c < kCount; c++) {
            const L low = Op::fold(Op::term(x[0][c]), Op::term(x[1][c]));
            const L high = Op::fold(Op::term(x[2][c]), Op::term(x[3][c]));
            total[c] = Op::fold(total[c], W(typename W::value(Op::template fold<L>(low, high).v)));
          }
        });
      }
    }
    for (int c = 0; c < kCount; c++) totals[c][threadIdx.x] = total[c];
    for (int half = height / 2; half > 0; half /= 2) {
      __syncthreads();
      if (down >= half) continue;
#pragma unroll 1
      for (int c = 0; c < kCount; c++) {
        W& mine = totals[c][threadIdx.x];
        mine = fold_wide(t.op, mine, totals[c][threadIdx.x + half * t.group]);
      }
    }
    if (down == 0 && pack < packs) {
#pragma unroll 1
      for (int c = 0; c < kCount; c++) finish_or_keep(t, pack * kCount + c, part, totals[c][threadIdx.x]);
    }
    __syncthreads();
  }
}

// The parts of a result, by a warp.
template <class W>
__global__ void __launch_bounds__(kReduceThreads) join_kernel(ReduceTask t) {
  constexpr int kWarps = kReduceThreads / kWarpSize;
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t result = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarpSize; result < t.kept.count;
       result += int64_t(gridDim.x) * kWarps) {
    const W* const parts = static_cast<const W*>(t.partials) + result * t.parts;
    W total(cast<typename W::value>(t.identity));
    for (int64_t part = lane; part < t.parts; part += kWarpSize) total = fold_wide(t.op, total, parts[part]);
    total = fold_group(total, kWarpSize, static_cast<W*>(nullptr), [&](W a, W b) { return fold_wide(t.op, a, b); });
    if (lane == 0) finish(t, result, total);
  }
}

template <class Loader>
void run(void (*kernel)(ReduceTask), ReduceTask& t, dim3 grid) {
  using W = Wide<typename Loader::L>;
  const cudaStream_t stream = CudaQueue::current().stream();
  Scratch scratch;
  if (t.parts > 1) t.partials = scratch.take<W>(size_t(t.kept.count * t.parts));
  launch(kernel, grid, kReduceThreads, 0, stream, t);
  if (t.parts > 1)
    launch(join_kernel<W>, grid_for(t.kept.count, kReduceThreads / kWarpSize), kReduceThreads, 0, stream, t);
}

template <class Loader>
void run_rows(ReduceTask& t, bool neighbours) {
  const ReduceGroups groups(t.kept.count, t.reduced.count, neighbours);
  t.group = groups.group;
  t.parts = groups.parts;
  run<Loader>(row_kernel<Loader>, t, groups.grid(t.kept.count));
}

template <class Loader>
void run_columns(ReduceTask& t) {
  // Wide enough for whole lines of memory; wider where there are few rows.
  t.group = 1;
  while (t.group < kReduceThreads && t.group < t.kept_packs.count &&
         (t.group < kWarpSize || t.reduced.count < kReduceThreads / t.group * kReduceInFlight))
    t.group *= 2;
  const int64_t blocks = (t.kept_packs.count + t.group - 1) / t.group;
  const int64_t least = 2 * kReduceInFlight * (kReduceThreads / t.group);
  t.parts =
      std::clamp<int64_t>(t.reduced.count / least, 1, std::max<int64_t>(1, kEnoughThreads / kReduceThreads / blocks));
  run<Loader>(column_kernel<Loader>, t, grid_for(blocks * t.parts, 1));
}

bool all_multiples(const DimGroup& group, int64_t of) {
  return std::all_of(group.x, group.x + group.ndim, [of](int64_t stride) { return stride % of == 0; });
}

// Packs along the reduced dimensions or across them, where the layout has them.
template <class T>
bool run_packs(ReduceTask& t, const ReduceDims& dims) {
  constexpr int kCount = Pack<T>::kCount;
  if (!is_aligned16(t.x)) return false;
  if (all_multiples(dims.kept, kCount) && t.reduced.widen(kCount)) {
    run_rows<PackLoader<T>>(t, false);
    return true;
  }
  if (all_multiples(dims.reduced, kCount) && t.kept_packs.widen(kCount)) {
    run_columns<PackLoader<T>>(t);
    return true;
  }
  return false;
}

void run_any(ReduceTask& t, const ReduceDims& dims) {
  const bool neighbours = results_are_neighbours(dims);
  switch (lane_dtype(t.x_dtype)) {
    case DType::k_float32: return run_rows<AnyLoader<Lane<float>>>(t, neighbours);
    case DType::k_float64: return run_rows<AnyLoader<Lane<double>>>(t, neighbours);
    default: return run_rows<AnyLoader<Int>>(t, neighbours);
  }
}

}  // namespace
}  // namespace gpu

void CudaDevice::reduce(ReduceOp op, In x, Out y, double mask) {
  using namespace gpu;
  SG_ASSERT(int(op) >= 0 && op < ReduceOp::kCount);
  if (y.numel() == 0) return;
  check_reduce(op, x.dtype);
  if (x.numel() == 0) return fill(y, reduce_nothing(op));
  const ReduceDims dims(x, y, mask);
  if (op == ReduceOp::k_argmax || op == ReduceOp::k_argmin) return arg_reduce(op, x, y, dims);
  ReduceTask t{op, x.dtype, y.dtype, x.data, y.data, nullptr, kReduceOps[int(op)].identity, 0, 1, 1, {}, {}, {}};
  t.kept = Walk<2>(dims.kept.ndim, dims.kept.shape, {dims.kept.x, dims.kept.other});
  t.kept_packs = Walk<1>(dims.kept.ndim, dims.kept.shape, {dims.kept.x});
  t.reduced = Walk<1>(dims.reduced.ndim, dims.reduced.shape, {dims.reduced.x});
  t.count = double(t.reduced.count);
  bool done = false;
  switch (x.dtype) {
    case DType::k_float32: done = run_packs<float>(t, dims); break;
    case DType::k_bfloat16: done = run_packs<bfloat16>(t, dims); break;
    case DType::k_float16: done = run_packs<float16>(t, dims); break;
    default: break;
  }
  if (!done) run_any(t, dims);
}

}  // namespace sg
