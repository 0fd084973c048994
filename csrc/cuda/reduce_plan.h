// How a reduction is shared out: groups of threads fold one result each, long results are cut into parts that a second
// kernel joins. All of it follows from the shape alone, so that every GPU gives the same bits.
#pragma once
#include <algorithm>

#include "../core/reduce_dims.h"
#include "../ops/reduce.h"
#include "walk.cuh"

namespace sg::gpu {

inline constexpr int kReduceThreads = 256;
// Loads that a thread has under way at once.
inline constexpr int kReduceInFlight = 4;
// Beyond this many threads more parts help no more.
inline constexpr int64_t kEnoughThreads = int64_t(1024) * kReduceThreads;

// The results, as the walk over what is kept of x and of y counts them, with `steps` elements or packs of x each.
struct ReduceGroups {
  int group;
  int64_t parts;

  // `neighbours`: the results, not their elements, lie side by side in x, so that each is a thread's own.
  ReduceGroups(int64_t results, int64_t steps, bool neighbours) : group(1) {
    if (!neighbours) {
      while (group < kWarpSize && group * kReduceInFlight < steps) group *= 2;
      const bool few = results < 1024;
      if (steps >= (few ? kReduceThreads : 8 * kReduceThreads)) group = kReduceThreads;
    }
    const int64_t least = group * (group == 1 ? 32 : 2 * kReduceInFlight);
    parts = std::clamp<int64_t>(steps / least, 1, std::max<int64_t>(1, kEnoughThreads / (results * group)));
  }
  dim3 grid(int64_t results) const { return grid_for(results * parts, kReduceThreads / group); }
};

// Whether the results of a strided reduction are nearer to each other in x than the elements of each.
inline bool results_are_neighbours(const ReduceDims& dims) {
  const auto nearest = [](const DimGroup& group) {
    int64_t stride = INT64_MAX;
    for (int d = 0; d < group.ndim; d++) stride = std::min(stride, std::abs(group.x[d]));
    return stride;
  };
  return dims.kept.count() >= kWarpSize && nearest(dims.kept) < nearest(dims.reduced);
}

// argmax and argmin.
void arg_reduce(ReduceOp op, const View& x, const View& y, const ReduceDims& dims);

}  // namespace sg::gpu
