// Reading and writing a table through index tensors. Bytes move by element size, so every dtype is served by four
// instances. Where indices repeat, elements meet in row-major order on one thread: the last write wins, sums are taken
// in that order. A 16-bit table is summed in float and rounded once, by passing over the indices three times.
#include <cstring>

#include "cpu_device.h"
#include "index_walk.h"

namespace sg {

namespace {

template <class T>
void move_run(int64_t n, const T* from, const IndexWalk::Place& at, T* to, const IndexWalk::Place& place) {
  from += at.start;
  to += place.start;
  if (!at.added && !place.added) {
    if (at.stride == 1 && place.stride == 1) std::memcpy(to, from, size_t(n) * sizeof(T));
    else
      for (int64_t i = 0; i < n; i++) to[i * place.stride] = from[i * at.stride];
  } else if (at.added) {
    for (int64_t i = 0; i < n; i++) to[i * place.stride] = from[i * at.stride + at.added[i]];
  } else {
    for (int64_t i = 0; i < n; i++) to[i * place.stride + place.added[i]] = from[i * at.stride];
  }
}

// f(table element, value's offset) for the elements of a run
template <class T, class F>
void each_element(const IndexWalk& run, T* table, const F& f) {
  const IndexWalk::Place &to = run.table[0], &value = run.value;
  table += to.start;
  if (to.added) {
    for (int64_t i = 0; i < run.n; i++) f(table[i * to.stride + to.added[i]], value.start + i * value.stride);
  } else if (to.stride == 1 && value.stride == 1) {
    for (int64_t i = 0; i < run.n; i++) f(table[i], value.start + i);
  } else {
    for (int64_t i = 0; i < run.n; i++) f(table[i * to.stride], value.start + i * value.stride);
  }
}

void read_table(const IndexPlan& plan, In table, Out values) {
  dispatch_bytes(table.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_walk(plan, false, part_size(plan, false), [&](IndexWalk& walk, int64_t) {
      while (walk.next()) move_run(walk.n, table.ptr<const T>(), walk.table[0], values.ptr<T>(), walk.value);
    });
  });
}

void write_table(const IndexPlan& plan, Out table, In values) {
  check_indices(plan);
  dispatch_bytes(table.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_walk(plan, true, part_size(plan, true), [&](IndexWalk& walk, int64_t) {
      while (walk.next()) move_run(walk.n, values.ptr<const T>(), walk.value, table.ptr<T>(), walk.table[0]);
    });
  });
}

// In the table's own type; integers wrap around.
template <class T>
void add_exact(const IndexPlan& plan, T* table, const T* values) {
  parallel_walk(plan, true, part_size(plan, true), [&](IndexWalk& walk, int64_t) {
    while (walk.next()) each_element(walk, table, [=](T& t, int64_t value) { t += values[value]; });
  });
}

template <class T>
void add_rounded_once(IndexPlan plan, const View& view, const T* values) {
  // The accumulator is a part of the table in float, narrowed along the split dimension as the part of the walk is.
  // Only the elements that the indices name are ever filled.
  constexpr int64_t kElements = 1 << 20, kColumns = 64;
  const int narrow = plan.table_dim[split_dim(plan, true)];
  int64_t part = part_size(plan, true);
  if (narrow >= 0) {
    const int64_t others = view.numel() / std::max<int64_t>(1, view.shape[narrow]);
    part = std::min(part, std::max(kColumns, kElements / std::max<int64_t>(1, others)));
  }
  int64_t strides[kMaxDims] = {}, size = 1;
  for (int d = view.ndim - 1; d >= 0; d--) {
    strides[d] = size;
    size *= d == narrow ? part : view.shape[d];
  }
  plan.add_table(strides);  // tables[1]: the accumulator

  T* const table = view.ptr<T>();
  parallel_walk(plan, true, part, [&](IndexWalk& walk, int64_t begin) {
    const int64_t skipped = narrow < 0 ? 0 : begin * strides[narrow];
    float* const sums = scratch<float>(Scratch::kLocalA, size_t(size));
    const auto each = [&](const auto& f) {
      IndexWalk again = walk;
      while (again.next()) {
        const IndexWalk::Place &place = again.table[0], &sum = again.table[1], &value = again.value;
        if (!place.added && place.stride == 1 && sum.stride == 1 && value.stride == 1) {
          T* const t = table + place.start;
          float* const to = sums + sum.start - skipped;
          for (int64_t i = 0; i < again.n; i++) f(t[i], to[i], value.start + i);
        } else {
          for (int64_t i = 0; i < again.n; i++) f(table[place[i]], sums[sum[i] - skipped], value[i]);
        }
      }
      walk.outside |= again.outside;
    };
    each([](const T& t, float& sum, int64_t) { sum = float(t); });
    each([&](const T&, float& sum, int64_t value) { sum += float(values[value]); });
    each([](T& t, const float& sum, int64_t) { t = T(sum); });
  });
}

void add_table(const IndexPlan& plan, Out table, In values) {
  check_indices(plan);
  dispatch_all(table.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>) {
      add_rounded_once(plan, table, values.ptr<const T>());
    } else if constexpr (std::is_floating_point_v<T>) {
      add_exact(plan, table.ptr<T>(), values.ptr<const T>());
    } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      using U = std::make_unsigned_t<T>;
      add_exact(plan, table.ptr<U>(), values.ptr<const U>());
    } else {
      fail(ErrorCode::DType, plan.op, ": cannot add in ", dtype_name(table.dtype));
    }
  });
}

}  // namespace

void CpuDevice::gather(In x, In index, Out y, double dim) {
  read_table(IndexPlan::along("gather", x, index, y, dim), x, y);
}

void CpuDevice::scatter(Out y, In index, In src, double dim) {
  write_table(IndexPlan::along("scatter", y, index, src, dim), y, src);
}

void CpuDevice::scatterAdd(Out y, In index, In src, double dim) {
  add_table(IndexPlan::along("scatterAdd", y, index, src, dim), y, src);
}

void CpuDevice::indexSelect(In x, In index, Out y, double dim) {
  read_table(IndexPlan::select("indexSelect", x, index, y, dim), x, y);
}

void CpuDevice::indexAdd(Out y, In index, In src, double dim) {
  add_table(IndexPlan::select("indexAdd", y, index, src, dim), y, src);
}

void CpuDevice::index(In x, Out y, double first, Ins indices) {
  read_table(IndexPlan::at("index", x, indices, y, first), x, y);
}

void CpuDevice::indexPut(Out y, In values, double first, double accumulate, Ins indices) {
  const IndexPlan plan = IndexPlan::at("indexPut", y, indices, values, first);
  if (accumulate != 0) add_table(plan, y, values);
  else write_table(plan, y, values);
}

// Row-major order at any thread count: the parts are counted, and each then starts where the ones before it end.
void CpuDevice::nonzero(In x, Out indices) {
  SG_ASSERT(indices.ndim == 2 && indices.shape[1] == x.ndim && indices.dtype == DType::k_int64);
  const int64_t total = x.numel();
  constexpr int64_t kParts = 64, kGrain = 32768, kBlock = 256;
  const int64_t parts = std::clamp<int64_t>(total / kGrain, 1, kParts), step = (total + parts - 1) / parts;
  int64_t found[kParts + 1] = {};
  Rows rows(x);
  rows.merge();
  // Calls f(positions, count) for blocks of the elements of a part that are not zero.
  const auto each = [&](int64_t part, const auto& f) {
    dispatch_bytes(x.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T sign = T(T(1) << (8 * sizeof(T) - 1)), mask = is_floating(x.dtype) ? T(~sign) : T(~T(0));
      const int64_t length = rows.length(), stride = rows.stride(0), end = std::min(total, (part + 1) * step);
      int64_t at = part * step, positions[kBlock];
      if (at >= end) return;
      Rows mine = rows;
      for (mine.seek(at / length); at < end; mine.next()) {
        const int64_t start = at - at % length, last = std::min(end, start + length);
        while (at < last) {
          const T* const p = x.ptr<const T>() + mine[0] + (at - start) * stride;
          const int64_t n = std::min(kBlock, last - at);
          int64_t count = 0;
          for (int64_t i = 0; i < n; i++) {
            positions[count] = at + i;  // kept if the next one does not overwrite it
            count += (p[i * stride] & mask) != 0;
          }
          f(positions, count);
          at += n;
        }
      }
    });
  };
  const auto each_part = [&](const auto& f) {
    parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++) f(p);
    });
  };
  each_part([&](int64_t p) { each(p, [&](const int64_t*, int64_t count) { found[p + 1] += count; }); });
  for (int64_t p = 0; p < parts; p++) found[p + 1] += found[p];
  SG_ASSERT(found[parts] == indices.shape[0]);
  each_part([&](int64_t p) {
    int64_t row = found[p];
    each(p, [&](const int64_t* positions, int64_t count) {
      SG_ASSERT(row + count <= found[p + 1]);
      for (int64_t i = 0; i < count; i++) {
        int64_t* const to = indices.ptr<int64_t>() + row++ * indices.strides[0];
        int64_t position = positions[i];
        for (int d = x.ndim - 1; d > 0; d--) {
          to[d * indices.strides[1]] = position % x.shape[d];
          position /= x.shape[d];
        }
        if (x.ndim > 0) to[0] = position;
      }
    });
  });
}

}  // namespace sg
