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
  int64_t part_size(bool writes) const;  // how much of it is worth a task

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

// Calls f(walk, begin) for parts of the plan: at most `part` of dimension plan.split_dim(writes) each, from `begin` on.
// How it is split changes no result. Throws at an index that is out of range; writers have had theirs checked.
template <class F>
void parallel_walk(const IndexPlan& plan, bool writes, int64_t part, const F& f) {
  if (plan.numel() == 0) return;
  const int dim = plan.split_dim(writes);
  const int64_t size = plan.shape[dim];
  std::atomic<bool> outside = false;
  ThreadPool::instance().run(int((size + part - 1) / part), [&](int task) {
    const int64_t begin = task * part;
    IndexWalk walk(plan, dim, begin, std::min(size, begin + part));
    f(walk, begin);
    if (walk.outside) outside = true;
  });
  if (!outside) return;
  if (!writes) plan.check();
  fail(ErrorCode::Value, plan.op, ": the output overlaps the indices and has overwritten them");
}

}  // namespace sg
