// Walks check every index they resolve, so nothing outside a table is touched even by an output that overlaps its own
// indices; which index was wrong is found afterwards. Operations in place check beforehand as well, to change nothing.
#include "index_plan.h"

namespace sg {

namespace {

// Strides of `v` as dimensions [at, at + v.ndim) of a walk of `ndim` dimensions, 0 in the others.
void place_strides(In v, int at, int ndim, int64_t* to) {
  std::fill(to, to + ndim, 0);
  std::copy(v.strides, v.strides + v.ndim, to + at);
}

template <class I>
int64_t first_outside(const I* index, int64_t stride, int64_t n, int64_t size) {
  const uint64_t range = 2 * uint64_t(size);
  for (int64_t i = 0; i < n; i++) {
    if (uint64_t(index[i * stride]) + uint64_t(size) >= range) return i;
  }
  return n;
}

[[noreturn]] void fail_outside(const char* op, In index, int64_t value, int64_t size, int64_t position) {
  std::string where;
  for (int d = index.ndim - 1; d >= 0; d--) {
    where.insert(0, std::to_string(position % index.shape[d]) + (d < index.ndim - 1 ? ", " : ""));
    position /= index.shape[d];
  }
  if (index.ndim > 1) where = "[" + where + "]";
  fail(ErrorCode::Value, op, ": index ", value, " is out of range [", -size, ", ", size, ")",
       index.ndim > 0 ? " at position " : "", where);
}

template <class I>
void check_typed(const char* op, In index, int64_t size) {
  constexpr int64_t kGrain = 1 << 16;
  Rows rows(index);
  rows.merge();
  const int64_t length = rows.length(), stride = rows.stride(0);
  const auto check = [&](int64_t offset, int64_t position, int64_t n) {
    const I* const p = index.ptr<const I>() + offset;
    const int64_t i = first_outside(p, stride, n, size);
    if (i < n) fail_outside(op, index, int64_t(p[i * stride]), size, position + i);
  };
  if (rows.count() == 1) {
    parallel_for(length, kGrain,
                 [&](int64_t begin, int64_t end) { check(rows[0] + begin * stride, begin, end - begin); });
    return;
  }
  parallel_for(rows.count(), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, length)),
               [&](int64_t begin, int64_t end) {
                 Rows mine = rows;
                 mine.seek(begin);
                 for (int64_t row = begin; row < end; row++, mine.next()) check(mine[0], row * length, length);
               });
}

}  // namespace

void check_indices(const char* op, In index, int64_t size) {
  dispatch_index(op, index.dtype, [&](auto tag) { check_typed<typename decltype(tag)::type>(op, index, size); });
}

IndexPlan::IndexPlan(const char* op_name, int dims) : op(op_name), ndim(std::max(1, dims)) {
  // One element of a tensor without dimensions; overwritten where there are dimensions.
  shape[0] = 1;
  values[0] = 0;
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
  plan.add_table(table.strides);
  return plan;
}

void IndexPlan::check() const {
  for (int k = 0; k < num_indices; k++) check_indices(op, *indices[k].view, indices[k].size);
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

int IndexPlan::split_dim(bool writes) const {
  constexpr int64_t kEnough = 16;  // parts: an outer dimension with so many is better than a longer inner one
  int best = -1;
  for (int d = 0; d < ndim; d++) {
    if (writes && table_dim[d] < 0) continue;
    if (best < 0 || (shape[best] < kEnough && shape[d] > shape[best])) best = d;
  }
  return std::max(best, 0);
}

int64_t IndexPlan::part_size(bool writes) const {
  constexpr int64_t kGrain = 8192, kColumns = 64, kTasks = 4;  // elements a task, columns a run, tasks a thread
  const int dim = split_dim(writes), threads = ThreadPool::instance().threads();
  const int64_t size = std::max<int64_t>(1, shape[dim]), slice = std::max<int64_t>(1, numel() / size);
  if (threads == 1 || (writes && table_dim[dim] < 0)) return size;
  const int64_t least = std::max(dim == ndim - 1 ? kColumns : 1, kGrain / slice);
  return std::min(size, std::max(least, size / (kTasks * threads)));
}

IndexWalk::IndexWalk(const IndexPlan& plan, int dim, int64_t begin, int64_t end)
    : plan_(plan), rows_(plan.ndim, plan.shape) {
  rows_.add(plan.values);
  for (int t = 0; t < plan.num_tables; t++) rows_.add(plan.tables[t].strides);
  for (int k = 0; k < plan.num_indices; k++) rows_.add(plan.indices[k].strides);
  rows_.narrow(dim, begin, end);
  rows_.merge();
  rows_left_ = rows_.length() > 0 ? rows_.count() : 0;
  value = {0, rows_.stride(0), nullptr};
  for (int t = 0; t < plan.num_tables; t++) table[t].stride = rows_.stride(1 + t);
  for (int k = 0; k < plan.num_indices; k++) varies_ |= rows_.stride(1 + plan.num_tables + k) != 0;
  varies_ &= rows_.length() > 1;
}

// The values of index k for the next `count` elements, as non-negative numbers.
void IndexWalk::resolve(int k, int64_t count, int64_t* to) {
  const IndexPlan::Index& x = plan_.indices[k];
  const int operand = 1 + plan_.num_tables + k;
  const int64_t stride = rows_.stride(operand), start = rows_[operand] + at_ * stride, size = x.size;
  bool bad = false;
  const auto put = [&](int64_t i, int64_t v) {
    v += size & (v >> 63);
    bad |= uint64_t(v) >= uint64_t(size);
    to[i] = v;
  };
  dispatch_index(plan_.op, x.view->dtype, [&](auto tag) {
    const auto* const p = x.view->ptr<const typename decltype(tag)::type>() + start;
    if (stride == 1)
      for (int64_t i = 0; i < count; i++) put(i, p[i]);
    else
      for (int64_t i = 0; i < count; i++) put(i, p[i * stride]);
  });
  outside |= bad;
}

bool IndexWalk::next() {
  if (rows_left_ == 0) return false;
  n = varies_ ? std::min(kBlock, rows_.length() - at_) : rows_.length();
  value.start = rows_[0] + at_ * value.stride;
  for (int t = 0; t < plan_.num_tables; t++) {
    table[t].start = rows_[1 + t] + at_ * table[t].stride;
    table[t].added = varies_ ? added_[t] : nullptr;
  }
  int64_t index[kBlock];
  for (int k = 0; k < plan_.num_indices; k++) {
    resolve(k, varies_ ? n : 1, index);
    if (outside) return false;
    for (int t = 0; t < plan_.num_tables; t++) {
      const int64_t step = plan_.tables[t].steps[k];
      if (!varies_) table[t].start += index[0] * step;
      else if (k == 0)
        for (int64_t i = 0; i < n; i++) added_[t][i] = index[i] * step;
      else
        for (int64_t i = 0; i < n; i++) added_[t][i] += index[i] * step;
    }
  }
  at_ += n;
  if (at_ == rows_.length()) {
    at_ = 0;
    rows_left_--;
    if (rows_left_ > 0) rows_.next();
  }
  return true;
}

}  // namespace sg
