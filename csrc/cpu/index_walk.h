// IndexWalk: the CPU's way over an IndexPlan, in runs along the innermost dimension. Walks check every index they
// resolve, so nothing outside a table is touched even by an output that overlaps its own indices; which index was wrong
// is found afterwards. Operations in place check beforehand as well, to change nothing. A writer splits its walk along
// dimensions that no index steps through, as other elements may meet in one place, and stays in order.
#pragma once
#include <atomic>

#include "../core/index_plan.h"
#include "../core/thread_pool.h"
#include "rows.h"

namespace sg {

// Throws unless every index is in [-size, size), naming the first that is not.
void check_indices(const char* op, In index, int64_t size);
void check_indices(const IndexPlan& plan);  // all of them

// The dimension to split a walk along. A writer gets one that an index steps through only if there is no other.
int split_dim(const IndexPlan& plan, bool writes);
int64_t part_size(const IndexPlan& plan, bool writes);  // how much of it is worth a task

// The runs of a plan with dimension `dim` of the walk restricted to [begin, end), in row-major order.
class IndexWalk {
 public:
  IndexWalk(const IndexPlan& plan, int dim, int64_t begin, int64_t end);
  bool next();           // false after the last run, and at an index that is out of range
  bool outside = false;  // there was one

  struct Place {
    int64_t start, stride;
    const int64_t* added;  // null when all elements of the run share one place of the table's indexed dimensions
    int64_t operator[](int64_t i) const { return start + i * stride + (added ? added[i] : 0); }
  };
  int64_t n;  // elements of the present run
  Place value, table[2];

 private:
  static constexpr int64_t kBlock = 256;
  void resolve(int k, int64_t count, int64_t* to);
  const IndexPlan& plan_;
  Rows rows_;
  int64_t rows_left_, at_ = 0;
  bool varies_ = false;  // an index changes along the row
  int64_t added_[2][kBlock];
};

// Calls f(walk, begin) for parts of the plan: at most `part` of dimension split_dim(plan, writes) each, from `begin`
// on. How it is split changes no result. Throws at an index that is out of range; writers have had theirs checked.
template <class F>
void parallel_walk(const IndexPlan& plan, bool writes, int64_t part, const F& f) {
  if (plan.numel() == 0) return;
  const int dim = split_dim(plan, writes);
  const int64_t size = plan.shape[dim];
  std::atomic<bool> outside = false;
  ThreadPool::instance().run(int((size + part - 1) / part), [&](int task) {
    const int64_t begin = task * part;
    IndexWalk walk(plan, dim, begin, std::min(size, begin + part));
    f(walk, begin);
    if (walk.outside) outside = true;
  });
  if (!outside) return;
  if (!writes) check_indices(plan);
  fail(ErrorCode::Value, plan.op, ": the output overlaps the indices and has overwritten them");
}

}  // namespace sg
