// The reduction engine. Lanes are folded in the compute type for at most kFlushRows steps, then into float64 (int64)
// partial results, so that a float32 sum of a hundred million elements keeps seven digits. Long reductions are cut into
// parts whose number depends on the shape alone, never on the threads: the bits are the same everywhere. Neighbours of
// 16 bits are widened in the registers of the fold.
#include "../ops/reduce.h"

#include "../core/cast.h"
#include "../core/reduce_dims.h"
#include "arg_reduce.h"
#include "blocks.h"
#include "cpu_device.h"
#include "nest.h"

namespace sg {

namespace {

constexpr int kMaxCols = 512;
constexpr int kFlushRows = 32;
constexpr int kDealt = 64;  // columns that a long run of neighbours is dealt out to

// For x in one type: a lane type, or 16 bits.
struct ReduceKernels {
  // acc[c] = fold(acc[c], term(x[r * row_stride + c])) in the lane type
  void (*rows)(void* acc, const void* x, int64_t row_stride, int64_t rows, int64_t cols);
  // wide[r] = fold of term(x[r * row_stride]), term(x[r * row_stride + 1]), … n of them
  void (*runs)(void* wide, const void* x, int64_t row_stride, int64_t rows, int64_t n);
  // wide[c] = fold of wide[c] and term(x[r * kDealt + c]), kFlushRows of them a block; null: as rows and partial do it
  void (*blocks)(void* wide, const void* x, int64_t blocks);
  // wide[c] = fold(wide[c], part[c]), from parts in the lane type and from wide parts
  void (*partial)(void* wide, const void* part, int64_t cols);
  void (*wide)(void* wide, const void* part, int64_t cols);
  // wide[c] = result(wide[c], n)
  void (*finish)(void* wide, int64_t cols, double n);
  double identity;
  int64_t size;  // bytes of an element of x
};

}  // namespace

}  // namespace sg

#define SG_KERNELS "../kernels/reduce.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

class Reducer {
 public:
  // `kernels` for lanes, `direct` for elements of x where they lie, if `dtype` is that of x.
  Reducer(const ReduceKernels& kernels, const ReduceKernels& direct, DType dtype, const View& x, const View& y,
          const ReduceDims& dims)
      : kernels_(kernels),
        direct_(direct),
        direct_dtype_(dtype),
        x_(x),
        y_(y),
        kept_(dims.kept),
        reduced_(dims.reduced),
        length_(reduced_.count()),
        lane_(lane_dtype(x.dtype)),
        wide_(lane_ == DType::k_int64 ? lane_ : DType::k_float64),
        load_(block_loader(x.dtype, lane_)),
        store_(block_storer(wide_, y.dtype)) {
    kept_.sort();
    kept_.merge();
    reduced_.sort();
    reduced_.merge();
  }

  void run() const {
    const bool across_memory = std::abs(reduced_.x_stride()) >= std::abs(kept_.x_stride());
    if (!reduced_.ndim || (kept_.ndim && across_memory && kept_.size() >= 16)) run_columns();
    else if (kept_.ndim && reduced_.ndim == 1 && !across_memory && length_ <= kBoxElements)
      length_<16 && kept_.size()> length_ ? run_columns() : run_short_rows();
    else run_lanes();
  }

 private:
  // A task folds into `cols` columns and stores the first `results` of them.
  struct Task {
    int64_t cols, results, x_offset, y_offset, y_stride;
  };

  // The partial results of one task.
  struct Accumulator {
    const Reducer& reducer;
    const ReduceKernels& kernels;
    const int64_t cols;
    int64_t pending = 0;
    alignas(64) char lanes[kMaxCols * 8];
    alignas(64) char wide[kMaxCols * 8];

    Accumulator(const Reducer& r, bool direct, int64_t n)
        : reducer(r), kernels(direct ? r.direct_ : r.kernels_), cols(n) {
      reducer.fill_identity(lanes, reducer.lane_, cols);
      reducer.fill_identity(wide, reducer.wide_, cols);
    }
    void add(const void* x, int64_t row_stride, int64_t rows) {
      const char* from = static_cast<const char*>(x);
      while (rows > 0) {
        const int64_t n = std::min(rows, kFlushRows - pending);
        kernels.rows(lanes, from, row_stride, n, cols);
        from += n * row_stride * kernels.size;
        rows -= n;
        pending += n;
        if (pending == kFlushRows) flush();
      }
    }
    // n neighbours, dealt out to the columns
    void add_run(const void* x, int64_t n) {
      const char* from = static_cast<const char*>(x);
      if (kernels.blocks && cols == kDealt && pending == 0) {
        constexpr int64_t kBlock = kFlushRows * kDealt;
        kernels.blocks(wide, from, n / kBlock);
        from += n / kBlock * kBlock * kernels.size;
        n %= kBlock;
      }
      add(from, cols, n / cols);
      if (n % cols) kernels.rows(lanes, from + (n - n % cols) * kernels.size, 0, 1, n % cols);
    }
    void flush() {
      kernels.partial(wide, lanes, cols);
      reducer.fill_identity(lanes, reducer.lane_, cols);
      pending = 0;
    }
    void fold_to_one() {  // cols is a power of two
      for (int64_t half = cols / 2; half > 0; half /= 2) kernels.wide(wide, wide + half * 8, half);
    }
  };

  // Whether elements at this stride need no conversion into a buffer.
  bool lies_direct(int64_t stride) const { return x_.dtype == direct_dtype_ && stride == 1; }
  void fill_identity(void* to, DType dtype, int64_t n) const {
    if (dtype == DType::k_float32) std::fill_n(static_cast<float*>(to), n, float(kernels_.identity));
    else if (dtype == DType::k_float64) std::fill_n(static_cast<double*>(to), n, kernels_.identity);
    else std::fill_n(static_cast<int64_t*>(to), n, cast<int64_t>(kernels_.identity));
  }
  void finish(void* wide, const Task& to) const {
    kernels_.finish(wide, to.results, double(length_));
    store_(wide, 1, to.results, {address(y_.data, to.y_offset, y_.dtype), 0, to.y_stride});
  }

  // work(task, begin, end, accumulator) folds the units [begin, end) of a task, which has at most `results`. A few long
  // tasks are cut into parts.
  template <class Get, class Work>
  void run_tasks(bool direct, int64_t tasks, int64_t results, int64_t units, int64_t unit_elements, const Get& get,
                 const Work& work) const {
    const int64_t elements = units * unit_elements;
    const int64_t parts =
        tasks >= 16 ? 1 : std::clamp<int64_t>(elements / (2 * kGrainElements), 1, std::min<int64_t>(units, 64));
    const int64_t part_bytes = results * 8;
    char* const partials = parts > 1 ? scratch<char>(Scratch::kSharedA, size_t(tasks * parts * part_bytes)) : nullptr;
    const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, elements / parts));
    parallel_for(tasks * parts, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t part = i % parts;
        const Task task = get(i / parts);
        Accumulator sums(*this, direct, task.cols);
        work(task, units * part / parts, units * (part + 1) / parts, sums);
        sums.flush();
        if (task.results == 1) sums.fold_to_one();
        if (parts == 1) finish(sums.wide, task);
        else std::memcpy(partials + i * part_bytes, sums.wide, size_t(task.results * 8));
      }
    });
    for (int64_t i = 0; parts > 1 && i < tasks; i++) {
      char* const first = partials + i * parts * part_bytes;
      const Task task = get(i);
      for (int64_t part = 1; part < parts; part++) kernels_.wide(first, first + part * part_bytes, task.results);
      finish(first, task);
    }
  }

  // Many outputs of a few neighbours each: whole rows in registers.
  void run_short_rows() const {
    const bool direct = lies_direct(reduced_.x_stride());
    const ReduceKernels& kernels = direct ? direct_ : kernels_;
    const int64_t height =
        std::min<int64_t>(kept_.size(), direct ? kTile : std::min(kTile, int(kBoxElements / length_)));
    const int64_t blocks = (kept_.size() + height - 1) / height;
    const int64_t grain = std::max<int64_t>(1, kGrainElements / (height * length_));
    parallel_for(kept_.count() / kept_.size() * blocks, grain, [&](int64_t begin, int64_t end) {
      alignas(64) char buffer[kBoxElements * 8];
      int64_t wide[kTile];  // or doubles
      for (int64_t i = begin; i < end; i++) {
        const int64_t first = i % blocks * height, rows = std::min(height, kept_.size() - first);
        const auto [x, y] = kept_.at(i / blocks * kept_.size() + first);
        const Strided from{address(x_.data, x, x_.dtype), kept_.x_stride(), reduced_.x_stride()};
        if (!direct) load_(from, rows, length_, buffer);
        kernels.runs(wide, direct ? from.data : buffer, direct ? from.row_stride : length_, rows, length_);
        finish(wide, {rows, rows, x, y, kept_.other_stride()});
      }
    });
  }

  // A task is one output; its elements are dealt out to a few columns, which are folded together in the end.
  void run_lanes() const {
    Nest<1> nest(reduced_.ndim, reduced_.shape, {reduced_.x});
    const bool direct = nest.max_rows() == 1 && lies_direct(nest.col_stride(0));
    if (direct) nest.widen(kGrainElements);
    const auto get = [&](int64_t i) {
      const auto [x, y] = kept_.at(i);
      return Task{length_ >= kFlushRows * kDealt ? kDealt : 16, 1, x, y, 0};
    };
    const auto work = [&](const Task& task, int64_t begin, int64_t end, Accumulator& sums) {
      alignas(64) char buffer[kBoxElements * 8];
      nest.walk(begin, end, [&](const Box<1>& box) {
        void* const from = address(x_.data, task.x_offset + box.at[0], x_.dtype);
        if (direct) return sums.add_run(from, box.cols);
        load_({from, nest.row_stride(0), nest.col_stride(0)}, box.rows, box.cols, buffer);
        sums.add_run(buffer, box.size());
      });
    };
    run_tasks(direct, kept_.count(), 1, nest.boxes(), nest.max_rows() * nest.max_cols(), get, work);
  }

  // A task is a block of neighbouring outputs; the reduced dimensions are its rows.
  void run_columns() const {
    const bool direct = lies_direct(kept_.x_stride());
    const int64_t width = std::min<int64_t>(kept_.size(), direct ? kMaxCols : 64);
    const int64_t blocks = (kept_.size() + width - 1) / width;
    const auto get = [&](int64_t i) {
      const int64_t first = i % blocks * width, cols = std::min(width, kept_.size() - first);
      const auto [x, y] = kept_.at(i / blocks * kept_.size() + first);
      return Task{cols, cols, x, y, kept_.other_stride()};
    };
    const auto work = [&](const Task& task, int64_t begin, int64_t end, Accumulator& sums) {
      alignas(64) char buffer[kBoxElements * 8];
      for (int64_t row = begin, n; row < end; row += n) {
        n = std::min(end - row, reduced_.size() - row % reduced_.size());
        void* const from = address(x_.data, task.x_offset + reduced_.at(row).first, x_.dtype);
        if (direct) {
          sums.add(from, reduced_.x_stride(), n);
        } else {
          n = std::min(n, kBoxElements / width);
          load_({from, reduced_.x_stride(), kept_.x_stride()}, n, task.cols, buffer);
          sums.add(buffer, task.cols, n);
        }
      }
    };
    run_tasks(direct, kept_.count() / kept_.size() * blocks, width, length_, width, get, work);
  }

  ReduceKernels kernels_, direct_;
  DType direct_dtype_;
  View x_, y_;
  DimGroup kept_, reduced_;
  int64_t length_;
  DType lane_, wide_;
  LoadBlock load_;
  StoreBlock store_;
};

}  // namespace

void CpuDevice::reduce(ReduceOp op, In x, Out y, double dims) {
  SG_ASSERT(int(op) >= 0 && op < ReduceOp::kCount);
  if (y.numel() == 0) return;
  check_reduce(op, x.dtype);
  if (x.numel() == 0) return fill(y, reduce_nothing(op));
  if (op == ReduceOp::k_argmax || op == ReduceOp::k_argmin) return arg_reduce(op, x, y, dims);
  const DType lane = lane_dtype(x.dtype), direct = is_float16_kind(x.dtype) ? x.dtype : lane;
  Reducer(SG_ISA_CALL(find_reduce_kernels, op, lane), SG_ISA_CALL(find_reduce_kernels, op, direct), direct, x, y,
          ReduceDims(x, y, dims))
      .run();
}

}  // namespace sg
