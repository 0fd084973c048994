// argmax and argmin. Along memory each output scans its elements, box by box; across memory a block of outputs follows
// the rows. Boxes may come in another order than the index counts, so equals are decided by the index.
#include "arg_reduce.h"

#include "../core/reduce_dims.h"
#include "../core/thread_pool.h"
#include "blocks.h"
#include "nest.h"

namespace sg {

namespace {

template <bool kMax, class T>
inline bool better(T a, T b) {
  return (kMax ? a > b : a < b) || (a != a && b == b);
}

}  // namespace

}  // namespace sg

#define SG_KERNELS "../kernels/arg_reduce.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

constexpr int64_t kBlock = 64;

template <bool kMax, class T>
struct ArgReducer {
  const View &x, &y;
  DimGroup kept, reduced;
  LoadBlock load;
  StoreBlock store;

  struct Candidate {
    T value;
    int64_t index;
    void offer(T v, int64_t at) {
      const bool equal = v == value || (v != v && value != value);
      if (index >= 0 && (equal ? at > index : !better<kMax>(v, value))) return;
      value = v;
      index = at;
    }
  };

  void store_index(const int64_t* index, int64_t n, int64_t y_offset) const {
    store(index, 1, n, {address(y.data, y_offset, y.dtype), 0, kept.other_stride()});
  }

  void along_memory() const {
    const Nest<2> nest(reduced.ndim, reduced.shape, {reduced.other, reduced.x});
    const int64_t outputs = kept.count(), boxes = nest.boxes();
    const int64_t parts = outputs >= 16 ? 1 : std::min<int64_t>(boxes, 64);
    Candidate* const found = scratch<Candidate>(Scratch::kSharedA, size_t(outputs * parts));
    const int64_t part_size = std::max<int64_t>(1, nest.max_rows() * nest.max_cols() * boxes / parts);
    parallel_for(outputs * parts, std::max<int64_t>(1, kGrainElements / part_size), [&](int64_t begin, int64_t end) {
      T buffer[kBoxElements];
      for (int64_t i = begin; i < end; i++) {
        const int64_t part = i % parts, offset = kept.at(i / parts).first;
        Candidate best{0, -1};
        nest.walk(boxes * part / parts, boxes * (part + 1) / parts, [&](const Box<2>& box) {
          const Strided from{address(x.data, offset + box.at[1], x.dtype), nest.row_stride(1), nest.col_stride(1)};
          const bool direct = x.dtype == DTypeOf<T>::value && from.col_stride == 1 && box.rows == 1;
          const T* const values = direct ? static_cast<const T*>(from.data) : buffer;
          if (!direct) load(from, box.rows, box.cols, buffer);
          const int64_t at = SG_ISA_CALL(arg_best<kMax>, values, box.size());
          best.offer(values[at], box.at[0] + at / box.cols * nest.row_stride(0) + at % box.cols * nest.col_stride(0));
        });
        found[i] = best;
      }
    });
    for (int64_t i = 0; i < outputs; i++) {
      Candidate best = found[i * parts];
      for (int64_t part = 1; part < parts; part++)
        best.offer(found[i * parts + part].value, found[i * parts + part].index);
      store_index(&best.index, 1, kept.at(i).second);
    }
  }

  void across_memory() const {
    const int64_t blocks = (kept.size() + kBlock - 1) / kBlock, length = reduced.count();
    const int64_t grain = std::max<int64_t>(1, kGrainElements / (length * kBlock));
    parallel_for(kept.count() / kept.size() * blocks, grain, [&](int64_t begin, int64_t end) {
      T best[kBlock], buffer[kBoxElements];
      int64_t index[kBlock];
      for (int64_t i = begin; i < end; i++) {
        const int64_t first = i % blocks * kBlock, cols = std::min(kBlock, kept.size() - first);
        const auto [in_x, in_y] = kept.at(i / blocks * kept.size() + first);
        for (int64_t row = 0, n; row < length; row += n) {
          n = std::min({length - row, reduced.size() - row % reduced.size(), kBoxElements / kBlock});
          const auto [offset, at] = reduced.at(row);
          load({address(x.data, in_x + offset, x.dtype), reduced.x_stride(), kept.x_stride()}, n, cols, buffer);
          if (row == 0) {
            std::copy_n(buffer, cols, best);
            std::fill_n(index, cols, 0);
          }
          SG_ISA_CALL(arg_rows<kMax>, best, index, static_cast<const T*>(buffer), n, cols, at, reduced.other_stride());
        }
        store_index(index, cols, in_y);
      }
    });
  }
};

template <bool kMax, class T>
void arg_reduce_as(const View& x, const View& y, double dims) {
  ReduceDims groups(x, y, dims);
  groups.kept.sort();
  groups.kept.merge();
  groups.reduced.merge();  // not sorted: rows must come in the order of the index
  const ArgReducer<kMax, T> reducer{x,
                                    y,
                                    groups.kept,
                                    groups.reduced,
                                    block_loader(x.dtype, DTypeOf<T>::value),
                                    block_storer(DType::k_int64, y.dtype)};
  const bool across = std::abs(groups.reduced.x_stride()) >= std::abs(groups.kept.x_stride());
  if (groups.kept.ndim && across && groups.kept.size() >= 16) reducer.across_memory();
  else reducer.along_memory();
}

template <bool kMax>
void arg_reduce_by(const View& x, const View& y, double dims) {
  switch (lane_dtype(x.dtype)) {
    case DType::k_float32: return arg_reduce_as<kMax, float>(x, y, dims);
    case DType::k_float64: return arg_reduce_as<kMax, double>(x, y, dims);
    default: return arg_reduce_as<kMax, int64_t>(x, y, dims);
  }
}

}  // namespace

void arg_reduce(ReduceOp op, const View& x, const View& y, double dims) {
  if (op == ReduceOp::k_argmax) arg_reduce_by<true>(x, y, dims);
  else arg_reduce_by<false>(x, y, dims);
}

}  // namespace sg
