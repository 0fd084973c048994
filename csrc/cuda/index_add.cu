// Adding to a table through index tensors: every place is the sum of its group of values (index_groups.cu), in the
// order of the elements, accumulated in float32 or wider and rounded once. A thread sums a column of a piece of 32
// items; a group that reaches over several pieces leaves its parts behind, and a second kernel adds those up, again in
// order. How the work is cut depends on the indices alone, so the same input gives the same bits on every GPU.
#include "cuda_error.h"
#include "indexed.h"
#include "indexed_walk.cuh"
#include "vectors.cuh"

namespace sg::gpu {

namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 32;  // items: a word of IndexGroups::heads

// Integers wrap around, so they are added as unsigned ones.
template <class T>
struct Accumulator {
  using type = std::conditional_t<std::is_integral_v<T>, T, accumulate_t<T>>;
};

// T: of the values, D: of the table.
template <class T, class D>
struct Sums {
  using A = typename Accumulator<T>::type;
  const T* values;
  D* table;
  A *heads, *tails;  // [pieces, columns]: of the group that a piece goes on with, and of the one it leaves open
  IndexGroups groups;
  int64_t pieces;
  bool onto;          // the table, rather than 0
  Walk<1> positions;  // where a position's values begin
  Walk<2> columns;    // in the table, in the values; in units of a thread's vector
  Quotient by_columns;
};

template <class A, int kWidth, class T>
SG_DEVICE Vector<A, kWidth> load_as(const T* p) {
  const Vector<T, kWidth> v = load_vector<kWidth>(p);
  Vector<A, kWidth> sum;
#pragma unroll
  for (int c = 0; c < kWidth; c++) sum.at[c] = cast<A>(v.at[c]);
  return sum;
}
template <class A, int kWidth, class D>
SG_DEVICE void store_as(D* p, const Vector<A, kWidth>& sum) {
  Vector<D, kWidth> v;
#pragma unroll
  for (int c = 0; c < kWidth; c++) v.at[c] = cast<D>(sum.at[c]);
  store_vector(p, v);
}
template <class A, int kWidth>
SG_DEVICE void add(Vector<A, kWidth>& sum, const Vector<A, kWidth>& v) {
#pragma unroll
  for (int c = 0; c < kWidth; c++) sum.at[c] = A(sum.at[c] + v.at[c]);
}

template <class T, class D, int kWidth>
__global__ void __launch_bounds__(kThreads) sum_pieces_kernel(Sums<T, D> s) {
  using A = typename Sums<T, D>::A;
  constexpr int kInFlight = 4;
  if (*s.groups.refused) return;
  const int64_t step = int64_t(gridDim.x) * kThreads, all = s.pieces * s.columns.count, used = *s.groups.used;
  for (int64_t t = int64_t(blockIdx.x) * kThreads + threadIdx.x; t < all; t += step) {
    const int64_t piece = s.by_columns(t), begin = piece * kPiece, end = min(used, begin + kPiece);
    if (begin >= end) break;  // so it is for all that follow
    int64_t column[2];
    s.columns.locate(t - piece * s.columns.count, column);
    D* const table = s.table + column[0] * kWidth;
    const T* const values = s.values + column[1] * kWidth;
    const uint32_t heads = s.groups.heads[piece];

    Vector<A, kWidth> sum{};
    D* place = nullptr;  // of a group that began in an earlier piece
    for (int64_t first = begin; first < end; first += kInFlight) {
      Vector<T, kWidth> v[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; j++) {
        if (first + j >= end) break;
        int64_t at[1];
        s.positions.locate(s.groups.order ? int64_t(s.groups.order[first + j]) : first + j, at);
        v[j] = load_vector<kWidth>(values + at[0]);
      }
#pragma unroll
      for (int j = 0; j < kInFlight; j++) {
        if (first + j >= end) break;
        if (heads >> (first + j - begin) & 1) {
          if (place) store_as(place, sum);
          else if (first + j > begin) store_vector(s.heads + t * kWidth, sum);
          place = table + s.groups.places[first + j];
          sum = s.onto ? load_as<A, kWidth>(place) : Vector<A, kWidth>{};
        }
#pragma unroll
        for (int c = 0; c < kWidth; c++) sum.at[c] = A(sum.at[c] + cast<A>(v[j].at[c]));
      }
    }
    const bool open = end < used && !(s.groups.heads[piece + 1] & 1);
    if (!place) store_vector(s.heads + t * kWidth, sum);
    else if (open) store_vector(s.tails + t * kWidth, sum);
    else store_as(place, sum);
  }
}

// A thread a column of a piece whose last group begins in it and goes on in the next.
template <class T, class D, int kWidth>
__global__ void __launch_bounds__(kThreads) join_pieces_kernel(Sums<T, D> s) {
  using A = typename Sums<T, D>::A;
  constexpr int kInFlight = 8;
  if (*s.groups.refused) return;
  const int64_t step = int64_t(gridDim.x) * kThreads, columns = s.columns.count, used = *s.groups.used;
  for (int64_t t = int64_t(blockIdx.x) * kThreads + threadIdx.x; t < s.pieces * columns; t += step) {
    const int64_t piece = s.by_columns(t);
    if ((piece + 1) * kPiece >= used) break;
    const uint32_t heads = s.groups.heads[piece];
    if (heads == 0 || (s.groups.heads[piece + 1] & 1)) continue;
    Vector<A, kWidth> sum = load_vector<kWidth>(s.tails + t * kWidth);
    // The next pieces belong to the group up to the first head, which may be the first item of a piece.
    const int64_t last = (used + kPiece - 1) / kPiece;
    bool open = true;
    for (int64_t next = piece + 1; open; next += kInFlight) {
      uint32_t words[kInFlight];
      Vector<A, kWidth> parts[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; j++) words[j] = next + j < last ? s.groups.heads[next + j] : 1;
#pragma unroll
      for (int j = 0; j < kInFlight; j++) {
        if (!(words[j] & 1)) parts[j] = load_vector<kWidth>(s.heads + (t + (next + j - piece) * columns) * kWidth);
      }
#pragma unroll
      for (int j = 0; j < kInFlight; j++) {
        if (open && !(words[j] & 1)) add(sum, parts[j]);
        open &= words[j] == 0;
      }
    }
    int64_t column[2];
    s.columns.locate(t - piece * columns, column);
    store_as(s.table + column[0] * kWidth + s.groups.places[piece * kPiece + 31 - __clz(heads)], sum);
  }
}

// ---- planning

// Whether threads can take kWidth neighbouring columns: rows of values and of the table begin at multiples.
template <int kWidth, class T, class D>
bool widen(Sums<T, D>& s, const IndexPlan& plan) {
  if (reinterpret_cast<uintptr_t>(s.values) % (kWidth * sizeof(T)) != 0) return false;
  if (reinterpret_cast<uintptr_t>(s.table) % (kWidth * sizeof(D)) != 0) return false;
  for (int d = 0; d < s.positions.ndim; d++) {
    if (s.positions.strides[0][d] % kWidth != 0) return false;
  }
  for (int k = 0; k < plan.num_indices; k++) {
    if (plan.tables[0].steps[k] % kWidth != 0) return false;
  }
  for (int d = 0; d < plan.ndim; d++) {
    if (plan.shape[d] > 1 && (position_dims(plan) >> d & 1) && plan.tables[0].strides[d] % kWidth != 0) return false;
  }
  return s.columns.widen(kWidth);
}

template <class T, class D>
void sum_groups(const IndexPlan& plan, const IndexGroups& groups, bool onto, In values, Out table, Scratch& scratch) {
  using A = typename Sums<T, D>::A;
  const unsigned positions = position_dims(plan);
  int64_t shapes[2][kMaxDims], value_strides[2][kMaxDims], table_strides[kMaxDims];
  int dims[2] = {0, 0};  // columns, positions
  for (int d = 0; d < plan.ndim; d++) {
    const int kind = positions >> d & 1, to = dims[kind]++;
    shapes[kind][to] = plan.shape[d];
    value_strides[kind][to] = plan.values[d];
    if (kind == 0) table_strides[to] = plan.tables[0].strides[d];
  }
  Sums<T, D> s{values.ptr<const T>(),
               table.ptr<D>(),
               nullptr,
               nullptr,
               groups,
               (groups.positions + kPiece - 1) / kPiece,
               onto,
               {},
               {},
               {}};
  s.positions = Walk<1>(dims[1], shapes[1], {value_strides[1]}, Order::kLogical);
  s.columns = Walk<2>(dims[0], shapes[0], {table_strides, value_strides[0]});
  constexpr int kWide = Pack<T>::kCount;
  const bool wide = !std::is_integral_v<T> && widen<kWide>(s, plan);
  const size_t partial = size_t(s.pieces * s.columns.count * (wide ? kWide : 1));
  s.by_columns = Quotient(s.columns.count, s.pieces * s.columns.count);
  if (s.pieces > 1) {
    s.heads = scratch.take<A>(partial);
    s.tails = scratch.take<A>(partial);
  }
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    const dim3 blocks = grid_for(s.pieces * s.columns.count, kThreads);
    const cudaStream_t stream = CudaQueue::current().stream();
    launch(sum_pieces_kernel<T, D, kWidth>, blocks, kThreads, 0, stream, s);
    if (s.pieces > 1) launch(join_pieces_kernel<T, D, kWidth>, blocks, kThreads, 0, stream, s);
  };
  if constexpr (!std::is_integral_v<T>) {
    if (wide) return run(std::integral_constant<int, kWide>{});
  }
  run(std::integral_constant<int, 1>{});
}

}  // namespace

void add_by_index(const IndexPlan& plan, Out table, In values) {
  Scratch scratch;
  const IndexGroups groups = group_by_place(plan, {}, -1, scratch);
  if (plan.numel() == 0) return;
  dispatch_all(table.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      using U = std::make_unsigned_t<T>;
      sum_groups<U, U>(plan, groups, true, values, table, scratch);
    } else if constexpr (!std::is_integral_v<T> && sizeof(T) > 1) {
      sum_groups<T, T>(plan, groups, true, values, table, scratch);
    } else {
      fail(ErrorCode::DType, plan.op, ": cannot add in ", dtype_name(table.dtype));
    }
  });
}

void sum_by_index(const IndexPlan& plan, const IndexRule& rule, Out table, In values, int64_t skipped) {
  Scratch scratch;
  const IndexGroups groups = group_by_place(plan, rule, skipped, scratch);
  SG_ASSERT(table.contiguous());
  if (table.numel() == 0) return;
  check(cudaMemsetAsync(table.data, 0, size_t(table.numel()) * dtype_size(table.dtype), CudaQueue::current().stream()),
        plan.op);
  if (plan.numel() == 0) return;
  dispatch_float(plan.op, values.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (table.dtype == values.dtype) return sum_groups<T, T>(plan, groups, false, values, table, scratch);
    if (table.dtype == DType::k_float32) return sum_groups<T, float>(plan, groups, false, values, table, scratch);
    fail(ErrorCode::DType, plan.op, ": the gradient of the table must be ", dtype_name(values.dtype),
         " or float32, got ", dtype_name(table.dtype));
  });
}

}  // namespace sg::gpu
