// Many tensors in one launch: a table on the device says where they are, and each is cut into chunks of a fixed size,
// a block each. The cut depends on the sizes alone, and so do sums that are kept per chunk. A table is made anew for
// every call and uploaded in front of its kernels.
#pragma once
#include <vector>

#include "../core/view.h"
#include "cuda_queue.h"
#include "upload.h"

namespace sg::gpu {

inline constexpr int64_t kChunk = 16384;  // elements
inline constexpr int kChunkThreads = 256;

// The strides of an operand whose elements are not side by side, in logical order; neighbouring dimensions are merged.
struct Layout {
  int64_t ndim = 0, shape[kMaxDims], strides[kMaxDims];
  explicit Layout(const View& v) {
    for (int d = 0; d < v.ndim; d++) {
      if (v.shape[d] == 1) continue;
      if (ndim > 0 && strides[ndim - 1] == v.strides[d] * v.shape[d]) {
        shape[ndim - 1] *= v.shape[d];
        strides[ndim - 1] = v.strides[d];
      } else {
        shape[ndim] = v.shape[d];
        strides[ndim++] = v.strides[d];
      }
    }
  }
};

struct Operand {
  void* data = nullptr;
  DType dtype = DType::k_float32;
  int32_t layout = -1;  // in the table; -1: the elements lie side by side
};

template <int kOperands>
struct TensorRow {
  Operand operand[kOperands];
  int64_t count, first_chunk;
  int32_t group;    // whatever belongs to several rows
  uint16_t used;    // operands, where not all are
  bool in_vectors;  // all that are used lie side by side, at multiples of 16 bytes, and have a type that has vectors
  bool in_double;
};

// The device's. `numbers` are the caller's own.
template <int kOperands>
struct TensorTable {
  const TensorRow<kOperands>* rows;
  const Layout* layouts;
  const double* numbers;
  int count;
};

template <int kOperands>
class TableMaker {
 public:
  using Row = TensorRow<kOperands>;

  TableMaker() {
    rows_.clear();
    layouts_.clear();
  }
  // A row of tensors of `count` elements, to be filled in.
  Row& add(int64_t count) {
    Row& row = rows_.emplace_back();
    row.count = count;
    row.first_chunk = chunks_;
    row.in_vectors = true;
    row.in_double = false;
    chunks_ += (count + kChunk - 1) / kChunk;
    return row;
  }
  void put(Row& row, int k, const View& v) {
    Operand& operand = row.operand[k];
    operand = {v.data, v.dtype, -1};
    const bool hot = v.dtype == DType::k_float32 || is_float16_kind(v.dtype);
    const bool dense = v.contiguous();
    row.in_vectors &= hot && dense && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
    if (dense || row.count == 0) return;
    operand.layout = int32_t(layouts_.size());
    layouts_.emplace_back(v);
  }
  int count() const { return int(rows_.size()); }
  int64_t chunks() const { return chunks_; }

  TensorTable<kOperands> upload(Rest numbers, Scratch& scratch, cudaStream_t stream) const {
    static_assert(sizeof(Row) % 8 == 0 && sizeof(Layout) % 8 == 0);
    TensorTable<kOperands> table;
    table.count = count();
    table.rows = copy(rows_.data(), rows_.size(), scratch, stream);
    table.layouts = copy(layouts_.data(), layouts_.size(), scratch, stream);
    table.numbers = copy(numbers.first, size_t(numbers.count), scratch, stream);
    return table;
  }

 private:
  template <class T>
  static const T* copy(const T* from, size_t count, Scratch& scratch, cudaStream_t stream) {
    if (count == 0) return nullptr;
    T* const to = scratch.take<T>(count);
    gpu::upload(to, from, count * sizeof(T), stream);
    return to;
  }
  // Kept from call to call, so that a step allocates nothing.
  static inline thread_local std::vector<Row> rows_;
  static inline thread_local std::vector<Layout> layouts_;
  int64_t chunks_ = 0;
};

}  // namespace sg::gpu
