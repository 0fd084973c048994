// An optimizer call of optim.h taken apart. Sizes are checked against each other here, since kernels address all lists
// of a tensor by the element count of its parameter. What lies in the device buffer is left to those who can read it.
#pragma once
#include <cmath>

#include "../core/host_device.h"
#include "../core/view.h"
#include "optim.h"

namespace sg {

inline constexpr int kMaxStates = 3;

// What the steps differ in outside of their kernels: the fields of a group's options, after the three that all have,
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
  unsigned used;           // state lists
  bool skip;               // nothing of it changes
};

// The length of a LAMB step, from the squared norms of a parameter and of its update.
SG_HOST_DEVICE inline double lamb_trust(double parameter_squares, double update_squares) {
  return parameter_squares > 0 && update_squares > 0 ? std::sqrt(parameter_squares / update_squares) : 1;
}

struct StepBuffer {
  double* data;
  int64_t groups, parameters;

  SG_HOST_DEVICE double* rates() const { return data + kStepSlots; }
  SG_HOST_DEVICE double* counts() const { return rates() + groups; }
  SG_HOST_DEVICE double* skips() const { return counts() + parameters; }
  // `row`: the options of the group
  SG_HOST_DEVICE StepTensor tensor(const double* row, int64_t group, int64_t index, unsigned used) const {
    const double factor = data[kClipFactor] / data[kLossScale];
    return {row + 3,
            row[1],
            rates()[group],
            row[2] != 0 ? -factor : factor,
            counts()[index] + 1,
            index,
            used,
            data[kFoundInf] != 0 || skips()[index] != 0};
  }
};

struct StepCall {
  StepBuffer buffer;
  Ins tensors;
  Rest options;
  int n, states;  // tensors in a list; lists of states
  int row;        // numbers in a group's row of options
  bool masters;
  unsigned (*used)(const double* fields);  // as in StepKind

  StepCall(const StepKind& kind, const View& step, double lists, Rest numbers, Ins all)
      : tensors(all), options(numbers), row(3 + kind.fields), used(kind.used) {
    SG_ASSERT(lists >= 2 && options.count >= 2 && options[0] >= 0 && options[0] <= options.count);
    const int count = int(lists), groups = int(options[0]);
    n = tensors.count / count;
    masters = options[1] != 0;
    states = count - 2 - int(masters);
    SG_ASSERT(states >= 0 && tensors.count == n * count && options.count == 2 + groups * row + n);
    SG_ASSERT(step.dtype == DType::k_float64 && step.contiguous());
    const int64_t parameters = (step.numel() - kStepSlots - groups) / 2;
    SG_ASSERT(parameters >= 0 && step.numel() == kStepSlots + groups + 2 * parameters);
    buffer = {step.ptr<double>(), groups, parameters};
    for (int i = 0; i < n; i++) {
      const double place = group_row(groups)[i];
      SG_ASSERT(place >= 0 && place < double(parameters));
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

  const double* group_row(int64_t group) const { return options.first + 2 + group * row; }
  int64_t index(int i) const { return int64_t(group_row(buffer.groups)[i]); }

  // f(tensor, group, the state lists that the group uses), in order.
  template <class F>
  void for_tensors(const F& f) const {
    int i = 0;
    for (int64_t g = 0; g < buffer.groups; g++) {
      const double count = group_row(g)[0];
      const unsigned lists = used(group_row(g) + 3);
      SG_ASSERT(count >= 0 && count <= n - i && (count == 0 || lists >> states == 0));
      for (const int end = i + int(count); i < end; i++) f(i, g, lists);
    }
    SG_ASSERT(i == n);
  }
};

}  // namespace sg
