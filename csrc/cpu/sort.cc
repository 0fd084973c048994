// sort and topk along the last dimension. What is ordered are pairs of a key (ops/sort_key.h) and a position; values
// are copied from the input, not from the keys.
#include <algorithm>

#include "cpu_device.h"
#include "rows.h"
#include "../core/thread_pool.h"
#include "../ops/sort_key.h"

namespace sg {

namespace {

template <class U>
struct Entry {
  U key;
  uint32_t index;
  friend bool operator<(const Entry& a, const Entry& b) { return a.key != b.key ? a.key < b.key : a.index < b.index; }
};

template <class U>
void insertion_sort(Entry<U>* a, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    const Entry<U> e = a[i];
    int64_t j = i;
    for (; j > 0 && e.key < a[j - 1].key; j--) a[j] = a[j - 1];
    a[j] = e;
  }
}

// Least significant byte first; bytes that are equal everywhere cost nothing. Returns where the result is: a or spare.
template <class U>
Entry<U>* radix_sort(Entry<U>* a, Entry<U>* spare, int64_t n) {
  constexpr int kBytes = sizeof(U);
  uint32_t counts[kBytes][256] = {};
  for (int64_t i = 0; i < n; i++) {
    for (int b = 0; b < kBytes; b++) counts[b][uint8_t(a[i].key >> (8 * b))]++;
  }
  for (int b = 0; b < kBytes; b++) {
    if (int64_t(counts[b][uint8_t(a[0].key >> (8 * b))]) == n) continue;
    uint32_t next = 0;
    for (uint32_t& c : counts[b]) {
      const uint32_t count = c;
      c = next;
      next += count;
    }
    for (int64_t i = 0; i < n; i++) spare[counts[b][uint8_t(a[i].key >> (8 * b))]++] = a[i];
    std::swap(a, spare);
  }
  return a;
}

// Runs select(entries, n) on every row; it returns the entries in the order of the output, which takes the first k.
template <class U, class F>
void order_rows(const char* op, In x, Out values, Out indices, bool descending, const F& select) {
  SG_ASSERT(x.ndim == values.ndim && x.ndim == indices.ndim && x.dtype == values.dtype);
  SG_ASSERT(indices.dtype == DType::k_int64);
  for (int d = 0; d < x.ndim; d++) {
    const bool last = d == x.ndim - 1;
    SG_ASSERT(values.shape[d] == indices.shape[d]);
    SG_ASSERT(last ? values.shape[d] <= x.shape[d] : values.shape[d] == x.shape[d]);
  }
  Rows rows(x);
  rows.add(values.strides);
  rows.add(indices.strides);
  const int64_t n = rows.length(), k = x.ndim > 0 ? values.size(-1) : 1;
  if (k == 0) return;
  if (n > int64_t(UINT32_MAX)) fail(ErrorCode::Shape, op, ": a row of ", n, " elements is longer than ", UINT32_MAX);
  const KeyMap<U> key(x.dtype, descending);
  parallel_for(rows.count(), std::max<int64_t>(1, 2048 / n), [&](int64_t begin, int64_t end) {
    Entry<U>* const entries = scratch<Entry<U>>(Scratch::kLocalA, size_t(n));
    Rows mine = rows;
    mine.seek(begin);
    for (int64_t row = begin; row < end; row++, mine.next()) {
      const U* const from = x.ptr<const U>() + mine[0];
      for (int64_t i = 0; i < n; i++) entries[i] = {key(from[i * mine.stride(0)]), uint32_t(i)};
      const Entry<U>* const order = select(entries, n);
      for (int64_t i = 0; i < k; i++) {
        values.ptr<U>()[mine[1] + i * mine.stride(1)] = from[order[i].index * mine.stride(0)];
        indices.ptr<int64_t>()[mine[2] + i * mine.stride(2)] = order[i].index;
      }
    }
  });
}

}  // namespace

void CpuDevice::sort(In x, Out values, Out indices, double descending) {
  SG_ASSERT(x.ndim == 0 || (values.ndim == x.ndim && values.size(-1) == x.size(-1)));
  dispatch_bytes(x.dtype, [&](auto tag) {
    using U = typename decltype(tag)::type;
    order_rows<U>("sort", x, values, indices, descending != 0, [](Entry<U>* a, int64_t n) {
      constexpr int64_t kFew = 64;
      if (n > kFew) return radix_sort(a, scratch<Entry<U>>(Scratch::kLocalB, size_t(n)), n);
      insertion_sort(a, n);
      return a;
    });
  });
}

void CpuDevice::topk(In x, Out values, Out indices, double largest) {
  const int64_t k = values.ndim > 0 ? values.size(-1) : 1;
  dispatch_bytes(x.dtype, [&](auto tag) {
    using U = typename decltype(tag)::type;
    order_rows<U>("topk", x, values, indices, largest != 0, [k](Entry<U>* a, int64_t n) {
      // A heap of few entries beats the selection, which moves all of them. No two entries are equal.
      if (k < n / 8) {
        std::partial_sort(a, a + k, a + n);
      } else {
        if (k < n) std::nth_element(a, a + k, a + n);
        std::sort(a, a + k);
      }
      return a;
    });
  });
}

}  // namespace sg
