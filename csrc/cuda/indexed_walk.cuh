// IndexedWalk: an IndexPlan as kernels walk it. Element i of the walk has a place in the values, one in the table that
// the indices complete, and a number. Every index is checked where it is used: what lies outside is a fault, and the
// element is left out.
#pragma once
#include "fault.cuh"
#include "indexed.h"
#include "walk.cuh"

namespace sg::gpu {

// kIndices: as many as there are, or kMaxDims.
template <int kIndices>
struct IndexedWalk {
  static constexpr int kMost = kIndices;
  static constexpr int kValue = 0, kTable = 1, kIndex = 2, kNumber = kIndex + kIndices, kOperands = kNumber + 1;
  Walk<kOperands> walk;
  struct Index {
    const void* data;
    bool wide;           // int64, else int32
    int64_t size, step;  // of the table's dimension
  } indices[kIndices];
  int count;
  bool from_end;
  FaultSink faults;
  int ndim;  // of the index tensors
  int64_t shape[kMaxDims];

  SG_DEVICE int64_t given(int k, int64_t at) const {
    const Index& x = indices[k];
    return x.wide ? static_cast<const int64_t*>(x.data)[at] : static_cast<const int32_t*>(x.data)[at];
  }
  // Adds to the place in the table what the indices say; false if one of them is out of range.
  template <int kWanted>
  SG_DEVICE bool complete(int64_t (&at)[kWanted]) const {
    static_assert(kWanted >= kNumber);
    bool inside = true;
#pragma unroll
    for (int k = 0; k < kIndices; k++) {
      if (k >= count) break;
      int64_t v = given(k, at[kIndex + k]);
      if (v < 0 && from_end) v += indices[k].size;
      if (uint64_t(v) < uint64_t(indices[k].size)) at[kTable] += v * indices[k].step;
      else inside = false;
    }
    return inside;
  }
  // An index of element i is out of range.
  SG_DEVICE void raise(int64_t i) const {
    int64_t at[kOperands];
    walk.locate(i, at);
#pragma unroll
    for (int k = 0; k < kIndices; k++) {
      if (k >= count) break;
      const int64_t v = given(k, at[kIndex + k]), size = indices[k].size;
      if (v < size && v >= (from_end ? -size : 0)) continue;
      if (faults.noun) raise_fault(faults, FaultKind::kEntry, v, at[kNumber], size);
      else raise_fault(faults, FaultKind::kIndex, v, size, at[kNumber], 0, ndim, shape);
    }
  }
};

// What of a plan is walked, and how.
struct IndexedPart {
  unsigned dims = ~0u;  // bit d: dimension d
  Order order = Order::kMemory;
  const int64_t* values;  // strides by walked dimension
  const IndexPlan::Table* table;
  const int64_t* numbers;
};

template <int kIndices>
IndexedWalk<kIndices> indexed_walk(const IndexPlan& plan, const IndexedPart& part, const IndexRule& rule) {
  using W = IndexedWalk<kIndices>;
  const int64_t* given[W::kOperands] = {part.values, part.table->strides};
  for (int k = 0; k < plan.num_indices; k++) given[W::kIndex + k] = plan.indices[k].strides;
  given[W::kNumber] = part.numbers;
  int64_t shape[kMaxDims] = {}, kept[W::kOperands][kMaxDims] = {};
  const int64_t* strides[W::kOperands];
  int dims = 0;
  for (int d = 0; d < plan.ndim; d++) {
    if (!(part.dims >> d & 1)) continue;
    for (int o = 0; o < W::kOperands; o++) kept[o][dims] = given[o] ? given[o][d] : 0;
    shape[dims++] = plan.shape[d];
  }
  for (int o = 0; o < W::kOperands; o++) strides[o] = kept[o];

  W w;
  w.walk = Walk<W::kOperands>(dims, shape, strides, part.order);
  w.count = plan.num_indices;
  for (int k = 0; k < plan.num_indices; k++) {
    const IndexPlan::Index& x = plan.indices[k];
    w.indices[k] = {x.view->data, x.view->dtype == DType::k_int64, x.size, part.table->steps[k]};
  }
  w.from_end = rule.from_end;
  w.faults = {CudaQueue::current().fault_record(), plan.op, rule.noun};
  const View& index = *plan.indices[0].view;  // all have one shape
  w.ndim = index.ndim;
  std::copy(index.shape, index.shape + index.ndim, w.shape);
  return w;
}

// Calls f(std::integral_constant) with the number of indices kernels are compiled for.
template <class F>
void with_indices(const IndexPlan& plan, const F& f) {
  if (plan.num_indices == 1) f(std::integral_constant<int, 1>{});
  else f(std::integral_constant<int, kMaxDims>{});
}

// The dimensions that an index varies along, or steps through: those of positions. Along the others, columns, elements
// have the indices of their neighbours.
inline unsigned position_dims(const IndexPlan& plan) {
  unsigned dims = 0;
  for (int d = 0; d < plan.ndim; d++) {
    bool is_position = plan.table_dim[d] < 0;
    for (int k = 0; k < plan.num_indices; k++) is_position |= plan.indices[k].strides[d] != 0;
    dims |= unsigned(is_position) << d;
  }
  return dims;
}

struct Strides {
  int64_t at[kMaxDims] = {};
};

// Of an element's number in its index tensor, by walked dimension: columns have the number of the first.
inline Strides index_numbers(const IndexPlan& plan) {
  Strides numbers;
  for (int d = 0; d < plan.ndim; d++) {
    if (position_dims(plan) >> d & 1) numbers.at[d] = plan.position[d];
  }
  return numbers;
}

// Of an element's position.
inline Strides position_numbers(const IndexPlan& plan) {
  Strides numbers;
  int64_t stride = 1;
  for (int d = plan.ndim - 1; d >= 0; d--) {
    if (!(position_dims(plan) >> d & 1)) continue;
    numbers.at[d] = stride;
    stride *= plan.shape[d];
  }
  return numbers;
}

}  // namespace sg::gpu
