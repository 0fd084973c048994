// Cross-entropy of rows of logits. A row's loss is taken from (logit - largest) and log(sum), not from lse - logit,
// which would cancel for large logits; the backward pass has one number a row, lse, and makes the probabilities from
// it.
#include "loops.h"

template <class T>
KT void cross_entropy_rows(const Flat& logits, const int64_t* targets, ClassWeights<accumulate_t<T>> weights,
                           accumulate_t<T>* loss, accumulate_t<T>* lse, int64_t n, accumulate_t<T> smoothing,
                           int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  using A = accumulate_t<T>;
  for (int64_t r = begin; r < end; r++) {
    const int64_t target = targets[r];
    if (target < 0) {  // ignored
      loss[r] = lse[r] = 0;
      continue;
    }
    const T* const z = logits.read<T>(r * n, n, Scratch::kLocalA);
    const A top = largest<V>(z, n);
    const V vtop(top);
    const A log_total =
        std::log(sum<V, 1>(n, [&](int64_t i, auto... rest) KL { return exp(load<V>(z + i, rest...) - vtop); }));
    lse[r] = top + log_total;
    const A weight = weights.row ? weights.row[target] : A(1);
    loss[r] = (1 - smoothing) * weight * (log_total - (A(z[target]) - top));
    if (smoothing > 0) {
      // log_total is kept out of the sum: the same digits in every term would be rounded the same way every time.
      const auto distance = [&](int64_t i, auto... rest) KL {
        const V d = load<V>(z + i, rest...) - vtop;
        if (!weights.row) return d;
        return d * load<V>(weights.row + i, rest...);
      };
      loss[r] += smoothing / A(n) * (weights.sum * log_total - sum<V>(n, distance));
    }
  }
}

// With s = smoothing, w the class weights and p the probabilities:
//   dlogits[c] = scale * (p[c] * ((1-s) w[t] + s/V sum(w)) - s/V w[c] - (1-s) w[t] [c = t])
template <class T>
KT void cross_entropy_backward_rows(const Flat& logits, const int64_t* targets, ClassWeights<accumulate_t<T>> weights,
                                    const accumulate_t<T>* scale, bool scale_per_row, const accumulate_t<T>* lse,
                                    T* dlogits, int64_t n, accumulate_t<T> smoothing, int64_t begin, int64_t end) {
  using V = lanes_of<T>;
  using A = accumulate_t<T>;
  const A share = smoothing / A(n);
  for (int64_t r = begin; r < end; r++) {
    const int64_t target = targets[r];
    T* const out = dlogits + r * n;
    if (target < 0) {
      std::fill(out, out + n, T(A(0)));
      continue;
    }
    const T* const z = logits.read<T>(r * n, n, Scratch::kLocalA);
    const A s = scale[scale_per_row ? r : 0], weight = weights.row ? weights.row[target] : A(1);
    const A slope = s * ((1 - smoothing) * weight + share * weights.sum);
    // Before the loop: dlogits may be the logits.
    const A at_target = slope * std::exp(A(z[target]) - lse[r]) - s * (share + (1 - smoothing)) * weight;
    const V k(slope), base(lse[r]), even(s * share);
    if (weights.row && smoothing > 0) {
      each<V>(n, [&](int64_t i, auto... rest) KL {
        const V p = exp(load<V>(z + i, rest...) - base);
        store(out + i, fnma(even, load<V>(weights.row + i, rest...), p * k), rest...);
      });
    } else {
      each<V>(n, [&](int64_t i, auto... rest)
                     KL { store(out + i, exp(load<V>(z + i, rest...) - base) * k - even, rest...); });
    }
    out[target] = T(at_target);
  }
}
