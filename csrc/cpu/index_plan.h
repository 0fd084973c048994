// What every indexing operation is: a walk over the elements of `values` that finds for each its place in a table, some
// of whose dimensions are addressed by index tensors. gather and scatter have one index of the shape of the values;
// indexSelect and indexAdd have one with zero strides, index and indexPut several. Elements that differ only along the
// indexed dimensions may meet in one place, so a writer splits its walk along the other ones and stays in order.
#pragma once
#include <atomic>

#include "../core/thread_pool.h"
#include "rows.h"

namespace sg {

// Throws unless every index is in [-size, size), naming the first that is not.
void check_indices(const char* op, In index, int64_t size);

struct IndexPlan {
  const char* op;
  int ndim;
  int64_t shape[kMaxDims];   // of the walk and of the values
  int64_t values[kMaxDims];  // strides of the values
  int table_dim[kMaxDims];   // the table's dimension that a walked one steps through; -1 where an index does

  struct Index {
    const View* view;
    int table_dim;
    int64_t size;  // of that dimension
    int64_t strides[kMaxDims];
  } indices[kMaxDims];
  int num_indices = 0;

  struct Table {
    int64_t strides[kMaxDims];  // of the walk, 0 where an index steps
    int64_t steps[kMaxDims];    // what one more of index k adds
  } tables[2];                  // the second is the float accumulator of a 16-bit table
  int num_tables = 0;

  // The index addresses dimension `dim` of the table; the other dimensions are those of the values. A plan refers to
  // its indices.
  static IndexPlan along(const char* op, In table, In index, In values, double dim);
  // As a 1-d index that is the same for all other dimensions.
  static IndexPlan select(const char* op, In table, In index, In values, double dim);
  // Indices of one shape I address the dimensions [first, first + count) of the table;
  // values.shape = table.shape[:first] + I + table.shape[first + count:].
  static IndexPlan at(const char* op, In table, Ins indices, In values, double first);

  void check() const;                      // of all indices
  void add_table(const int64_t* strides);  // by table dimension
  int64_t numel() const;
  // The dimension to split the walk along. A writer gets one with table_dim < 0 only if there is no other.
  int split_dim(bool writes) const;

 private:
  IndexPlan(const char* op, int dims);
  void add_index(In index, int dim, int64_t size, const int64_t* strides);
};

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

// Calls f(walk, begin, end) for parts of the plan along plan.split_dim(writes), of at most `most` each. How it is split
// changes no result. Throws at an index that is out of range; writers have had theirs checked.
template <class F>
void parallel_walk(const IndexPlan& plan, bool writes, int64_t most, const F& f) {
  constexpr int64_t kGrain = 8192, kColumns = 64;
  const int64_t total = plan.numel();
  if (total == 0) return;
  const int dim = plan.split_dim(writes);
  const int64_t size = plan.shape[dim], threads = ThreadPool::instance().threads();
  const bool whole = writes && plan.table_dim[dim] < 0;
  int64_t least = std::max(kGrain * size / total, dim == plan.ndim - 1 ? kColumns : 1);
  if (whole || threads == 1) least = size;
  std::atomic<bool> outside = false;
  parallel_for(size, std::min(most, std::max(least, size / (4 * threads))), [&](int64_t begin, int64_t end) {
    IndexWalk walk(plan, dim, begin, end);
    f(walk, begin, end);
    if (walk.outside) outside = true;
  });
  if (!outside) return;
  if (!writes) plan.check();
  fail(ErrorCode::Value, plan.op, ": the output overlaps the indices and has overwritten them");
}

}  // namespace sg
