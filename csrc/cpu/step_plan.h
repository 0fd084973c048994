// One optimizer step as the CPU's kernels see it: the call, and what the device buffer says of each tensor.
#pragma once
#include "../ops/step_call.h"
#include "tensor_chunks.h"

namespace sg {

struct StepPlan : StepCall {
  struct Tensor : StepTensor {
    bool stochastic;
  };
  Tensor* steps;

  // The plan lives in the scratch slot.
  StepPlan(const StepCall& call, Scratch slot) : StepCall(call), steps(scratch<Tensor>(slot, size_t(call.n))) {
    for_tensors([&](int i, int64_t group, unsigned lists) {
      steps[i] = {buffer.tensor(options, i, group, lists), stochastic(i, group)};
    });
  }
  // Writes the counts back: every parameter that was not skipped has taken one more step.
  void advance() const {
    for (int i = 0; i < n; i++)
      if (!steps[i].skip) buffer.counts()[steps[i].index] = steps[i].count;
  }
};

}  // namespace sg
