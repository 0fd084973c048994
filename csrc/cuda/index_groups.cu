// Positions of an index grouped by the place they address. A place has a compact number, its slot; the positions are
// sorted by slot, which keeps the order within a group, so that whoever adds or writes by group does it in the order of
// the elements: deterministic, with no atomics on values.
#include <bit>

#include "cuda_error.h"
#include "indexed.h"
#include "indexed_walk.cuh"
#include "prefix.cuh"
#include "radix_sort.h"

namespace sg::gpu {

namespace {

constexpr int kThreads = 256;

// The dimensions of the table that positions differ in, without gaps: a slot is a number in them.
struct Slots {
  int64_t count = 1;
  IndexPlan::Table table{};  // strides and steps of slots
  Walk<1> places;            // from slots into the table
};

Slots slots_of(const IndexPlan& plan) {
  Slots slots;
  const IndexPlan::Table& table = plan.tables[0];
  int64_t shape[kMaxDims], strides[kMaxDims], *slot_strides[kMaxDims];
  int dims = 0;
  const auto add = [&](int64_t size, int64_t stride, int64_t* slot_stride) {
    shape[dims] = size;
    strides[dims] = stride;
    slot_strides[dims++] = slot_stride;
  };
  for (int d = 0; d < plan.ndim; d++) {
    if (plan.table_dim[d] < 0 || !(position_dims(plan) >> d & 1)) continue;
    add(plan.shape[d], table.strides[d], &slots.table.strides[d]);
  }
  for (int k = 0; k < plan.num_indices; k++) add(plan.indices[k].size, table.steps[k], &slots.table.steps[k]);
  for (int d = dims - 1; d >= 0; d--) {
    *slot_strides[d] = slots.count;
    slots.count *= shape[d];
  }
  slots.places = Walk<1>(dims, shape, {strides}, Order::kLogical);
  return slots;
}

// Of two positions one may be the same place as the other only if an index steps along more than one element.
bool all_distinct(const IndexPlan& plan) {
  int64_t along = 1;
  for (int d = 0; d < plan.ndim; d++) along *= plan.table_dim[d] < 0 ? plan.shape[d] : 1;
  return along <= 1;
}

// The slot of each position; `none` of one that is skipped or has an index out of range. Without keys only the indices
// are checked.
template <class Key, int kIndices>
__global__ void __launch_bounds__(kThreads) resolve_kernel(IndexedWalk<kIndices> indexed, int64_t skipped, Key none,
                                                           Key* keys, uint32_t* refused, uint32_t* used) {
  using W = IndexedWalk<kIndices>;
  const int64_t step = int64_t(gridDim.x) * kThreads, count = indexed.walk.count;
  if (used && blockIdx.x == 0 && threadIdx.x == 0) *used = uint32_t(count);  // until mark_kernel finds fewer
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    int64_t at[W::kNumber];
    indexed.walk.locate(i, at);
    const bool inside = indexed.complete(at);
    if (keys) keys[i] = inside && at[W::kTable] != skipped ? Key(at[W::kTable]) : none;
    if (inside) continue;
    indexed.raise(i);
    atomicExch(refused, 1u);
  }
}

// Finds the groups of sorted keys. A warp has one word of `heads`.
template <class Key>
__global__ void __launch_bounds__(kThreads) mark_kernel(const Key* keys, int64_t count, Key none, Walk<1> places_of,
                                                        uint32_t* heads, int64_t* places, uint32_t* used) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t first = int64_t(blockIdx.x) * kThreads + warp_id() * kWarpSize; first < count; first += step) {
    const int64_t j = first + lane_id();
    const bool head = j < count && (j == 0 || keys[j] != keys[j - 1]);
    const unsigned word = __ballot_sync(kFullWarp, head);
    if (lane_id() == 0) heads[first / kWarpSize] = word;
    if (!head) continue;
    if (keys[j] == none) {
      *used = uint32_t(j);
    } else {
      int64_t at[1];
      places_of.locate(int64_t(keys[j]), at);
      places[j] = at[0];
    }
  }
}

template <class Key>
__global__ void __launch_bounds__(kThreads)
    last_kernel(const Key* keys, const uint32_t* order, int64_t count, uint8_t* wins) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t j = int64_t(blockIdx.x) * kThreads + threadIdx.x; j < count; j += step) {
    wins[order[j]] = j + 1 == count || keys[j + 1] != keys[j];
  }
}

// The positions of a plan with the slots they address.
class Positions {
 public:
  Positions(const IndexPlan& plan, const IndexRule& rule, Scratch& scratch)
      : plan_(plan), rule_(rule), slots_(slots_of(plan)), stream_(CudaQueue::current().stream()) {
    for (int d = 0; d < plan.ndim; d++) count_ *= position_dims(plan) >> d & 1 ? plan.shape[d] : 1;
    if (count_ > int64_t(UINT32_MAX)) {
      fail(ErrorCode::Shape, plan.op, ": ", count_, " places by index are more than ", UINT32_MAX);
    }
    refused_ = scratch.take<uint32_t>(1);
    check(cudaMemsetAsync(refused_, 0, sizeof(uint32_t), stream_), plan.op);
  }
  int64_t count() const { return count_; }
  const uint32_t* refused() const { return refused_; }
  const Slots& slots() const { return slots_; }
  cudaStream_t stream() const { return stream_; }

  template <class Key>
  void resolve(int64_t skipped, Key* keys, uint32_t* used) const {
    with_indices(plan_, [&](auto indices) {
      constexpr int kIndices = decltype(indices)::value;
      const auto indexed = indexed_walk<kIndices>(
          plan_, {position_dims(plan_), Order::kLogical, nullptr, &slots_.table, index_numbers(plan_).at}, rule_);
      launch(resolve_kernel<Key, kIndices>, grid_for(count_, kThreads), kThreads, 0, stream_, indexed, skipped,
             Key(slots_.count), keys, refused_, used);
    });
  }
  // Calls f(Key{}) with the type that holds the slots and one more.
  template <class F>
  void with_key(const F& f) const {
    if (slots_.count < int64_t(UINT32_MAX)) f(uint32_t{});
    else f(uint64_t{});
  }
  int key_bits() const { return std::bit_width(uint64_t(slots_.count)); }

 private:
  const IndexPlan& plan_;
  const IndexRule& rule_;
  const Slots slots_;
  const cudaStream_t stream_;
  int64_t count_ = 1;
  uint32_t* refused_ = nullptr;
};

}  // namespace

void check_by_index(const IndexPlan& plan, const IndexRule& rule) {
  Scratch scratch;
  const Positions positions(plan, rule, scratch);
  if (positions.count() > 0) positions.resolve<uint32_t>(-1, nullptr, nullptr);
}

IndexGroups group_by_place(const IndexPlan& plan, const IndexRule& rule, int64_t skipped, Scratch& scratch) {
  const Positions positions(plan, rule, scratch);
  const int64_t count = positions.count();
  IndexGroups groups{count};
  groups.refused = positions.refused();
  if (count == 0) return groups;
  uint32_t* const heads = scratch.take<uint32_t>(size_t((count + kWarpSize - 1) / kWarpSize));
  int64_t* const places = scratch.take<int64_t>(size_t(count));
  uint32_t* const used = scratch.take<uint32_t>(1);
  groups.heads = heads;
  groups.places = places;
  groups.used = used;
  positions.with_key([&](auto zero) {
    using Key = decltype(zero);
    RadixSort<Key> sorter(scratch, 1, count);
    positions.resolve(skipped, sorter.keys(), used);
    Ordered<Key> ordered{sorter.keys(), nullptr};
    if (!all_distinct(plan)) ordered = sorter.sort(1, positions.key_bits(), positions.stream());
    groups.order = ordered.positions;
    launch(mark_kernel<Key>, grid_for(count, kThreads), kThreads, 0, positions.stream(), ordered.keys, count,
           Key(positions.slots().count), positions.slots().places, heads, places, used);
  });
  return groups;
}

IndexWinners last_of_groups(const IndexPlan& plan, const IndexRule& rule, Scratch& scratch) {
  const Positions positions(plan, rule, scratch);
  const int64_t count = positions.count();
  IndexWinners winners{nullptr, positions.refused()};
  if (count == 0) return winners;
  if (all_distinct(plan)) {
    positions.resolve<uint32_t>(-1, nullptr, nullptr);
    return winners;
  }
  uint8_t* const wins = scratch.take<uint8_t>(size_t(count));
  winners.wins = wins;
  positions.with_key([&](auto zero) {
    using Key = decltype(zero);
    RadixSort<Key> sorter(scratch, 1, count);
    positions.resolve(-1, sorter.keys(), nullptr);
    const auto ordered = sorter.sort(1, positions.key_bits(), positions.stream());
    launch(last_kernel<Key>, grid_for(count, kThreads), kThreads, 0, positions.stream(), ordered.keys,
           ordered.positions, count, wins);
  });
  return winners;
}

}  // namespace sg::gpu
