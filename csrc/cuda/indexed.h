// What indexing operations share on the GPU: reading a table by a plan, writing into it and adding to it.
#pragma once
#include "../core/index_plan.h"
#include "cuda_queue.h"

namespace sg::gpu {

// Whether negative indices count from the end, and how one that is out of range is reported: there are so many `noun`,
// or it is outside of a range.
struct IndexRule {
  bool from_end = true;
  const char* noun = nullptr;
};

// values = table[indices]; where an index is out of range, 0.
void read_by_index(const IndexPlan& plan, const IndexRule& rule, In table, Out values);

// table[indices] = values. Where elements meet, the last one in row-major order is there afterwards. Nothing is written
// if any index is out of range, here and below.
void write_by_index(const IndexPlan& plan, Out table, In values);

// table[indices] += values, in the order of the elements, and of each element's own only.
void add_by_index(const IndexPlan& plan, Out table, In values);

// table = 0, then table[indices] += values, but for those whose only index is `skipped` or out of range.
void sum_by_index(const IndexPlan& plan, const IndexRule& rule, Out table, In values, int64_t skipped);

// ---- index_groups.cu

// The positions of a plan's indices: all elements but for columns (indexed_walk.cuh). Those that address one place are
// a group.
struct IndexGroups {
  int64_t positions = 0;
  const uint32_t* order = nullptr;  // the positions, group by group, ascending in each; null: no two address one place
  const uint32_t* heads = nullptr;  // bit j % 32 of word j / 32: item j of the order is the first of a group
  const int64_t* places = nullptr;  // for the first of a group: where it is in the table
  const uint32_t* used = nullptr;   // items of the order that count; what was left out lies behind
  const uint32_t* refused = nullptr;  // not 0: an index was out of range
};
IndexGroups group_by_place(const IndexPlan& plan, const IndexRule& rule, int64_t skipped, Scratch& scratch);

// For writing: wins[p] tells whether position p is the last of its group; null: all are.
struct IndexWinners {
  const uint8_t* wins = nullptr;
  const uint32_t* refused = nullptr;
};
IndexWinners last_of_groups(const IndexPlan& plan, const IndexRule& rule, Scratch& scratch);

// Raises the fault of an index that is out of range.
void check_by_index(const IndexPlan& plan, const IndexRule& rule);

}  // namespace sg::gpu
