// Cross-entropy, backward. With s = smoothing, w the class weights and p = e^(logit - lse) the probabilities,
//   dlogits[c] = scale * (p[c] * ((1-s) w[t] + s/V sum(w)) - s/V w[c] - (1-s) w[t] [c = t]).
// An element depends on no other of its row, so it can be written where it was read.
#include "loss.cuh"

namespace sg {

namespace gpu {
namespace {

template <class T>
struct LossGradient {
  using A = accumulate_t<T>;
  LogitRows<T> logits;
  Targets targets;
  ClassWeights<A> weights;
  const void* scale;  // null: 1
  DType scale_dtype;
  int64_t scale_stride;  // 0: one for all
  const A* lse;
  T* dlogits;
  int64_t rows, n;
  A smoothing;
  FaultSink faults;
};

// kWeighted: every class takes its own weight off.
template <class T, int kTeam, bool kWeighted>
__global__ void __launch_bounds__(kTeamBlock<kTeam>) cross_entropy_backward_kernel(LossGradient<T> a) {
  using A = accumulate_t<T>;
  constexpr int kCount = Pack<T>::kCount;
  const int64_t row = int64_t(blockIdx.x) * kTeamsInBlock<kTeam> + threadIdx.x / kTeam;
  if (row >= a.rows) return;
  const int64_t given = a.targets.given(row), target = a.targets[row], n = a.n;
  T* const out = a.dlogits + row * n;
  if (target < 0) {
    for (int64_t i = threadIdx.x % kTeam; i < n; i += kTeam) out[i] = T(A(0));
    if (threadIdx.x % kTeam == 0 && !a.targets.is_ignored(given)) {
      raise_fault(a.faults, FaultKind::kClass, given, row, n);
    }
    return;
  }
  const T* const z = a.logits.data + row * a.logits.stride;
  const A scale = a.scale ? load_any<Lane<A>>(a.scale, a.scale_dtype, row * a.scale_stride).v : A(1);
  const A share = a.smoothing / A(n), weight = a.weights.of(target), lse = a.lse[row];
  const A slope = scale * ((1 - a.smoothing) * weight + share * a.weights.total(n));
  const A even = scale * share, off_target = scale * (share + (1 - a.smoothing)) * weight;
  const auto gradient = [&](int64_t c, A x) {
    const A off = c == target ? off_target : kWeighted ? even * a.weights.row[c] : even;
    return T(quick_exp(x - lse) * slope - off);
  };
  const bool in_packs = (reinterpret_cast<uintptr_t>(z) - reinterpret_cast<uintptr_t>(out)) % 16 == 0;
  walk_row<kTeam>(
      z, n, in_packs,
      [&](int64_t first, const Pack<T>& pack) {
        Pack<T> result;
#pragma unroll
        for (int i = 0; i < kCount; i++) result.at[i] = gradient(first + i, A(pack.at[i]));
        *reinterpret_cast<Pack<T>*>(out + first) = result;
      },
      [&](int64_t c) { out[c] = gradient(c, A(z[c])); });
}

}  // namespace

void cross_entropy_gradient(CudaDevice& device, MaybeIn scale, In logits, In targets, MaybeIn weight, In lse,
                            Out dlogits, double ignore_index, double smoothing) {
  SG_ASSERT(logits.ndim == 2 && dlogits.numel() == logits.numel() && dlogits.contiguous());
  SG_ASSERT(dlogits.dtype == logits.dtype);
  const int64_t rows = logits.shape[0], classes = logits.shape[1], scales = scale ? scale->numel() : 1;
  SG_ASSERT(scales == 1 || (scales == rows && scale->ndim == 1));
  if (rows == 0) return;
  dispatch_float("crossEntropyBackward", logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    SG_ASSERT(lse.dtype == DTypeOf<A>::value && lse.contiguous() && lse.numel() == rows);
    CudaQueue& queue = CudaQueue::current();
    Scratch scratch;
    const LossGradient<T> a{LogitRows<T>(device, logits, scratch),
                            Targets("crossEntropyBackward", targets, rows, classes, ignore_index),
                            class_weights<A>(device, weight, classes, smoothing > 0, scratch),
                            scale ? scale->data : nullptr,
                            scale ? scale->dtype : DTypeOf<A>::value,
                            scales > 1 ? scale->strides[0] : 0,
                            lse.ptr<const A>(),
                            dlogits.ptr<T>(),
                            rows,
                            classes,
                            A(smoothing),
                            FaultSink{queue.fault_record(), "crossEntropyBackward", nullptr}};
    for_logits(classes, [&](auto team) {
      constexpr int kTeam = team;
      const unsigned blocks = unsigned((rows + kTeamsInBlock<kTeam> - 1) / kTeamsInBlock<kTeam>);
      const auto kernel = weight && smoothing > 0 ? cross_entropy_backward_kernel<T, kTeam, true>
                                                  : cross_entropy_backward_kernel<T, kTeam, false>;
      launch(kernel, blocks, kTeamBlock<kTeam>, 0, queue.stream(), a);
    });
  });
}

}  // namespace gpu

void CudaDevice::crossEntropyBackward(In scale, In logits, In targets, MaybeIn weight, In lse, Out dlogits,
                                      double ignoreIndex, double smoothing) {
  gpu::cross_entropy_gradient(*this, MaybeIn{&scale}, logits, targets, weight, lse, dlogits, ignoreIndex, smoothing);
}

}  // namespace sg
