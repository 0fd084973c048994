// What every indexing operation is: a walk over the elements of `values` that finds for each its place in a table, some
// of whose dimensions are addressed by index tensors. gather and scatter have one index of the shape of the values;
// indexSelect and indexAdd have one with zero strides, index and indexPut several. Elements that differ only along the
// indexed dimensions may meet in one place. The walks themselves are the backends' own.
#pragma once
#include "view.h"

namespace sg {

struct IndexPlan {
  const char* op;
  int ndim;
  int64_t shape[kMaxDims];     // of the walk and of the values
  int64_t values[kMaxDims];    // strides of the values
  int64_t position[kMaxDims];  // strides of an element's number in its index tensor
  int table_dim[kMaxDims];     // the table's dimension that a walked one steps through; -1 where an index does

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
  } tables[2];                  // the first is the operation's; a backend may add one of another layout
  int num_tables = 0;

  // The index addresses dimension `dim` of the table; the other dimensions are those of the values. A plan refers to
  // its indices.
  static IndexPlan along(const char* op, In table, In index, In values, double dim);
  // As a 1-d index that is the same for all other dimensions.
  static IndexPlan select(const char* op, In table, In index, In values, double dim);
  // Indices of one shape I address the dimensions [first, first + count) of the table;
  // values.shape = table.shape[:first] + I + table.shape[first + count:].
  static IndexPlan at(const char* op, In table, Ins indices, In values, double first);

  void add_table(const int64_t* strides);  // by table dimension
  int64_t numel() const;

 private:
  IndexPlan(const char* op, int dims);
  void add_index(In index, int dim, int64_t size, const int64_t* strides);
};

}  // namespace sg
