// The checks of indices, how walks are split over threads, and the walk itself.
#include "index_walk.h"

namespace sg {

namespace {

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

void check_indices(const IndexPlan& plan) {
  for (int k = 0; k < plan.num_indices; k++) check_indices(plan.op, *plan.indices[k].view, plan.indices[k].size);
}

int split_dim(const IndexPlan& plan, bool writes) {
  constexpr int64_t kEnough = 16;  // parts: an outer dimension with so many is better than a longer inner one
  int best = -1;
  for (int d = 0; d < plan.ndim; d++) {
    if (writes && plan.table_dim[d] < 0) continue;
    if (best < 0 || (plan.shape[best] < kEnough && plan.shape[d] > plan.shape[best])) best = d;
  }
  return std::max(best, 0);
}

int64_t part_size(const IndexPlan& plan, bool writes) {
  constexpr int64_t kGrain = 8192, kColumns = 64, kTasks = 4;  // elements a task, columns a run, tasks a thread
  const int dim = split_dim(plan, writes), threads = ThreadPool::instance().threads();
  const int64_t size = std::max<int64_t>(1, plan.shape[dim]), slice = std::max<int64_t>(1, plan.numel() / size);
  if (threads == 1 || (writes && plan.table_dim[dim] < 0)) return size;
  const int64_t least = std::max(dim == plan.ndim - 1 ? kColumns : 1, kGrain / slice);
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
