// Embedding lookup, its gradient, and one-hot. A row is asked for while the one before is copied: no hardware foresees
// where it lies. The gradient sorts the positions by index (a counting sort, stable), so that each row of the table is
// summed by one thread in the order of the positions, in float32 registers, and written once: deterministic without
// atomics, and as fast for a few frequent tokens as for many rare ones.
#include "blocks.h"
#include "cpu_device.h"
#include "flat.h"

#define SG_KERNELS "../kernels/embedding.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

constexpr int64_t kGrainBytes = 128 * 1024;  // of rows copied; about 20 microseconds
constexpr int64_t kBytesAhead = 4096;        // of the next row; what comes after is foreseen

int64_t checked_index(const char* name, const char* of, int64_t index, int64_t position, int64_t count) {
  if (index < 0 || index >= count)
    fail(ErrorCode::Value, name, ": index ", index, " at position ", position, " is out of range: there are ", count,
         " ", of);
  return index;
}

// The indices as int64, each in [0, count). As in PyTorch, negative ones do not count from the end here: they are
// the usual sign of a padding value that slipped in.
const int64_t* checked_indices(const char* name, const char* of, const View& index, int64_t count) {
  const int64_t n = index.numel();
  int64_t* const checked = scratch<int64_t>(Scratch::kSharedA, size_t(n));
  dispatch_index(name, index.dtype, [&](auto tag) {
    using I = typename decltype(tag)::type;
    const I* const given = Flat(index).read<I>(0, n, Scratch::kSharedB);
    for (int64_t i = 0; i < n; i++) checked[i] = checked_index(name, of, int64_t(given[i]), i, count);
  });
  return checked;
}

// The positions of each index: row v of the table occurs at order[start[v]] … order[start[v + 1] - 1].
struct Occurrences {
  int64_t *start, *order;
};

// The occurrences of paddingIndex are left out: its gradient is zero.
Occurrences sort_by_index(const int64_t* index, int64_t n, int64_t count, int64_t padding_index) {
  int64_t* const start = scratch<int64_t>(Scratch::kSharedB, size_t(count + 1 + n));
  int64_t* const order = start + count + 1;
  std::fill(start, start + count + 1, int64_t(0));
  for (int64_t i = 0; i < n; i++) start[index[i]] += index[i] != padding_index;
  int64_t total = 0;
  for (int64_t v = 0; v < count; v++) {
    total += start[v];
    start[v] = total;
  }
  start[count] = total;
  for (int64_t i = n - 1; i >= 0; i--)
    if (index[i] != padding_index) order[--start[index[i]]] = i;
  return {start, order};
}

// The first row of part `part` of `parts` such that rows and occurrences together are shared out evenly.
int64_t first_row_of_part(const int64_t* start, int64_t count, int64_t part, int64_t parts) {
  const int64_t goal = (count + start[count]) * part / parts;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (start[middle] + middle < goal) low = middle + 1;
    else high = middle;
  }
  return low;
}

}  // namespace

void CpuDevice::embedding(In weight, In index, Out y) {
  SG_ASSERT(weight.ndim == 2 && y.dtype == weight.dtype && y.contiguous());
  const int64_t n = index.numel(), width = weight.shape[1];
  SG_ASSERT(y.numel() == n * width);
  const int64_t row_stride = weight.strides[0], column_stride = weight.strides[1];
  const int64_t size = int64_t(dtype_size(weight.dtype));
  const int64_t grain = kGrainBytes / std::max<int64_t>(1, width * size), ahead = std::min(width, kBytesAhead / size);
  const Flat indices(index);
  dispatch_index("embedding", index.dtype, [&](auto index_tag) {
    using I = typename decltype(index_tag)::type;
    dispatch_bytes(weight.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      parallel_for(n, std::max<int64_t>(1, grain), [&](int64_t begin, int64_t end) {
        const I* const given = indices.read<I>(begin, end - begin, Scratch::kLocalA);
        const auto row = [&](int64_t i) {
          return weight.ptr<T>() +
                 checked_index("embedding", "rows", int64_t(given[i - begin]), i, weight.shape[0]) * row_stride;
        };
        const T* from = row(begin);
        for (int64_t i = begin; i < end; i++) {
          const T* const next = i + 1 < end ? row(i + 1) : from;
          if (column_stride == 1) prefetch_run(next, ahead);
          T* const to = y.ptr<T>() + i * width;
          if (column_stride == 1) std::memcpy(to, from, size_t(width) * sizeof(T));
          else
            for (int64_t c = 0; c < width; c++) to[c] = from[c * column_stride];
          from = next;
        }
      });
    });
  });
}

void CpuDevice::embeddingBackward(In dy, In index, Out dweight, double paddingIndex) {
  SG_ASSERT(dweight.ndim == 2 && dweight.contiguous());
  const int64_t n = index.numel(), count = dweight.shape[0], width = dweight.shape[1];
  SG_ASSERT(dy.numel() == n * width);
  const int64_t* const indices = checked_indices("embeddingBackward", "rows", index, count);
  if (dweight.numel() == 0) return;
  const Occurrences at = sort_by_index(indices, n, count, int64_t(paddingIndex));
  // Columns are cut, too: a token that makes up most of the batch is then not the work of one thread.
  const int64_t column_parts = std::clamp<int64_t>(width / 64, 1, 4);
  const int64_t columns = ((width + column_parts - 1) / column_parts + 63) / 64 * 64;
  const int64_t row_parts = std::clamp<int64_t>((n + count) * width / 32768, 1, 16);
  dispatch_float("embeddingBackward", dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Flat rows(dy);
    const bool even = rows.row_stride(width) >= 0;
    const T* const from = even ? dy.ptr<T>() : rows.read<T>(0, n * width, Scratch::kSharedC);
    const int64_t stride = even ? rows.row_stride(width) : width;
    const auto run = [&](auto* to) {
      ThreadPool::instance().run(int(row_parts * column_parts), [&](int task) {
        const int64_t part = task / column_parts, c = task % column_parts * columns;
        const int64_t begin = first_row_of_part(at.start, count, part, row_parts);
        const int64_t end = first_row_of_part(at.start, count, part + 1, row_parts);
        if (c < width)
          SG_ISA_CALL(embedding_gradient, from, stride, at.start, at.order, to, width, begin, end, c,
                      std::min(width, c + columns));
      });
    };
    if (dweight.dtype == dy.dtype) run(dweight.ptr<T>());
    else if (dweight.dtype == DType::k_float32) run(dweight.ptr<float>());
    else
      fail(ErrorCode::DType, "embeddingBackward: the gradient of the table must be ", dtype_name(dy.dtype),
           " or float32, got ", dtype_name(dweight.dtype));
  });
}

void CpuDevice::oneHot(In index, Out y) {
  SG_ASSERT(y.ndim > 0 && y.contiguous());
  const int64_t n = index.numel(), classes = y.size(-1);
  SG_ASSERT(y.numel() == n * classes);
  const int64_t* const indices = checked_indices("oneHot", "classes", index, classes);
  if (n == 0) return;
  std::memset(y.data, 0, size_t(n * classes) * dtype_size(y.dtype));
  dispatch_all(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t i = 0; i < n; i++) y.ptr<T>()[i * classes + indices[i]] = T(accumulate_t<T>(1));
  });
}

}  // namespace sg
