// argmax and argmin. A NaN is better than any number, and of equals the first wins, which the index decides: elements
// may come in another order than it counts.
#include "../ops/reduce.h"

#include "cuda_device.h"
#include "cuda_queue.h"
#include "group.cuh"
#include "reduce_plan.h"

namespace sg {

namespace gpu {
namespace {

template <class L>
struct Candidate {
  L value;
  int64_t index;  // negative: none yet
};
template <class L>
SG_DEVICE Candidate<L> shuffle_xor(Candidate<L> c, int lanes) {
  return {shuffle_xor(c.value, lanes), shuffle_xor(Int(c.index), lanes).v};
}

template <class L>
struct Best {
  bool largest;
  SG_DEVICE Candidate<L> operator()(Candidate<L> a, Candidate<L> b) const {
    if (b.index < 0) return a;
    if (a.index < 0) return b;
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    const bool equal = a.value == b.value || (a_nan && b_nan);
    if (equal) return a.index < b.index ? a : b;
    const bool b_wins = b_nan || (!a_nan && (largest ? b.value > a.value : b.value < a.value));
    return b_wins ? b : a;
  }
};

struct ArgTask {
  bool largest;
  DType x_dtype, y_dtype;
  const void* x;
  void* y;
  void* candidates;  // one a part of each result; null: there is one part
  ReduceGroups groups;
  Walk<2> kept;     // x and y
  Walk<2> reduced;  // x and the index
};

template <class L>
SG_DEVICE void store_index(const ArgTask& t, int64_t result, Candidate<L> best) {
  int64_t at[2];
  t.kept.locate(result, at);
  store_any(t.y, t.y_dtype, at[1], Int(best.index));
}

template <class L>
__global__ void __launch_bounds__(kReduceThreads, 3) arg_kernel(ArgTask t) {
  SG_SHARED(Candidate<L>, of_warps, [kReduceThreads / kWarpSize]);
  const Best<L> best{t.largest};
  const int group = t.groups.group, groups = kReduceThreads / group, lane = threadIdx.x % group;
  const int64_t parts = t.groups.parts, tasks = t.kept.count * parts;
  for (int64_t first = int64_t(blockIdx.x) * groups; first < tasks; first += int64_t(gridDim.x) * groups) {
    const int64_t task = first + threadIdx.x / group, result = task / parts, part = task - result * parts;
    Candidate<L> found{L(0), -1};
    if (task < tasks) {
      int64_t base[2];
      t.kept.locate(result, base);
      const int64_t end = t.reduced.count * (part + 1) / parts;
      for (int64_t i = t.reduced.count * part / parts + lane; i < end; i += group * kReduceInFlight) {
        Candidate<L> x[kReduceInFlight];
#pragma unroll
        for (int j = 0; j < kReduceInFlight; j++) {
          x[j] = {L(0), -1};
          if (i + j * group >= end) continue;
          int64_t at[2];
          t.reduced.locate(i + j * group, at);
          x[j] = {load_any<L>(t.x, t.x_dtype, base[0] + at[0]), at[1]};
        }
#pragma unroll
        for (int j = 0; j < kReduceInFlight; j++) found = best(found, x[j]);
      }
    }
    found = fold_group(found, group, &of_warps[0], best);
    if (lane != 0 || task >= tasks) continue;
    if (t.candidates) static_cast<Candidate<L>*>(t.candidates)[task] = found;
    else store_index(t, result, found);
  }
}

template <class L>
__global__ void __launch_bounds__(kReduceThreads) join_candidates_kernel(ArgTask t) {
  constexpr int kWarps = kReduceThreads / kWarpSize;
  const Best<L> best{t.largest};
  const int lane = threadIdx.x % kWarpSize;
  for (int64_t result = int64_t(blockIdx.x) * kWarps + threadIdx.x / kWarpSize; result < t.kept.count;
       result += int64_t(gridDim.x) * kWarps) {
    const Candidate<L>* const parts = static_cast<const Candidate<L>*>(t.candidates) + result * t.groups.parts;
    Candidate<L> found{L(0), -1};
    for (int64_t part = lane; part < t.groups.parts; part += kWarpSize) found = best(found, parts[part]);
    found = fold_group(found, kWarpSize, static_cast<Candidate<L>*>(nullptr), best);
    if (lane == 0) store_index(t, result, found);
  }
}

template <class L>
void run(ArgTask& t) {
  const cudaStream_t stream = CudaQueue::current().stream();
  const int64_t results = t.kept.count, parts = t.groups.parts;
  Scratch scratch;
  if (parts > 1) t.candidates = scratch.take<Candidate<L>>(size_t(results * parts));
  launch(arg_kernel<L>, t.groups.grid(results), kReduceThreads, 0, stream, t);
  if (parts == 1) return;
  launch(join_candidates_kernel<L>, grid_for(results, kReduceThreads / kWarpSize), kReduceThreads, 0, stream, t);
}

}  // namespace

void arg_reduce(ReduceOp op, const View& x, const View& y, const ReduceDims& dims) {
  const DimGroup &kept = dims.kept, &reduced = dims.reduced;
  const ReduceGroups groups(kept.count(), reduced.count(), results_are_neighbours(dims));
  ArgTask t{op == ReduceOp::k_argmax, x.dtype, y.dtype, x.data, y.data, nullptr, groups, {}, {}};
  t.kept = Walk<2>(kept.ndim, kept.shape, {kept.x, kept.other});
  t.reduced = Walk<2>(reduced.ndim, reduced.shape, {reduced.x, reduced.other});
  switch (lane_dtype(x.dtype)) {
    case DType::k_float32: return run<Lane<float>>(t);
    case DType::k_float64: return run<Lane<double>>(t);
    default: return run<Int>(t);
  }
}

}  // namespace gpu

}  // namespace sg
