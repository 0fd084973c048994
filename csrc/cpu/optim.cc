// Optimizer steps: all parameters of all groups in one pass. The device buffer is read on the stream's thread when the
// step's turn has come, so a clip factor or a found-inf flag written by an earlier operation is seen without a host
// wait.
#include <bit>

#include "cpu_device.h"
#include "step_plan.h"

#define SG_KERNELS "../kernels/optim.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

template <class F>
void take_step(const StepKind& kind, const View& step, double lists, Rest options, Ins tensors, const F& run) {
  const StepCall call(kind, step, lists, options, tensors);
  if (call.n == 0) return;
  if (call.buffer.found_inf()) {
    call.buffer.data[kSkipped] += 1;
    return;
  }
  const StepPlan plan(call, Scratch::kSharedA);
  run(plan, TensorChunks(tensors, plan.n, Scratch::kSharedB));
  plan.advance();
}

}  // namespace

void CpuDevice::sgdStep(In step, double lists, Rest options, Ins tensors) {
  take_step(kSgdStep, step, lists, options, tensors,
            [](const StepPlan& plan, const TensorChunks& chunks) { SG_ISA_CALL(sgd_step, plan, chunks); });
}

void CpuDevice::adamStep(In step, double lists, Rest options, Ins tensors) {
  take_step(kAdamStep, step, lists, options, tensors,
            [](const StepPlan& plan, const TensorChunks& chunks) { SG_ISA_CALL(adam_step, plan, chunks); });
}

void CpuDevice::adagradStep(In step, double lists, Rest options, Ins tensors) {
  take_step(kAdagradStep, step, lists, options, tensors,
            [](const StepPlan& plan, const TensorChunks& chunks) { SG_ISA_CALL(adagrad_step, plan, chunks); });
}

void CpuDevice::rmspropStep(In step, double lists, Rest options, Ins tensors) {
  take_step(kRmspropStep, step, lists, options, tensors,
            [](const StepPlan& plan, const TensorChunks& chunks) { SG_ISA_CALL(rmsprop_step, plan, chunks); });
}

void CpuDevice::lionStep(In step, double lists, Rest options, Ins tensors) {
  take_step(kLionStep, step, lists, options, tensors,
            [](const StepPlan& plan, const TensorChunks& chunks) { SG_ISA_CALL(lion_step, plan, chunks); });
}

// Two passes: the length of a tensor's step is known only when all of its update has been seen.
void CpuDevice::lambStep(In step, double lists, Rest options, Ins tensors) {
  take_step(kLambStep, step, lists, options, tensors, [](const StepPlan& plan, const TensorChunks& chunks) {
    double* const buffer = scratch<double>(Scratch::kSharedC, size_t(2 * chunks.count() + plan.n));
    const auto squares = reinterpret_cast<double(*)[2]>(buffer);
    double* const trust = buffer + 2 * chunks.count();
    SG_ISA_CALL(lamb_moments, plan, chunks, squares);
    for (int i = 0; i < plan.n; i++) {
      double parameter = 0, update = 0;
      for (int64_t c = chunks.first(i); c < chunks.first(i + 1); c++) {
        parameter += squares[c][0];
        update += squares[c][1];
      }
      trust[i] = lamb_trust(parameter, update);
    }
    SG_ISA_CALL(lamb_update, plan, chunks, trust);
  });
}

}  // namespace sg
