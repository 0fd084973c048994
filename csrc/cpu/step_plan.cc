// Takes an optimizer call apart. Sizes are checked against each other here, since kernels address all lists of a tensor
// by the element count of its parameter.
#include "step_plan.h"

namespace sg {

bool StepPlan::make(const View& step, double lists, Rest options, Ins tensors, int fields, Scratch slot,
                    StepPlan& plan) {
  const int row = 3 + fields;
  SG_ASSERT(options.count >= 2 && lists >= 2 && options[0] >= 0 && options[0] <= options.count);
  const int groups = int(options[0]), count = int(lists), n = tensors.count / count;
  plan.tensors = tensors;
  plan.n = n;
  plan.masters = options[1] != 0;
  plan.states = count - 2 - int(plan.masters);
  SG_ASSERT(plan.states >= 0 && tensors.count == n * count && options.count == 2 + groups * row + n);
  SG_ASSERT(step.dtype == DType::k_float64 && step.contiguous());
  const int64_t parameters = (step.numel() - kStepSlots - groups) / 2;
  SG_ASSERT(parameters >= 0 && step.numel() == kStepSlots + groups + 2 * parameters);

  double* const buffer = step.ptr<double>();
  const double* const rates = buffer + kStepSlots;
  plan.counts = buffer + kStepSlots + groups;
  const double* const skips = plan.counts + parameters;
  if (buffer[kFoundInf] != 0) return false;
  const double factor = buffer[kClipFactor] / buffer[kLossScale];

  plan.steps = scratch<StepTensor>(slot, size_t(n));
  const double* const indices = options.first + 2 + groups * row;
  int i = 0;
  for (int g = 0; g < groups; g++) {
    const double* const fields_of = options.first + 2 + g * row;
    SG_ASSERT(fields_of[0] >= 0 && fields_of[0] <= n - i);
    for (const int end = i + int(fields_of[0]); i < end; i++) {
      SG_ASSERT(indices[i] >= 0 && indices[i] < double(parameters));
      const int64_t index = int64_t(indices[i]);
      plan.steps[i] = {fields_of + 3,          fields_of[1], rates[g],         fields_of[2] != 0 ? -factor : factor,
                       plan.counts[index] + 1, index,        skips[index] != 0};
      for (int k = 1; k < count; k++) SG_ASSERT(tensors[k * n + i].numel() == tensors[i].numel());
    }
  }
  SG_ASSERT(i == n);
  return true;
}

void StepPlan::advance() const {
  for (int i = 0; i < n; i++)
    if (!steps[i].skip) counts[steps[i].index] = steps[i].count;
}

}  // namespace sg
