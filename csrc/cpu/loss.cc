// Cross-entropy with class weights, label smoothing and ignored rows. Targets are checked on the calling thread before
// any row is touched, so that the error always names the first bad one; ignored rows become -1 for the kernels.
#include "cpu_device.h"
#include "parameter_rows.h"

namespace sg {

template <class A>
struct ClassWeights {
  const A* row;  // null: all 1
  A sum;
};

}  // namespace sg

#define SG_KERNELS "../kernels/loss.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

constexpr int64_t kGrain = 16384;  // elements; about 20 microseconds, below which a parallel region costs more

const int64_t* checked_targets(const char* name, const View& targets, int64_t rows, int64_t classes,
                               double ignore_index, int64_t first_row = 0) {
  SG_ASSERT(targets.numel() == rows);
  int64_t* const checked = scratch<int64_t>(Scratch::kSharedA, size_t(rows));
  dispatch_index(name, targets.dtype, [&](auto tag) {
    using I = typename decltype(tag)::type;
    const I* const given = Flat(targets).read<I>(0, rows, Scratch::kSharedB);
    for (int64_t r = 0; r < rows; r++) {
      const int64_t t = int64_t(given[r]);
      if (double(t) == ignore_index) checked[r] = -1;
      else if (t >= 0 && t < classes) checked[r] = t;
      else
        fail(ErrorCode::Value, name, ": target ", t, " at row ", first_row + r, " is out of range: there are ", classes,
             " classes");
    }
  });
  return checked;
}

// Weights live in the slot of the raw targets, which are no longer needed.
template <class A>
ClassWeights<A> class_weights(MaybeIn weight, int64_t classes) {
  if (!weight) return {nullptr, A(classes)};
  const A* const row = parameter_row(weight, classes, A(1), scratch<A>(Scratch::kSharedB, size_t(classes)));
  double sum = 0;
  for (int64_t c = 0; c < classes; c++) sum += double(row[c]);
  return {row, A(sum)};
}

template <class A>
A* row_values(const View& v, int64_t rows) {
  SG_ASSERT(v.dtype == DTypeOf<A>::value && v.contiguous() && v.numel() == rows);
  return v.ptr<A>();
}

// Rows that are still in the cache when their gradient follows their loss.
template <class T>
int64_t rows_at_once(int64_t classes) {
  return std::max<int64_t>(1, (int64_t(256) << 10) / std::max<int64_t>(1, classes * int64_t(sizeof(T))));
}

int64_t row_grain(int64_t classes) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, classes)); }

}  // namespace

void CpuDevice::crossEntropy(In logits, In targets, MaybeIn weight, Out rowLoss, Out lse, Out totals, MaybeOut dlogits,
                             double ignoreIndex, double smoothing, double firstRow) {
  SG_ASSERT(logits.ndim == 2);
  SG_ASSERT(!dlogits || (dlogits->numel() == logits.numel() && dlogits->contiguous()));
  SG_ASSERT(!dlogits || dlogits->dtype == logits.dtype);
  const int64_t rows = logits.shape[0], classes = logits.shape[1];
  dispatch_float("crossEntropy", logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    A *const loss = row_values<A>(rowLoss, rows), *const norms = row_values<A>(lse, rows);
    const int64_t* const target =
        checked_targets("crossEntropy", targets, rows, classes, ignoreIndex, int64_t(firstRow));
    const ClassWeights<A> weights = class_weights<A>(weight, classes);
    const Flat z(logits);
    const int64_t step = dlogits ? rows_at_once<T>(classes) : rows;
    const A one = 1;
    parallel_for(rows, row_grain(classes), [&](int64_t first, int64_t last) {
      for (int64_t begin = first; begin < last; begin += step) {
        const int64_t end = std::min(last, begin + step);
        SG_ISA_CALL(cross_entropy_rows<T>, z, target, weights, loss, norms, classes, A(smoothing), begin, end);
        if (!dlogits) continue;
        SG_ISA_CALL(cross_entropy_backward_rows, z, target, weights, &one, false, norms, dlogits->ptr<T>(), classes,
                    A(smoothing), begin, end);
      }
    });
    double total = 0, total_weight = 0;
    for (int64_t r = 0; r < rows; r++) {
      total += double(loss[r]);
      if (target[r] >= 0) total_weight += weights.row ? double(weights.row[target[r]]) : 1;
    }
    A* const both = row_values<A>(totals, 2);
    both[0] = A(total);
    both[1] = A(total_weight);
  });
}

void CpuDevice::crossEntropyBackward(In scale, In logits, In targets, MaybeIn weight, In lse, Out dlogits,
                                     double ignoreIndex, double smoothing) {
  SG_ASSERT(logits.ndim == 2 && dlogits.numel() == logits.numel() && dlogits.contiguous());
  SG_ASSERT(dlogits.dtype == logits.dtype);
  const int64_t rows = logits.shape[0], classes = logits.shape[1], scales = scale.numel();
  SG_ASSERT(scales == 1 || scales == rows);
  dispatch_float("crossEntropyBackward", logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const A* const norms = row_values<A>(lse, rows);
    const int64_t* const target = checked_targets("crossEntropyBackward", targets, rows, classes, ignoreIndex);
    const ClassWeights<A> weights = class_weights<A>(weight, classes);
    const A* const s = parameter_row(scale, scratch<A>(Scratch::kSharedC, size_t(scales)));
    const Flat z(logits);
    parallel_for(rows, row_grain(classes), [&](int64_t begin, int64_t end) {
      SG_ISA_CALL(cross_entropy_backward_rows, z, target, weights, s, scales > 1, norms, dlogits.ptr<T>(), classes,
                  A(smoothing), begin, end);
    });
  });
}

}  // namespace sg
