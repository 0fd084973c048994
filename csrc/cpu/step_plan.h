// One optimizer step as the kernels see it: the call of csrc/ops/optim.h taken apart and checked once.
#pragma once
#include "../ops/optim.h"
#include "tensor_chunks.h"

namespace sg {

inline constexpr int kMaxStates = 3;

// What a step needs to know about one of its parameters.
struct StepTensor {
  const double* options;  // the fields of its group, from the optimizer's own first one
  double weight_decay, learning_rate;
  double gradient_factor;  // clip factor / loss scale, negative to maximize
  double count;            // of this step: the first has 1
  int64_t index;           // of the parameter, in the device buffer
  bool skip;
};

struct StepPlan {
  Ins tensors;
  int n, states;  // tensors in a list; lists of states
  bool masters;
  double* counts;  // of all parameters, in the device buffer
  StepTensor* steps;

  const View& parameter(int i) const { return tensors[i]; }
  const View& gradient(int i) const { return tensors[n + i]; }
  const View& state(int k, int i) const { return tensors[(2 + k) * n + i]; }
  // What the step is done on.
  const View& target(int i) const { return masters ? tensors[(2 + states) * n + i] : tensors[i]; }
  // The parameter is the rounded copy of a master.
  bool copies(int i) const { return masters && target(i).data != parameter(i).data; }

  // False when the step is skipped as a whole. `fields`: of a group, after the three that all steps share. The plan
  // lives in the scratch slot.
  static bool make(const View& step, double lists, Rest options, Ins tensors, int fields, Scratch slot, StepPlan& plan);
  // Writes the counts back: every parameter that was not skipped has taken one more step.
  void advance() const;
};

}  // namespace sg
