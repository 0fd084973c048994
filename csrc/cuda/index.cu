// Reading and writing a table through index tensors. Bytes move in words as wide as rows without an index of their own
// allow, so every dtype is served by five instances. Which of several writes to one place wins is settled before any
// write (index_groups.cu).
#include "cuda_device.h"
#include "indexed.h"
#include "indexed_walk.cuh"
#include "words.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256;
// Elements a thread has under way.
template <int kIndices>
constexpr int kInFlight = kIndices == 1 ? 4 : 1;

template <class Word, int kIndices>
__global__ void __launch_bounds__(kThreads)
    read_kernel(const Word* table, Word* values, IndexedWalk<kIndices> indexed) {
  using W = IndexedWalk<kIndices>;
  constexpr int kTogether = kInFlight<kIndices>;
  const int64_t step = int64_t(gridDim.x) * kThreads * kTogether, count = indexed.walk.count;
  for (int64_t first = int64_t(blockIdx.x) * kThreads * kTogether + threadIdx.x; first < count; first += step) {
    Word words[kTogether];
    int64_t places[kTogether];
    unsigned outside = 0;
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
      const int64_t i = first + j * kThreads;
      if (i >= count) break;
      int64_t at[W::kNumber];
      indexed.walk.locate(i, at);
      const bool inside = indexed.complete(at);
      places[j] = at[W::kValue];
      words[j] = inside ? table[at[W::kTable]] : Word{};
      outside |= unsigned(!inside) << j;
    }
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
      if (first + j * kThreads < count) values[places[j]] = words[j];
    }
    for (; outside; outside &= outside - 1) indexed.raise(first + (__ffs(outside) - 1) * kThreads);
  }
}

// The indices have been checked: one that is out of range now was overwritten by this very write.
template <class Word, int kIndices>
__global__ void __launch_bounds__(kThreads)
    write_kernel(const Word* values, Word* table, IndexedWalk<kIndices> indexed, IndexWinners winners) {
  using W = IndexedWalk<kIndices>;
  constexpr int kTogether = kInFlight<kIndices>;
  if (*winners.refused) return;
  const int64_t step = int64_t(gridDim.x) * kThreads * kTogether, count = indexed.walk.count;
  for (int64_t first = int64_t(blockIdx.x) * kThreads * kTogether + threadIdx.x; first < count; first += step) {
    Word words[kTogether];
    int64_t places[kTogether];
    unsigned writes = 0;
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
      const int64_t i = first + j * kThreads;
      if (i >= count) break;
      int64_t at[W::kOperands];
      indexed.walk.locate(i, at);
      const bool wins = (!winners.wins || winners.wins[at[W::kNumber]]) && indexed.complete(at);
      places[j] = at[W::kTable];
      words[j] = wins ? values[at[W::kValue]] : Word{};
      writes |= unsigned(wins) << j;
    }
#pragma unroll
    for (int j = 0; j < kTogether; j++) {
      if (writes >> j & 1) table[places[j]] = words[j];
    }
  }
}

template <int kIndices>
size_t widest_word(IndexedWalk<kIndices>& indexed, uintptr_t addresses, size_t size) {
  for (size_t bytes = 16; bytes > size; bytes /= 2) {
    const int64_t by = int64_t(bytes / size);
    bool even = addresses % bytes == 0;
    for (int k = 0; k < indexed.count; k++) even &= indexed.indices[k].step % by == 0;
    if (!even || !indexed.walk.template widen<IndexedWalk<kIndices>::kIndex>(by)) continue;
    for (int k = 0; k < indexed.count; k++) indexed.indices[k].step /= by;
    return bytes;
  }
  return size;
}

// Calls f(TypeTag<Word>{}, walk, blocks) for the whole of a plan.
template <class F>
void over_words(const IndexPlan& plan, const IndexRule& rule, const Strides& numbers, In table, In values, const F& f) {
  with_indices(plan, [&](auto indices) {
    auto indexed = indexed_walk<decltype(indices)::value>(
        plan, {~0u, Order::kMemory, plan.values, &plan.tables[0], numbers.at}, rule);
    const uintptr_t addresses = reinterpret_cast<uintptr_t>(table.data) | reinterpret_cast<uintptr_t>(values.data);
    dispatch_word(widest_word(indexed, addresses, dtype_size(table.dtype)), [&](auto tag) {
      constexpr int kTogether = kInFlight<decltype(indices)::value>;
      f(tag, indexed, grid_for((indexed.walk.count + kTogether - 1) / kTogether, kThreads));
    });
  });
}

}  // namespace

void read_by_index(const IndexPlan& plan, const IndexRule& rule, In table, Out values) {
  if (plan.numel() == 0) return;
  const cudaStream_t stream = CudaQueue::current().stream();
  over_words(plan, rule, index_numbers(plan), table, values, [&](auto tag, const auto& indexed, dim3 blocks) {
    using Word = typename decltype(tag)::type;
    using W = std::remove_cvref_t<decltype(indexed)>;
    launch(read_kernel<Word, W::kMost>, blocks, kThreads, 0, stream, table.ptr<const Word>(), values.ptr<Word>(),
           indexed);
  });
}

void write_by_index(const IndexPlan& plan, Out table, In values) {
  Scratch scratch;
  const IndexWinners winners = last_of_groups(plan, {}, scratch);
  if (plan.numel() == 0) return;
  const cudaStream_t stream = CudaQueue::current().stream();
  over_words(plan, {}, position_numbers(plan), table, values, [&](auto tag, const auto& indexed, dim3 blocks) {
    using Word = typename decltype(tag)::type;
    using W = std::remove_cvref_t<decltype(indexed)>;
    launch(write_kernel<Word, W::kMost>, blocks, kThreads, 0, stream, values.ptr<const Word>(), table.ptr<Word>(),
           indexed, winners);
  });
}

}  // namespace gpu

void CudaDevice::gather(In x, In index, Out y, double dim) {
  gpu::read_by_index(IndexPlan::along("gather", x, index, y, dim), {}, x, y);
}

void CudaDevice::scatter(Out y, In index, In src, double dim) {
  gpu::write_by_index(IndexPlan::along("scatter", y, index, src, dim), y, src);
}

void CudaDevice::scatterAdd(Out y, In index, In src, double dim) {
  gpu::add_by_index(IndexPlan::along("scatterAdd", y, index, src, dim), y, src);
}

void CudaDevice::indexSelect(In x, In index, Out y, double dim) {
  gpu::read_by_index(IndexPlan::select("indexSelect", x, index, y, dim), {}, x, y);
}

void CudaDevice::indexAdd(Out y, In index, In src, double dim) {
  gpu::add_by_index(IndexPlan::select("indexAdd", y, index, src, dim), y, src);
}

void CudaDevice::index(In x, Out y, double first, Ins indices) {
  gpu::read_by_index(IndexPlan::at("index", x, indices, y, first), {}, x, y);
}

void CudaDevice::indexPut(Out y, In values, double first, double accumulate, Ins indices) {
  const IndexPlan plan = IndexPlan::at("indexPut", y, indices, values, first);
  if (accumulate != 0) gpu::add_by_index(plan, y, values);
  else gpu::write_by_index(plan, y, values);
}

}  // namespace sg
