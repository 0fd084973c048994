// How the three families of indexing operations become one plan.
#include "index_plan.h"

#include <algorithm>

namespace sg {

namespace {

// Strides of `v` as dimensions [at, at + v.ndim) of a walk of `ndim` dimensions, 0 in the others.
void place_strides(In v, int at, int ndim, int64_t* to) {
  std::fill(to, to + ndim, 0);
  std::copy(v.strides, v.strides + v.ndim, to + at);
}

// Likewise the strides that a contiguous tensor of v's shape would have.
void place_positions(In v, int at, int ndim, int64_t* to) {
  std::fill(to, to + ndim, 0);
  int64_t stride = 1;
  for (int d = v.ndim - 1; d >= 0; d--) {
    to[at + d] = stride;
    stride *= v.shape[d];
  }
}

}  // namespace

IndexPlan::IndexPlan(const char* op_name, int dims) : op(op_name), ndim(std::max(1, dims)) {
  // One element of a tensor without dimensions; overwritten where there are dimensions.
  shape[0] = 1;
  values[0] = position[0] = 0;
  table_dim[0] = -1;
}

IndexPlan IndexPlan::along(const char* op, In table, In index, In values, double dim) {
  SG_ASSERT(table.ndim == values.ndim && index.ndim == values.ndim && table.dtype == values.dtype);
  IndexPlan plan(op, index.ndim);
  SG_ASSERT(dim >= 0 && dim < plan.ndim);
  const int indexed = int(dim);
  for (int d = 0; d < index.ndim; d++) {
    SG_ASSERT(values.shape[d] >= index.shape[d] && (d == indexed || table.shape[d] >= index.shape[d]));
    plan.shape[d] = index.shape[d];
    plan.values[d] = values.strides[d];
    plan.table_dim[d] = d == indexed ? -1 : d;
  }
  int64_t strides[kMaxDims];
  place_strides(index, 0, plan.ndim, strides);
  place_positions(index, 0, plan.ndim, plan.position);
  plan.add_index(index, indexed, table.ndim > 0 ? table.shape[indexed] : 1, strides);
  plan.add_table(table.strides);
  return plan;
}

IndexPlan IndexPlan::select(const char* op, In table, In index, In values, double dim) {
  View wide = index;
  wide.ndim = values.ndim;
  SG_ASSERT(index.ndim <= 1 && (values.ndim == 0 ? index.numel() == 1 : dim >= 0 && dim < values.ndim));
  for (int d = 0; d < values.ndim; d++) {
    wide.shape[d] = values.shape[d];
    wide.strides[d] = 0;
  }
  if (values.ndim > 0) {
    SG_ASSERT(values.shape[int(dim)] == index.numel());
    wide.strides[int(dim)] = index.ndim > 0 ? index.strides[0] : 0;
  }
  IndexPlan plan = along(op, table, wide, values, dim);
  plan.indices[0].view = &index;
  place_positions(index, int(dim), plan.ndim, plan.position);
  return plan;
}

IndexPlan IndexPlan::at(const char* op, In table, Ins indices, In values, double first_dim) {
  SG_ASSERT(indices.count > 0 && first_dim >= 0 && first_dim + indices.count <= table.ndim);
  const int first = int(first_dim), count = indices.count, index_dims = indices[0].ndim;
  SG_ASSERT(values.ndim == table.ndim - count + index_dims && table.dtype == values.dtype);
  IndexPlan plan(op, values.ndim);
  for (int d = 0; d < values.ndim; d++) {
    plan.shape[d] = values.shape[d];
    plan.values[d] = values.strides[d];
    plan.table_dim[d] = d < first ? d : d < first + index_dims ? -1 : d - index_dims + count;
    SG_ASSERT(plan.table_dim[d] < 0 || values.shape[d] == table.shape[plan.table_dim[d]]);
  }
  for (int k = 0; k < count; k++) {
    SG_ASSERT(indices[k].ndim == index_dims);
    for (int d = 0; d < index_dims; d++) SG_ASSERT(indices[k].shape[d] == values.shape[first + d]);
    int64_t strides[kMaxDims];
    place_strides(indices[k], first, plan.ndim, strides);
    plan.add_index(indices[k], first + k, table.shape[first + k], strides);
  }
  place_positions(indices[0], first, plan.ndim, plan.position);
  plan.add_table(table.strides);
  return plan;
}

void IndexPlan::add_index(In index, int dim, int64_t size, const int64_t* strides) {
  Index& x = indices[num_indices++];
  x.view = &index;
  x.table_dim = dim;
  x.size = size;
  std::copy(strides, strides + ndim, x.strides);
}

void IndexPlan::add_table(const int64_t* strides) {
  Table& t = tables[num_tables++];
  for (int d = 0; d < ndim; d++) t.strides[d] = table_dim[d] < 0 ? 0 : strides[table_dim[d]];
  for (int k = 0; k < num_indices; k++) t.steps[k] = strides[indices[k].table_dim];
}

int64_t IndexPlan::numel() const {
  int64_t n = 1;
  for (int d = 0; d < ndim; d++) n *= shape[d];
  return n;
}

}  // namespace sg
