// The optimizer rules, in lanes, for every backend. A rule is built for a tensor from its options, and turns a
// parameter and a gradient (already scaled) into the new parameter, updating its states on the way: get(k) and set(k,
// v) are state list k of these elements. Formulas and their order are PyTorch's; coefficients are rounded from double.
//
// Included inside a namespace that has the lanes, as functors.h is: no include guard.

// torch.optim.SGD; the first step fills the momentum buffer with the gradient.
template <class V>
struct Sgd {
  using A = typename V::value;
  V decay, rate, momentum, undamped;
  bool has_momentum, nesterov, first_step;

  KI explicit Sgd(const StepTensor& t)
      : decay(A(t.weight_decay)),
        rate(A(t.learning_rate)),
        momentum(A(t.options[0])),
        undamped(A(1 - t.options[1])),
        has_momentum(t.options[0] != 0),
        nesterov(t.options[2] != 0),
        first_step(t.count == 1) {}

  template <class Get, class Set>
  KI V operator()(V p, V g, const Get& get, const Set& set) const {
    g = fma(decay, p, g);
    if (has_momentum) {
      const V b = first_step ? g : fma(momentum, get(0), undamped * g);
      set(0, b);
      g = nesterov ? fma(momentum, b, g) : b;
    }
    return fnma(rate, g, p);
  }
};

// torch.optim.Adam and AdamW
template <class V>
struct Adam {
  using A = typename V::value;
  V decay, shrink, blend1, beta2, blend2, eps, step_size, correction2;
  bool amsgrad, decoupled;

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
        decoupled(t.options[4] != 0) {}

  template <class Get, class Set>
  KI V operator()(V p, V g, const Get& get, const Set& set) const {
    if (decoupled) p = p * shrink;
    else g = fma(decay, p, g);
    V m = get(0), v = get(1);
    m = fma(blend1, g - m, m);
    v = fma(blend2 * g, g, beta2 * v);
    set(0, m);
    set(1, v);
    if (amsgrad) {
      const V most = get(2);
      v = select(most > v, most, v);
      set(2, v);
    }
    return fnma(step_size, m / fma(sqrt(v), correction2, eps), p);
  }
};

// torch.optim.Adagrad
template <class V>
struct Adagrad {
  using A = typename V::value;
  V decay, rate, eps;

  KI explicit Adagrad(const StepTensor& t)
      : decay(A(t.weight_decay)), rate(A(t.learning_rate / (1 + (t.count - 1) * t.options[0]))), eps(A(t.options[1])) {}

  template <class Get, class Set>
  KI V operator()(V p, V g, const Get& get, const Set& set) const {
    g = fma(decay, p, g);
    const V total = fma(g, g, get(0));
    set(0, total);
    return fnma(rate, g / (sqrt(total) + eps), p);
  }
};

// torch.optim.RMSprop; states: average of squares, momentum buffer, average of gradients
template <class V>
struct RmsProp {
  using A = typename V::value;
  V decay, rate, alpha, blend, eps, momentum;
  bool has_momentum, centered;

  KI explicit RmsProp(const StepTensor& t)
      : decay(A(t.weight_decay)),
        rate(A(t.learning_rate)),
        alpha(A(t.options[0])),
        blend(A(1 - t.options[0])),
        eps(A(t.options[1])),
        momentum(A(t.options[2])),
        has_momentum(t.options[2] != 0),
        centered(t.options[3] != 0) {}

  template <class Get, class Set>
  KI V operator()(V p, V g, const Get& get, const Set& set) const {
    g = fma(decay, p, g);
    V square = fma(blend * g, g, alpha * get(0));
    set(0, square);
    if (centered) {
      V mean = get(2);
      mean = fma(blend, g - mean, mean);
      set(2, mean);
      square = fnma(mean, mean, square);
      square = select(square < V(0), V(0), square);  // rounding may leave a constant gradient below zero
    }
    g = g / (sqrt(square) + eps);
    if (has_momentum) {
      g = fma(momentum, get(1), g);
      set(1, g);
    }
    return fnma(rate, g, p);
  }
};

// Lion, algorithm 2 of Chen et al. 2023. A NaN passes into the parameter: as a sign it would vanish.
template <class V>
struct Lion {
  using A = typename V::value;
  V shrink, rate, blend1, blend2;

  KI explicit Lion(const StepTensor& t)
      : shrink(A(1 - t.learning_rate * t.weight_decay)),
        rate(A(t.learning_rate)),
        blend1(A(1 - t.options[0])),
        blend2(A(1 - t.options[1])) {}

  template <class Get, class Set>
  KI V operator()(V p, V g, const Get& get, const Set& set) const {
    const V m = get(0), c = fma(blend1, g - m, m);
    set(0, fma(blend2, g - m, m));
    return fnma(rate, select(c > V(0), V(1), select(c < V(0), V(-1), c)), p * shrink);
  }
};

// The first half of LAMB (You et al. 2020): Adam's moments. The parameter stays; what is returned is the update
//   u = m_hat / (sqrt(v_hat) + eps) + weightDecay p,
// whose norm, and that of the parameter, decide about the length of the step.
template <class V>
struct LambMoments {
  using A = typename V::value;
  V decay, blend1, beta2, blend2, eps, correction1, correction2;

  KI explicit LambMoments(const StepTensor& t)
      : decay(A(t.weight_decay)),
        blend1(A(1 - t.options[0])),
        beta2(A(t.options[1])),
        blend2(A(1 - t.options[1])),
        eps(A(t.options[2])),
        correction1(A(1 / (1 - std::pow(t.options[0], t.count)))),
        correction2(A(1 / std::sqrt(1 - std::pow(t.options[1], t.count)))) {}

  KI V update(V p, V m, V v) const { return fma(decay, p, m * correction1 / fma(sqrt(v), correction2, eps)); }

  template <class Get, class Set>
  KI V operator()(V p, V g, const Get& get, const Set& set) const {
    V m = get(0), v = get(1);
    m = fma(blend1, g - m, m);
    v = fma(blend2 * g, g, beta2 * v);
    set(0, m);
    set(1, v);
    return update(p, m, v);
  }
};

// The second half: the update again, from the moments, times the learning rate and the trust ratio.
template <class V>
struct LambUpdate {
  using A = typename V::value;
  LambMoments<V> moments;
  V rate;

  KI LambUpdate(const StepTensor& t, double trust) : moments(t), rate(A(t.learning_rate * trust)) {}

  template <class Get, class Set>
  KI V operator()(V p, V, const Get& get, const Set&) const {
    return fnma(rate, moments.update(p, get(0), get(1)), p);
  }
};
