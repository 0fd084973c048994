// The optimizer rules, one pass over parameter, gradient and states. A rule is built for a tensor from its options and
// turns a gradient (already scaled) and a parameter into the new parameter, register by register, updating its states
// on the way. Formulas and their order are PyTorch's, with `V` the register and coefficients rounded from double.
#include "loops.h"

// torch.optim.SGD; the first step fills the momentum buffer with the gradient.
template <class V>
struct Sgd {
  static constexpr bool kUpdates = true;
  using A = typename V::value;
  V decay, rate, momentum, undamped;
  bool has_momentum, nesterov, first_step;
  unsigned used;  // bit k: state list k

  KI explicit Sgd(const StepTensor& t)
      : decay(A(t.weight_decay)),
        rate(A(t.learning_rate)),
        momentum(A(t.options[0])),
        undamped(A(1 - t.options[1])),
        has_momentum(t.options[0] != 0),
        nesterov(t.options[2] != 0),
        first_step(t.count == 1),
        used(has_momentum ? 1 : 0) {}

  template <class... Rest>
  KI V operator()(V p, V g, A* const* state, int64_t i, Rest... rest) const {
    g = fma(decay, p, g);
    if (has_momentum) {
      const V b = first_step ? g : fma(momentum, load<V>(state[0] + i, rest...), undamped * g);
      store(state[0] + i, b, rest...);
      g = nesterov ? fma(momentum, b, g) : b;
    }
    return fnma(rate, g, p);
  }
};

// torch.optim.Adam and AdamW
template <class V>
struct Adam {
  static constexpr bool kUpdates = true;
  using A = typename V::value;
  V decay, shrink, blend1, beta2, blend2, eps, step_size, correction2;
  bool amsgrad, decoupled;
  unsigned used;

  KI explicit Adam(const StepTensor& t)
      : decay(A(t.weight_decay)),
        shrink(A(1 - t.learning_rate * t.weight_decay)),
        blend1(A(1 - t.options[0])),
        beta2(A(t.options[1])),
        blend2(A(1 - t.options[1])),
        eps(A(t.options[2])),
        step_size(A(t.learning_rate / (1 - std::pow(t.options[0], t.count)))),
        correction2(A(1 / std::sqrt(1 - std::pow(t.options[1], t.count)))),
        amsgrad(t.options[3] != 0),
        decoupled(t.options[4] != 0),
        used(amsgrad ? 7 : 3) {}

  template <class... Rest>
  KI V operator()(V p, V g, A* const* state, int64_t i, Rest... rest) const {
    if (decoupled) p *= shrink;
    else g = fma(decay, p, g);
    V m = load<V>(state[0] + i, rest...), v = load<V>(state[1] + i, rest...);
    m = fma(blend1, g - m, m);
    v = fma(blend2 * g, g, beta2 * v);
    store(state[0] + i, m, rest...);
    store(state[1] + i, v, rest...);
    if (amsgrad) {
      v = max(load<V>(state[2] + i, rest...), v);
      store(state[2] + i, v, rest...);
    }
    return fnma(step_size, m / fma(sqrt(v), correction2, eps), p);
  }
};

// torch.optim.Adagrad
template <class V>
struct Adagrad {
  static constexpr bool kUpdates = true;
  using A = typename V::value;
  V decay, rate, eps;
  unsigned used = 1;

  KI explicit Adagrad(const StepTensor& t)
      : decay(A(t.weight_decay)), rate(A(t.learning_rate / (1 + (t.count - 1) * t.options[0]))), eps(A(t.options[1])) {}

  template <class... Rest>
  KI V operator()(V p, V g, A* const* state, int64_t i, Rest... rest) const {
    g = fma(decay, p, g);
    const V total = fma(g, g, load<V>(state[0] + i, rest...));
    store(state[0] + i, total, rest...);
    return fnma(rate, g / (sqrt(total) + eps), p);
  }
};

// torch.optim.RMSprop; states: average of squares, momentum buffer, average of gradients
template <class V>
struct RmsProp {
  static constexpr bool kUpdates = true;
  using A = typename V::value;
  V decay, rate, alpha, blend, eps, momentum;
  bool has_momentum, centered;
  unsigned used;

  KI explicit RmsProp(const StepTensor& t)
      : decay(A(t.weight_decay)),
        rate(A(t.learning_rate)),
        alpha(A(t.options[0])),
        blend(A(1 - t.options[0])),
        eps(A(t.options[1])),
        momentum(A(t.options[2])),
        has_momentum(t.options[2] != 0),
        centered(t.options[3] != 0),
        used(1 | (has_momentum ? 2 : 0) | (centered ? 4 : 0)) {}

  template <class... Rest>
  KI V operator()(V p, V g, A* const* state, int64_t i, Rest... rest) const {
    g = fma(decay, p, g);
    V square = fma(blend * g, g, alpha * load<V>(state[0] + i, rest...));
    store(state[0] + i, square, rest...);
    if (centered) {
      V mean = load<V>(state[2] + i, rest...);
      mean = fma(blend, g - mean, mean);
      store(state[2] + i, mean, rest...);
      square = max(V(0), fnma(mean, mean, square));  // rounding may leave a constant gradient below zero
    }
    g = g / (sqrt(square) + eps);
    if (has_momentum) {
      g = fma(momentum, load<V>(state[1] + i, rest...), g);
      store(state[1] + i, g, rest...);
    }
    return fnma(rate, g, p);
  }
};

// Lion, algorithm 2 of Chen et al. 2023. A NaN passes into the parameter: as a sign it would vanish.
template <class V>
struct Lion {
  static constexpr bool kUpdates = true;
  using A = typename V::value;
  V shrink, rate, blend1, blend2;
  unsigned used = 1;

  KI explicit Lion(const StepTensor& t)
      : shrink(A(1 - t.learning_rate * t.weight_decay)),
        rate(A(t.learning_rate)),
        blend1(A(1 - t.options[0])),
        blend2(A(1 - t.options[1])) {}

  template <class... Rest>
  KI V operator()(V p, V g, A* const* state, int64_t i, Rest... rest) const {
    const V m = load<V>(state[0] + i, rest...), c = fma(blend1, g - m, m);
    store(state[0] + i, fma(blend2, g - m, m), rest...);
    return fnma(rate, select(c > V(0), V(1), select(c < V(0), V(-1), c)), p * shrink);
  }
};

// The first half of LAMB (You et al. 2020): Adam's moments, and the squared norms of the parameter and of the update
//   u = m_hat / (sqrt(v_hat) + eps) + weightDecay p
template <class V>
struct LambMoments {
  static constexpr bool kUpdates = false;
  using A = typename V::value;
  V decay, blend1, beta2, blend2, eps, correction1, correction2;
  V parameter_squares{A(0)}, update_squares{A(0)};
  unsigned used = 3;

  KI explicit LambMoments(const StepTensor& t)
      : decay(A(t.weight_decay)),
        blend1(A(1 - t.options[0])),
        beta2(A(t.options[1])),
        blend2(A(1 - t.options[1])),
        eps(A(t.options[2])),
        correction1(A(1 / (1 - std::pow(t.options[0], t.count)))),
        correction2(A(1 / std::sqrt(1 - std::pow(t.options[1], t.count)))) {}

  KI V update(V p, V m, V v) const { return fma(decay, p, m * correction1 / fma(sqrt(v), correction2, eps)); }

  template <class... Rest>
  KI V operator()(V p, V g, A* const* state, int64_t i, Rest... rest) {
    V m = load<V>(state[0] + i, rest...), v = load<V>(state[1] + i, rest...);
    m = fma(blend1, g - m, m);
    v = fma(blend2 * g, g, beta2 * v);
    store(state[0] + i, m, rest...);
    store(state[1] + i, v, rest...);
    const V u = keep(update(p, m, v), rest...);
    parameter_squares = fma(p, p, parameter_squares);
    update_squares = fma(u, u, update_squares);
    return p;
  }
};

// The second half: the update again, from the moments, times the learning rate and the trust ratio.
template <class V>
struct LambUpdate {
  static constexpr bool kUpdates = true;
  using A = typename V::value;
  LambMoments<V> moments;
  V rate;
  unsigned used = 3;

  KI LambUpdate(const StepTensor& t, double trust) : moments(t), rate(A(t.learning_rate * trust)) {}

  template <class... Rest>
  KI V operator()(V p, V, A* const* state, int64_t i, Rest... rest) const {
    const V u = moments.update(p, load<V>(state[0] + i, rest...), load<V>(state[1] + i, rest...));
    return fnma(rate, u, p);
  }
};

// One chunk of one tensor under a rule, a block at a time: what is not of type A is converted on the way.
template <class V, class Rule>
KT void run_chunk(const StepPlan& plan, int tensor, int64_t begin, Rule& rule) {
  using A = typename V::value;
  using Access = BlockAccess<A>;
  const Access target(plan.target(tensor)), gradient(plan.gradient(tensor)), copy(plan.parameter(tensor));
  const V factor(A(plan.steps[tensor].gradient_factor));
  A* const buffer = scratch<A>(Scratch::kLocalA, (2 + kMaxStates) * Access::kElements);
  const auto piece = [&](int k) { return buffer + k * Access::kElements; };
  const int64_t end = std::min(plan.target(tensor).numel(), begin + TensorChunks::kElements);
  for (int64_t b = begin; b < end; b += Access::kElements) {
    const int64_t n = std::min(end - b, Access::kElements);
    A *const p = target.open(b, n, piece(0)), *const g = gradient.open(b, n, piece(1));
    A* state[kMaxStates] = {};
    for (int k = 0; k < kMaxStates; k++) {
      if (!(rule.used >> k & 1)) continue;
      SG_ASSERT(k < plan.states);
      state[k] = Access(plan.state(k, tensor)).open(b, n, piece(2 + k));
    }
    each<V>(n, [&](int64_t i, auto... rest) KL {
      const V updated = rule(load<V>(p + i, rest...), load<V>(g + i, rest...) * factor, state, i, rest...);
      if (Rule::kUpdates) store(p + i, updated, rest...);
    });
    for (int k = 0; k < kMaxStates; k++)
      if (state[k]) Access(plan.state(k, tensor)).close(b, n, state[k]);
    if (!Rule::kUpdates) continue;
    target.close(b, n, p);
    if (plan.copies(tensor)) copy.store(b, n, p);
  }
}

inline bool in_double(const StepPlan& plan, int tensor) { return plan.target(tensor).dtype == DType::k_float64; }

template <template <class> class Rule>
KT void take_step(const StepPlan& plan, const TensorChunks& chunks) {
  chunks.parallel([&](int64_t, int tensor, int64_t begin) KT {
    const StepTensor& step = plan.steps[tensor];
    if (step.skip) return;
    if (in_double(plan, tensor)) {
      Rule<vd> rule(step);
      run_chunk<vd>(plan, tensor, begin, rule);
    } else {
      Rule<vf> rule(step);
      run_chunk<vf>(plan, tensor, begin, rule);
    }
  });
}

KT void sgd_step(const StepPlan& plan, const TensorChunks& chunks) { take_step<Sgd>(plan, chunks); }
KT void adam_step(const StepPlan& plan, const TensorChunks& chunks) { take_step<Adam>(plan, chunks); }
KT void adagrad_step(const StepPlan& plan, const TensorChunks& chunks) { take_step<Adagrad>(plan, chunks); }
KT void rmsprop_step(const StepPlan& plan, const TensorChunks& chunks) { take_step<RmsProp>(plan, chunks); }
KT void lion_step(const StepPlan& plan, const TensorChunks& chunks) { take_step<Lion>(plan, chunks); }

// `squares`: of parameter and update, for each chunk.
KT void lamb_moments(const StepPlan& plan, const TensorChunks& chunks, double (*squares)[2]) {
  chunks.parallel([&](int64_t chunk, int tensor, int64_t begin) KT {
    const StepTensor& step = plan.steps[tensor];
    if (step.skip) return;
    if (in_double(plan, tensor)) {
      LambMoments<vd> rule(step);
      run_chunk<vd>(plan, tensor, begin, rule);
      squares[chunk][0] = reduce_add(rule.parameter_squares);
      squares[chunk][1] = reduce_add(rule.update_squares);
    } else {
      LambMoments<vf> rule(step);
      run_chunk<vf>(plan, tensor, begin, rule);
      squares[chunk][0] = double(reduce_add(rule.parameter_squares));
      squares[chunk][1] = double(reduce_add(rule.update_squares));
    }
  });
}

KT void lamb_update(const StepPlan& plan, const TensorChunks& chunks, const double* trust) {
  chunks.parallel([&](int64_t, int tensor, int64_t begin) KT {
    const StepTensor& step = plan.steps[tensor];
    if (step.skip) return;
    if (in_double(plan, tensor)) {
      LambUpdate<vd> rule(step, trust[tensor]);
      run_chunk<vd>(plan, tensor, begin, rule);
    } else {
      LambUpdate<vf> rule(step, trust[tensor]);
      run_chunk<vf>(plan, tensor, begin, rule);
    }
  });
}
