// Cross-entropy of rows of logits, which are read once: the largest logit and the sum of exponentials come together,
// and the sum is scaled down whenever the largest grows. As on the CPU, a row's loss is taken from (logit - largest)
// and log(sum), not from lse - logit, which would cancel for large logits.
#include "loss.cuh"

namespace sg {

namespace gpu {
namespace {

template <class T>
struct LossRows {
  using A = accumulate_t<T>;
  LogitRows<T> logits;
  Targets targets;
  ClassWeights<A> weights;
  A *loss, *lse;
  int64_t rows, n;
  A smoothing;
};

// The sum of e^(x - top) over what was seen, and with smoothing of weight * (x - reference).
template <class A>
struct RowSum {
  A top = -std::numeric_limits<A>::infinity(), sum = 0, distance = 0;

  SG_DEVICE void raise(A to) {
    if (!(to > top)) return;
    sum *= quick_exp(top - to);
    top = to;
  }
  // Nothing but -inf was seen: e^(-inf) is 0 with any shift.
  SG_DEVICE A shift() const { return top == -std::numeric_limits<A>::infinity() ? A(0) : top; }
};

template <class T, int kTeam, bool kSmooth>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) cross_entropy_kernel(LossRows<T> a) {
  using A = accumulate_t<T>;
  constexpr int kCount = Pack<T>::kCount;
  constexpr A kInfinity = std::numeric_limits<A>::infinity();
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const bool speaks = threadIdx.x % kTeam == 0;
  const int64_t target = a.targets[row];
  if (target < 0) {
    if (speaks) a.loss[row] = a.lse[row] = 0;
    return;
  }
  const T* const z = a.logits.data + row * a.logits.stride;
  const A at_target(z[target]);
  // The top is not known yet. -inf would turn the loss, which is infinite then, into NaN.
  const A reference = at_target == -kInfinity ? A(0) : at_target;
  RowSum<A> mine;
  const auto include = [&](int64_t c, A x) {
    mine.sum += quick_exp(x - mine.shift());
    if constexpr (kSmooth) mine.distance += a.weights.of(c) * (x - reference);
  };
  walk_row<kTeam>(
      z, a.n, true,
      [&](int64_t first, const Pack<T>& pack) {
        A top(pack.at[0]);
#pragma unroll
        for (int i = 1; i < kCount; i++) top = A(pack.at[i]) > top ? A(pack.at[i]) : top;
        mine.raise(top);
#pragma unroll
        for (int i = 0; i < kCount; i++) include(first + i, A(pack.at[i]));
      },
      [&](int64_t c) {
        mine.raise(A(z[c]));
        include(c, A(z[c]));
      });
  A top[1] = {mine.top};
  team_fold<kTeam>(top, [](A x, A y) { return x > y ? x : y; });
  A sums[kSmooth ? 2 : 1] = {mine.top == top[0] ? mine.sum : mine.sum * quick_exp(mine.top - top[0])};
  if constexpr (kSmooth) sums[1] = mine.distance;
  team_sums<kTeam>(sums);
  if (!speaks) return;
  // As if x - top had been taken where all are -inf.
  const A log_total = top[0] == -kInfinity ? std::numeric_limits<A>::quiet_NaN() : std::log(sums[0]);
  a.lse[row] = top[0] + log_total;
  A loss = (1 - a.smoothing) * a.weights.of(target) * (log_total - (at_target - top[0]));
  if constexpr (kSmooth) {
    loss += a.smoothing / A(a.n) * (a.weights.total(a.n) * (log_total + (top[0] - reference)) - sums[1]);
  }
  a.loss[row] = loss;
}

// ---- totals

struct Part {
  double loss, weight;
  int64_t wrong_row;
};
constexpr int kTotalThreads = 256;
constexpr int64_t kRowsOfPart = 4096, kNone = std::numeric_limits<int64_t>::max();

template <int kTeam>
SG_DEVICE Part join(double loss, double weight, int64_t wrong_row) {
  double sums[2] = {loss, weight};
  int64_t rows[1] = {wrong_row};
  team_sums<kTeam>(sums);
  team_fold<kTeam>(rows, [](int64_t a, int64_t b) { return a < b ? a : b; });
  return {sums[0], sums[1], rows[0]};
}

template <class A>
__global__ void __launch_bounds__(kTotalThreads)
    totals_kernel(const A* loss, Targets targets, ClassWeights<A> weights, int64_t rows, Part* parts) {
  const int64_t begin = blockIdx.x * kRowsOfPart, end = min(rows, begin + kRowsOfPart);
  double total = 0, weight = 0;
  int64_t wrong = kNone;
  for (int64_t row = begin + threadIdx.x; row < end; row += kTotalThreads) {
    const int64_t target = targets.given(row);
    if (targets.is_ignored(target)) continue;
    if (targets.is_class(target)) {
      total += double(loss[row]);
      weight += double(weights.of(target));
    } else if (wrong == kNone) {
      wrong = row;
    }
  }
  const Part part = join<kTotalThreads>(total, weight, wrong);
  if (threadIdx.x == 0) parts[blockIdx.x] = part;
}

template <class A>
__global__ void finish_totals_kernel(const Part* parts, int64_t count, Targets targets, A* totals, int64_t first_row,
                                     FaultSink faults) {
  Part mine{0, 0, kNone};
  for (int64_t i = threadIdx.x; i < count; i += kWarpSize) {
    mine.loss += parts[i].loss;
    mine.weight += parts[i].weight;
    if (parts[i].wrong_row < mine.wrong_row) mine.wrong_row = parts[i].wrong_row;
  }
  const Part all = join<kWarpSize>(mine.loss, mine.weight, mine.wrong_row);
  if (threadIdx.x > 0) return;
  totals[0] = A(all.loss);
  totals[1] = A(all.weight);
  if (all.wrong_row != kNone) {
    raise_fault(faults, FaultKind::kClass, targets.given(all.wrong_row), first_row + all.wrong_row, targets.classes);
  }
}

template <class A>
__global__ void __launch_bounds__(kTotalThreads) weight_sum_kernel(const A* weights, int64_t n, A* sum) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < n; i += kTotalThreads) total += double(weights[i]);
  total = team_sum<kTotalThreads>(total);
  if (threadIdx.x == 0) *sum = A(total);
}

template <class A>
A* row_values(const View& v, int64_t rows) {
  SG_ASSERT(v.dtype == DTypeOf<A>::value && v.contiguous() && v.numel() == rows);
  return v.ptr<A>();
}

}  // namespace

template <class A>
ClassWeights<A> class_weights(CudaDevice& device, MaybeIn weight, int64_t classes, bool smooth, Scratch& scratch) {
  if (!weight) return {nullptr, nullptr};
  SG_ASSERT(weight->numel() == classes);
  const A* const row = dense<A>(device, *weight, scratch);
  if (!smooth) return {row, nullptr};
  A* const sum = scratch.take<A>(1);
  launch(weight_sum_kernel<A>, 1, kTotalThreads, 0, CudaQueue::current().stream(), row, classes, sum);
  return {row, sum};
}

template ClassWeights<float> class_weights(CudaDevice&, MaybeIn, int64_t, bool, Scratch&);
template ClassWeights<double> class_weights(CudaDevice&, MaybeIn, int64_t, bool, Scratch&);

}  // namespace gpu

using namespace gpu;

void CudaDevice::crossEntropy(In logits, In targets, MaybeIn weight, Out rowLoss, Out lse, Out totals, MaybeOut dlogits,
                              double ignoreIndex, double smoothing, double firstRow) {
  SG_ASSERT(logits.ndim == 2);
  const int64_t rows = logits.shape[0], classes = logits.shape[1];
  dispatch_float("crossEntropy", logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    CudaQueue& queue = CudaQueue::current();
    Scratch scratch;
    const Targets classes_of("crossEntropy", targets, rows, classes, ignoreIndex);
    const ClassWeights<A> weights = class_weights<A>(*this, weight, classes, smoothing > 0, scratch);
    A* const loss = row_values<A>(rowLoss, rows);
    const LossRows<T> a{LogitRows<T>(*this, logits, scratch),
                        classes_of,
                        weights,
                        loss,
                        row_values<A>(lse, rows),
                        rows,
                        classes,
                        A(smoothing)};
    if (rows > 0) {
      for_logits(classes, [&](auto team) {
        constexpr int kTeam = team;
        const unsigned blocks = unsigned((rows + kTeamsInBlock<kTeam> - 1) / kTeamsInBlock<kTeam>);
        const auto kernel =
            smoothing > 0 ? cross_entropy_kernel<T, kTeam, true> : cross_entropy_kernel<T, kTeam, false>;
        launch(kernel, blocks, kTeamBlock<kTeam>, 0, queue.stream(), a);
      });
    }
    const int64_t parts = (rows + kRowsOfPart - 1) / kRowsOfPart;
    Part* const part = scratch.take<Part>(size_t(parts));
    if (parts > 0) {
      launch(totals_kernel<A>, unsigned(parts), kTotalThreads, 0, queue.stream(), loss, classes_of, weights, rows,
             part);
    }
    launch(finish_totals_kernel<A>, 1, kWarpSize, 0, queue.stream(), part, parts, classes_of, row_values<A>(totals, 2),
           int64_t(firstRow), FaultSink{queue.fault_record(), "crossEntropy", nullptr});
  });
  if (dlogits) cross_entropy_gradient(*this, {}, logits, targets, weight, lse, *dlogits, ignoreIndex, smoothing);
}

}  // namespace sg
