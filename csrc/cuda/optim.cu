// Optimizer steps: all parameters of all groups in one launch, after a small one that reads the device buffer, makes
// the coefficients of each tensor and counts its step. The host reads nothing, so a clip factor or a found-inf flag
// that an earlier kernel wrote is seen without a wait, and a step can be captured in a graph.
#include <algorithm>

#include "../ops/step_call.h"
#include "cuda_device.h"
#include "teams.cuh"
#include "tensor_table.cuh"

namespace sg {

namespace gpu {
namespace {

#define KI SG_DEVICE
#include "../ops/optim_rules.h"
#undef KI

// The operands of a row.
enum : int { kTarget, kGradient, kCopy, kState };
constexpr int kOperands = kState + kMaxStates;
using StepTable = TensorTable<kOperands>;
// A row that is stored by stochastic rounding, beside the operands in TensorRow::used.
constexpr uint16_t kStochastic = 1 << 15;

// A tensor's step and its rule in both arithmetics; rows say which one is meant.
template <template <class> class Rule>
struct Prepared {
  StepTensor step;
  Rule<Lane<float>> narrow;
  Rule<Lane<double>> wide;
  template <class L>
  SG_DEVICE const Rule<L>& rule() const {
    if constexpr (std::is_same_v<L, Lane<double>>) return wide;
    else return narrow;
  }
};

constexpr int kPrepareThreads = 64;

// The first thread counts a skip, which nobody else looks at then.
template <template <class> class Rule>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(StepTable table, StepBuffer buffer, StepOptions options, Prepared<Rule>* to) {
  const int i = blockIdx.x * kPrepareThreads + threadIdx.x;
  if (i >= table.count) return;
  if (buffer.found_inf()) {
    to[i].step.skip = true;
    if (i == 0) buffer.data[kSkipped] += 1;
    return;
  }
  options.numbers = table.numbers;
  const auto& tensor = table.rows[i];
  const StepTensor step = buffer.tensor(options, i, tensor.group, (tensor.used & ~kStochastic) >> kState);
  to[i] = {step, Rule<Lane<float>>(step), Rule<Lane<double>>(step)};
  if (!step.skip) buffer.counts()[step.index] = step.count;
}

// What is done with the result of a rule: it is the new parameter, or its square is summed beside the parameter's.
template <bool kUpdates>
struct Outcome {
  double squares[2] = {};
  template <class L>
  SG_DEVICE L operator()(L old, L result) {
    if constexpr (kUpdates) return result;
    squares[0] += double(old.v) * double(old.v);
    squares[1] += double(result.v) * double(result.v);
    return old;
  }
};

static_assert(kLanes == kRoundingBlock);

// Which rows are rounded stochastically: none, some of tensors that are whole, or some of which this is a piece. What
// finds an element's place in the whole takes registers that the other steps need.
enum class Rounding { kNone, kWhole, kPieces };

SG_DEVICE void round_lane(float& value, const Philox4& random, int element) {
  value = float_of(round_stochastically(bits_of(value), rounding_bits(random, element)));
}

// The values of elements i, i + 1, …, i + 7 of a tensor, where i is a multiple of 8.
SG_DEVICE void round_lanes(const StepTensor& step, int64_t i, float (&values)[kLanes]) {
  const Philox4 random = philox(step.rounding, uint64_t(i / kRoundingBlock));
#pragma unroll
  for (int j = 0; j < kLanes; j++) round_lane(values[j], random, j);
}

// The same of a piece.
SG_DEVICE void round_lanes_of_piece(const StepTensor& step, int64_t i, float (&values)[kLanes]) {
  const Piece& piece = step.piece;
  const Piece::Place first = piece.numbers ? piece.find(i) : Piece::Place{i, kLanes};
  if (first.element % kRoundingBlock == 0 && first.left >= kLanes) return round_lanes(step, first.element, values);
  Philox4 random = philox(step.rounding, uint64_t(first.element / kRoundingBlock));
  int64_t element = first.element, left = first.left;
#pragma unroll
  for (int j = 0; j < kLanes; j++, element++, left--) {
    const bool jumps = left == 0;
    if (jumps) {
      const Piece::Place next = piece.find(i + j);
      element = next.element;
      left = next.left;
    }
    if (jumps || element % kRoundingBlock == 0) random = philox(step.rounding, uint64_t(element / kRoundingBlock));
    round_lane(values[j], random, int(element % kRoundingBlock));
  }
}

template <bool kUpdates, Rounding kRounds, class Rule>
SG_DEVICE void step_in_vectors(const Chunk<kOperands>& chunk, const Rule& rule, const StepTensor& step,
                               Outcome<kUpdates>& outcome) {
  using L = Lane<float>;
  const auto& row = *chunk.row;
  const Operand* const operand = row.operand;
  const float factor = float(step.gradient_factor);
  for (int64_t i = chunk.begin + threadIdx.x * kLanes; i + kLanes <= chunk.end; i += kChunkThreads * kLanes) {
    RawLanes raw[kOperands];
#pragma unroll
    for (int k = 0; k < kOperands; k++)
      if (k != kCopy && row.used >> k & 1) raw[k].load(operand[k], i);
    float values[kOperands][kLanes];
#pragma unroll
    for (int k = 0; k < kOperands; k++)
      if (k != kCopy && row.used >> k & 1) raw[k].values(operand[k].dtype, values[k]);
#pragma unroll
    for (int j = 0; j < kLanes; j++) {
      const auto get = [&](int k) { return L(values[kState + k][j]); };
      const auto set = [&](int k, L v) { values[kState + k][j] = v.v; };
      const L old(values[kTarget][j]);
      values[kTarget][j] = outcome(old, rule(old, L(values[kGradient][j]) * L(factor), get, set)).v;
    }
#pragma unroll
    for (int k = 0; k < kMaxStates; k++)
      if (row.used >> (kState + k) & 1) store_lanes(operand[kState + k], i, values[kState + k]);
    if (!kUpdates) continue;
    if constexpr (kRounds != Rounding::kNone) {
      constexpr auto round = kRounds == Rounding::kPieces ? round_lanes_of_piece : round_lanes;
      if (row.used & kStochastic) round(step, i, values[kTarget]);
    }
    store_lanes(operand[kTarget], i, values[kTarget]);
    if (row.used >> kCopy & 1) store_lanes(operand[kCopy], i, values[kTarget]);
  }
}

// Elements [begin, chunk.end), of any type and place.
template <bool kUpdates, Rounding kRounds, class L, class Rule>
SG_DEVICE void step_singly(const Chunk<kOperands>& chunk, int64_t begin, const Layout* layouts, const Rule& rule,
                           const StepTensor& step, Outcome<kUpdates>& outcome) {
  const auto& row = *chunk.row;
  const Operand* const operand = row.operand;
  const typename L::value factor(step.gradient_factor);
  for (int64_t i = begin + threadIdx.x; i < chunk.end; i += kChunkThreads) {
    const auto get = [&](int k) { return load_element<L>(operand[kState + k], layouts, i); };
    const auto set = [&](int k, L v) { store_element(operand[kState + k], layouts, i, v); };
    const L old = load_element<L>(operand[kTarget], layouts, i);
    const L gradient = load_element<L>(operand[kGradient], layouts, i) * L(factor);
    L value = outcome(old, rule(old, gradient, get, set));
    if (!kUpdates) continue;
    if constexpr (kRounds != Rounding::kNone && std::is_same_v<L, Lane<float>>) {
      if (row.used & kStochastic) {
        const bool cut = kRounds == Rounding::kPieces && step.piece.numbers;
        const int64_t element = cut ? step.piece.find(i).element : i;
        round_lane(value.v, philox(step.rounding, uint64_t(element / kRoundingBlock)), int(element % kRoundingBlock));
      }
    }
    store_element(operand[kTarget], layouts, i, value);
    if (row.used >> kCopy & 1) store_element(operand[kCopy], layouts, i, value);
  }
}

// `squares`: of parameter and result, for each chunk; without kUpdates alone.
template <template <class> class Rule, bool kUpdates, Rounding kRounds>
SG_DEVICE void step_chunk(const StepTable& table, const Prepared<Rule>* prepared, double (*squares)[2]) {
  const Chunk<kOperands> chunk(table);
  const Prepared<Rule>& mine = prepared[chunk.tensor];
  if (mine.step.skip) return;
  Outcome<kUpdates> outcome;
  if (chunk.row->in_double) {
    step_singly<kUpdates, kRounds, Lane<double>>(chunk, chunk.begin, table.layouts, mine.wide, mine.step, outcome);
  } else {
    int64_t begin = chunk.begin;
    if (chunk.row->in_vectors) {
      step_in_vectors<kUpdates, kRounds>(chunk, mine.narrow, mine.step, outcome);
      begin = chunk.end - (chunk.end - chunk.begin) % kLanes;
    }
    step_singly<kUpdates, kRounds, Lane<float>>(chunk, begin, table.layouts, mine.narrow, mine.step, outcome);
  }
  if constexpr (!kUpdates) {
    team_sums<kChunkThreads>(outcome.squares);
    if (threadIdx.x > 0) return;
    squares[blockIdx.x][0] = outcome.squares[0];
    squares[blockIdx.x][1] = outcome.squares[1];
  }
}

template <template <class> class Rule, bool kUpdates, Rounding kRounds>
__global__ void __launch_bounds__(kChunkThreads)
    step_kernel(StepTable table, const Prepared<Rule>* prepared, double (*squares)[2]) {
  step_chunk<Rule, kUpdates, kRounds>(table, prepared, squares);
}

template <template <class> class Rule>
__global__ void __launch_bounds__(kChunkThreads) step_pieces_kernel(StepTable table, const Prepared<Rule>* prepared) {
  step_chunk<Rule, true, Rounding::kPieces>(table, prepared, nullptr);
}

// A warp adds up the chunks of one tensor, and makes the rule of LAMB's second half.
__global__ void __launch_bounds__(kWarpSize) lamb_trust_kernel(StepTable table, const Prepared<LambMoments>* moments,
                                                               const double (*squares)[2], Prepared<LambUpdate>* to) {
  const auto& row = table.rows[blockIdx.x];
  const StepTensor& step = moments[blockIdx.x].step;
  if (step.skip) {
    if (threadIdx.x == 0) to[blockIdx.x].step.skip = true;
    return;
  }
  double sums[2] = {};
  const int64_t end = row.first_chunk + (row.count + kChunk - 1) / kChunk;
  for (int64_t chunk = row.first_chunk + threadIdx.x; chunk < end; chunk += kWarpSize) {
    sums[0] += squares[chunk][0];
    sums[1] += squares[chunk][1];
  }
  team_sums<kWarpSize>(sums);
  if (threadIdx.x > 0) return;
  const double trust = lamb_trust(sums[0], sums[1]);
  to[blockIdx.x] = {step, LambUpdate<Lane<float>>(step, trust), LambUpdate<Lane<double>>(step, trust)};
}

TableMaker<kOperands> table_of(const char* name, const StepCall& call) {
  for (int i = 0; i < call.tensors.count; i++) dispatch_float(name, call.tensors[i].dtype, [](auto) {});
  TableMaker<kOperands> maker;
  call.for_tensors([&](int i, int64_t group, unsigned lists) {
    auto& row = maker.add(call.parameter(i).numel());
    const auto use = [&](int operand, const View& v) {
      row.used |= uint16_t(1 << operand);
      maker.put(row, operand, v);
    };
    row.group = int32_t(group);
    row.in_double = call.in_double(i);
    if (call.stochastic(i, group)) row.used = kStochastic;
    use(kTarget, call.target(i));
    use(kGradient, call.gradient(i));
    if (call.copies(i)) use(kCopy, call.parameter(i));
    for (int k = 0; k < kMaxStates; k++)
      if (lists >> k & 1) use(kState + k, call.state(k, i));
  });
  return maker;
}

template <template <class> class Rule>
void update(const StepTable& table, const Prepared<Rule>* prepared, unsigned chunks, Rounding rounding) {
  const cudaStream_t stream = CudaQueue::current().stream();
  if (rounding == Rounding::kPieces)
    return launch(step_pieces_kernel<Rule>, chunks, kChunkThreads, 0, stream, table, prepared);
  const bool rounds = rounding == Rounding::kWhole;
  launch(rounds ? step_kernel<Rule, true, Rounding::kWhole> : step_kernel<Rule, true, Rounding::kNone>, chunks,
         kChunkThreads, 0, stream, table, prepared, nullptr);
}

// f(table, prepared, chunks, how rows are rounded)
template <template <class> class Rule, class F>
void with_step(const char* name, const StepKind& kind, const View& step, double lists, Rest numbers, Ins tensors,
               Scratch& scratch, const F& f) {
  const StepCall call(kind, step, lists, numbers, tensors);
  const TableMaker<kOperands> maker = table_of(name, call);
  if (maker.count() == 0) return;
  const cudaStream_t stream = CudaQueue::current().stream();
  const StepTable table = maker.upload(numbers, scratch, stream);
  const auto prepared = scratch.take<Prepared<Rule>>(size_t(maker.count()));
  launch(prepare_kernel<Rule>, unsigned((maker.count() + kPrepareThreads - 1) / kPrepareThreads), kPrepareThreads, 0,
         stream, table, call.buffer, call.options, prepared);
  Rounding rounding = Rounding::kNone;
  call.for_tensors([&](int i, int64_t group, unsigned) {
    if (!call.stochastic(i, group)) return;
    const double* const whole = call.options.whole(i);
    rounding = std::max(rounding, whole && whole[1] > 0 ? Rounding::kPieces : Rounding::kWhole);
  });
  if (maker.chunks() > 0) f(table, prepared, unsigned(maker.chunks()), rounding);
}

template <template <class> class Rule>
void take_step(const char* name, const StepKind& kind, const View& step, double lists, Rest options, Ins tensors) {
  Scratch scratch;
  with_step<Rule>(name, kind, step, lists, options, tensors, scratch, update<Rule>);
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::sgdStep(In step, double lists, Rest options, Ins tensors) {
  take_step<Sgd>("sgdStep", kSgdStep, step, lists, options, tensors);
}

void CudaDevice::adamStep(In step, double lists, Rest options, Ins tensors) {
  take_step<Adam>("adamStep", kAdamStep, step, lists, options, tensors);
}

void CudaDevice::adagradStep(In step, double lists, Rest options, Ins tensors) {
  take_step<Adagrad>("adagradStep", kAdagradStep, step, lists, options, tensors);
}

void CudaDevice::rmspropStep(In step, double lists, Rest options, Ins tensors) {
  take_step<RmsProp>("rmspropStep", kRmspropStep, step, lists, options, tensors);
}

void CudaDevice::lionStep(In step, double lists, Rest options, Ins tensors) {
  take_step<Lion>("lionStep", kLionStep, step, lists, options, tensors);
}

// Two passes: the length of a tensor's step is known only when all of its update has been seen.
void CudaDevice::lambStep(In step, double lists, Rest options, Ins tensors) {
  Scratch scratch;
  with_step<LambMoments>(
      "lambStep", kLambStep, step, lists, options, tensors, scratch,
      [&](const StepTable& table, const Prepared<LambMoments>* moments, unsigned chunks, Rounding rounding) {
        const cudaStream_t stream = CudaQueue::current().stream();
        const auto squares = reinterpret_cast<double(*)[2]>(scratch.take<double>(2 * size_t(chunks)));
        const auto updates = scratch.take<Prepared<LambUpdate>>(size_t(table.count));
        launch(step_kernel<LambMoments, false, Rounding::kNone>, chunks, kChunkThreads, 0, stream, table, moments,
               squares);
        launch(lamb_trust_kernel, unsigned(table.count), kWarpSize, 0, stream, table, moments, squares, updates);
        update(table, updates, chunks, rounding);
      });
}

}  // namespace sg
