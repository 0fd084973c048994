// An optimizer call of optim.h taken apart. Sizes are checked against each other here, since kernels address all lists
// of a tensor by the element count of its parameter. What lies in the device buffer is left to those who can read it.
#pragma once
#include <cmath>

#include "../core/host_device.h"
#include "../core/philox.h"
#include "../core/view.h"
#include "optim.h"
#include "piece.h"
#include "stochastic.h"

namespace sg {

inline constexpr int kMaxStates = 3;

// What the steps differ in outside of their kernels: the fields of a group's options, after the four that all have,
// and the state lists that a step with these fields touches (bit k: list k).
struct StepKind {
  int fields;
  unsigned (*used)(const double* fields);
};
inline constexpr StepKind kSgdStep{3, [](const double* o) { return o[0] != 0 ? 1u : 0u; }};
inline constexpr StepKind kAdamStep{5, [](const double* o) { return o[3] != 0 ? 7u : 3u; }};
inline constexpr StepKind kAdagradStep{2, [](const double*) { return 1u; }};
inline constexpr StepKind kRmspropStep{4,
                                       [](const double* o) { return 1u | (o[2] != 0 ? 2 : 0) | (o[3] != 0 ? 4 : 0); }};
inline constexpr StepKind kLambStep{3, [](const double*) { return 3u; }};
inline constexpr StepKind kLionStep{2, [](const double*) { return 1u; }};

// What a step needs to know about one of its parameters.
struct StepTensor {
  const double* options;  // the fields of its group, from the optimizer's own first one
  double weight_decay, learning_rate;
  double gradient_factor;  // clip factor / loss scale, negative to maximize
  double count;            // of this step: the first has 1
  int64_t index;           // of the parameter, in the device buffer
  PhiloxKey rounding;      // of stochastic rounding
  Piece piece;             // the elements that are rounded
  unsigned used;           // state lists
  bool skip;               // nothing of it changes
};

// The length of a LAMB step, from the squared norms of a parameter and of its update.
SG_HOST_DEVICE inline double lamb_trust(double parameter_squares, double update_squares) {
  return parameter_squares > 0 && update_squares > 0 ? std::sqrt(parameter_squares / update_squares) : 1;
}

// The numbers of a call.
struct StepOptions {
  static constexpr int kHeader = 4;  // numbers before the rows
  enum Flags { kMasters = 1, kPieces = 2 };
  static constexpr int kCommon = 4;  // those of a row before its fields
  const double* numbers;
  int64_t groups, tensors;
  int row;  // numbers of a group
  SG_HOST_DEVICE const double* group(int64_t g) const { return numbers + kHeader + g * row; }
  SG_HOST_DEVICE int64_t index(int i) const { return int64_t(group(groups)[i]); }
  // Where the place of tensor i in its whole is written: its parameter's number, and a Piece; or null.
  SG_HOST_DEVICE const double* whole(int i) const {
    const double at = int(numbers[1]) & kPieces ? group(groups)[tensors + i] : 0;
    return at > 0 ? numbers + int64_t(at) : nullptr;
  }
  SG_HOST_DEVICE bool stochastic(int64_t g) const { return group(g)[3] != 0; }
};

struct StepBuffer {
  double* data;
  int64_t groups, parameters;

  SG_HOST_DEVICE double* rates() const { return data + kStepSlots; }
  SG_HOST_DEVICE double* counts() const { return rates() + kRateRows * groups; }
  SG_HOST_DEVICE double* skips() const { return counts() + parameters; }
  SG_HOST_DEVICE bool found_inf() const { return data[kFoundInf] != 0; }
  SG_HOST_DEVICE double rate(int64_t group) const {
    const double unknown = data[kSkipped] - data[kKnownSkips];
    const int64_t r = unknown > 0 ? int64_t(unknown < kRateRows - 1 ? unknown : kRateRows - 1) : 0;
    return rates()[r * groups + group];
  }
  // Tensor i of the call. Not to be asked after found-inf: somebody else may be counting the skip just now.
  SG_HOST_DEVICE StepTensor tensor(const StepOptions& options, int i, int64_t group, unsigned used) const {
    const double* const row = options.group(group);
    const double factor = data[kClipFactor] / data[kLossScale];
    const int64_t index = options.index(i);
    const double count = counts()[index] + 1;
    const double* const whole = options.whole(i);
    const int64_t number = whole ? int64_t(whole[0]) : index;
    return {row + StepOptions::kCommon,
            row[1],
            rate(group),
            row[2] != 0 ? -factor : factor,
            count,
            index,
            rounding_key(options.numbers[2], options.numbers[3], number, count),
            {whole && whole[1] > 0 ? whole + 1 : nullptr},
            used,
            skips()[index] != 0};
  }
};

struct StepCall {
  StepBuffer buffer;
  Ins tensors;
  StepOptions options;
  Rest numbers;
  int n, states;  // tensors in a list; lists of states
  bool masters;
  unsigned (*used)(const double* fields);  // as in StepKind

  StepCall(const StepKind& kind, const View& step, double lists, Rest all_numbers, Ins all)
      : tensors(all), numbers(all_numbers), used(kind.used) {
    constexpr int kHeader = StepOptions::kHeader;
    SG_ASSERT(lists >= 2 && numbers.count >= kHeader && numbers[0] >= 0 && numbers[0] <= numbers.count);
    SG_ASSERT(numbers[1] >= 0 && numbers[1] < 4);
    const int count = int(lists), groups = int(numbers[0]);
    n = tensors.count / count;
    options = {numbers.first, groups, n, StepOptions::kCommon + kind.fields};
    const int flags = int(numbers[1]);
    masters = flags & StepOptions::kMasters;
    states = count - 2 - int(masters);
    const bool pieces = flags & StepOptions::kPieces;
    const int least = kHeader + groups * options.row + n * (pieces ? 2 : 1);
    SG_ASSERT(states >= 0 && tensors.count == n * count && (pieces ? numbers.count >= least : numbers.count == least));
    for (int half = 2; half < kHeader; half++) SG_ASSERT(numbers[half] >= 0 && numbers[half] <= UINT32_MAX);
    SG_ASSERT(step.dtype == DType::k_float64 && step.contiguous());
    const int64_t fixed = kStepSlots + int64_t(kRateRows) * groups, parameters = (step.numel() - fixed) / 2;
    SG_ASSERT(parameters >= 0 && step.numel() == fixed + 2 * parameters);
    buffer = {step.ptr<double>(), groups, parameters};
    for (int i = 0; i < n; i++) {
      const double place = options.group(groups)[i];
      SG_ASSERT(place >= 0 && place < double(parameters));
      const double at = pieces ? options.group(groups)[n + i] : 0;
      SG_ASSERT(at == 0 || (at >= least && at < numbers.count - 1));
      if (const double* const whole = options.whole(i)) {
        SG_ASSERT(whole[0] >= 0 && whole[0] <= UINT32_MAX);
        SG_ASSERT(Piece{whole + 1}.sound(tensors[i].numel(), numbers.first + numbers.count - (whole + 1)));
      }
      for (int k = 1; k < count; k++) SG_ASSERT(tensors[k * n + i].numel() == tensors[i].numel());
    }
  }

  const View& parameter(int i) const { return tensors[i]; }
  const View& gradient(int i) const { return tensors[n + i]; }
  const View& state(int k, int i) const { return tensors[(2 + k) * n + i]; }
  // What the step is done on.
  const View& target(int i) const { return masters ? tensors[(2 + states) * n + i] : tensors[i]; }
  // The parameter is the rounded copy of a master.
  bool copies(int i) const { return masters && target(i).data != parameter(i).data; }
  bool in_double(int i) const { return target(i).dtype == DType::k_float64; }

  bool stochastic(int i, int64_t group) const {
    return options.stochastic(group) && target(i).dtype == DType::k_bfloat16;
  }

  // f(tensor, group, the state lists that the group uses), in order.
  template <class F>
  void for_tensors(const F& f) const {
    int i = 0;
    for (int64_t g = 0; g < buffer.groups; g++) {
      const double* const row = options.group(g);
      const double count = row[0];
      const unsigned lists = used(row + StepOptions::kCommon);
      SG_ASSERT(count >= 0 && count <= n - i && (count == 0 || lists >> states == 0));
      for (const int end = i + int(count); i < end; i++) f(i, g, lists);
    }
    SG_ASSERT(i == n);
  }
};

}  // namespace sg
