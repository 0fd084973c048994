// The optimizer rules applied to chunks of tensors.
#include "../../ops/optim_rules.h"
#include "loops.h"
#include "philox.h"

// Rounds n neighbours to bfloat16, in place, of which the first is element `first` of the whole parameter; at most one
// block of BlockAccess. Out of line: its memory would burden the loops of those who do not round.
[[gnu::noinline]] KT void round_neighbours(const PhiloxKey& key, int64_t first, float* x, int64_t n) {
  constexpr int64_t kMost = BlockAccess<float>::kElements;
  // the halves of the words, the lower ones first, of a block more than there are numbers, and of whole registers
  alignas(64) uint16_t random[kMost + kRoundingBlock * kPhiloxLanes];
  const int64_t skipped = first % kRoundingBlock;
  philox_words(key, uint64_t(first / kRoundingBlock), (skipped + n + kRoundingBlock - 1) / kRoundingBlock,
               reinterpret_cast<uint32_t*>(random));
  uint32_t bits[kMost];
  std::memcpy(bits, x, size_t(n) * 4);
  for (int64_t i = 0; i < n; i++) bits[i] = round_stochastically(bits[i], random[skipped + i]);
  std::memcpy(x, bits, size_t(n) * 4);
}

// The same for so few that most of a register's numbers would be for nothing.
KT void round_few(const PhiloxKey& key, int64_t first, float* x, int64_t n) {
  for (int64_t i = 0; i < n;) {
    const Philox4 random = philox(key, uint64_t(first + i) / kRoundingBlock);
    for (int k = int((first + i) % kRoundingBlock); k < kRoundingBlock && i < n; k++, i++)
      x[i] = std::bit_cast<float>(round_stochastically(std::bit_cast<uint32_t>(x[i]), rounding_bits(random, k)));
  }
}

// Of a tensor that is a part of its parameter: n elements from its own `begin` on.
[[gnu::noinline]] KT void round_piece(const StepTensor& step, int64_t begin, float* x, int64_t n) {
  for (const int64_t end = begin + n; begin < end;) {
    const Piece::Place at = step.piece.find(begin);
    const int64_t run = std::min(at.left, end - begin);
    if (run < kRoundingBlock * kPhiloxLanes / 2) round_few(step.rounding, at.element, x, run);
    else round_neighbours(step.rounding, at.element, x, run);
    begin += run;
    x += run;
  }
}

// One chunk of one tensor under a rule, a block at a time: what is not of type A is converted on the way. Without
// kUpdates the parameter stays, and the squared norms of it and of what the rule returns are written to `squares`.
template <class V, bool kUpdates = true, class Rule>
KT void run_chunk(const StepPlan& plan, int tensor, int64_t begin, const Rule& rule, double* squares = nullptr) {
  using A = typename V::value;
  using Access = BlockAccess<A>;
  const Access target(plan.target(tensor)), gradient(plan.gradient(tensor)), copy(plan.parameter(tensor));
  const StepPlan::Tensor& step = plan.steps[tensor];
  const V factor(A(step.gradient_factor));
  A* const buffer = scratch<A>(Scratch::kLocalA, (2 + kMaxStates) * Access::kElements);
  const auto piece = [&](int k) { return buffer + k * Access::kElements; };
  const int64_t end = std::min(plan.target(tensor).numel(), begin + TensorChunks::kElements);
  V parameter_squares(A(0)), result_squares(A(0));
  for (int64_t b = begin; b < end; b += Access::kElements) {
    const int64_t n = std::min(end - b, Access::kElements);
    A *const p = target.open(b, n, piece(0)), *const g = gradient.open(b, n, piece(1));
    A* state[kMaxStates] = {};
    for (int k = 0; k < kMaxStates; k++)
      if (step.used >> k & 1) state[k] = Access(plan.state(k, tensor)).open(b, n, piece(2 + k));
    each<V>(n, [&](int64_t i, auto... rest) KL {
      const auto get = [&](int k) KL { return load<V>(state[k] + i, rest...); };
      const auto set = [&](int k, V v) KL { store(state[k] + i, v, rest...); };
      const V old = load<V>(p + i, rest...), result = rule(old, load<V>(g + i, rest...) * factor, get, set);
      if constexpr (kUpdates) {
        store(p + i, result, rest...);
      } else {
        const V kept = keep(result, rest...);
        parameter_squares = fma(old, old, parameter_squares);
        result_squares = fma(kept, kept, result_squares);
      }
    });
    for (int k = 0; k < kMaxStates; k++)
      if (state[k]) Access(plan.state(k, tensor)).close(b, n, state[k]);
    if (!kUpdates) continue;
    if constexpr (std::is_same_v<A, float>)
      if (step.stochastic) {
        if (step.piece.numbers) round_piece(step, b, p, n);
        else round_neighbours(step.rounding, b, p, n);
      }
    target.close(b, n, p);
    if (plan.copies(tensor)) copy.store(b, n, p);
  }
  if (kUpdates) return;
  squares[0] = double(reduce_add(parameter_squares));
  squares[1] = double(reduce_add(result_squares));
}

template <template <class> class Rule>
KT void take_step(const StepPlan& plan, const TensorChunks& chunks) {
  chunks.parallel([&](int64_t, int tensor, int64_t begin) KT {
    const StepTensor& step = plan.steps[tensor];
    if (step.skip) return;
    if (plan.in_double(tensor)) run_chunk<vd>(plan, tensor, begin, Rule<vd>(step));
    else run_chunk<vf>(plan, tensor, begin, Rule<vf>(step));
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
    if (plan.in_double(tensor)) run_chunk<vd, false>(plan, tensor, begin, LambMoments<vd>(step), squares[chunk]);
    else run_chunk<vf, false>(plan, tensor, begin, LambMoments<vf>(step), squares[chunk]);
  });
}

KT void lamb_update(const StepPlan& plan, const TensorChunks& chunks, const double* trust) {
  chunks.parallel([&](int64_t, int tensor, int64_t begin) KT {
    const StepTensor& step = plan.steps[tensor];
    if (step.skip) return;
    if (plan.in_double(tensor)) run_chunk<vd>(plan, tensor, begin, LambUpdate<vd>(step, trust[tensor]));
    else run_chunk<vf>(plan, tensor, begin, LambUpdate<vf>(step, trust[tensor]));
  });
}
