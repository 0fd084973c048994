// The device buffer every optimizer kernel reads, on every backend: float32, one element each. Because these values
// live on the device, a captured step can be replayed with another learning rate, and a step can be skipped without a
// host wait.
#pragma once

namespace sg {

enum StepSlot : int {
  kLearningRate = 0,
  kStepCount = 1,   // the true count: the kernel adds 1 when the step is taken, and bias corrections follow it
  kClipFactor = 2,  // gradients are multiplied by it (1: none)
  kLossScale = 3,   // gradients are divided by it (1: none)
  kFoundInf = 4,    // not 0: the step is skipped
  kSkipFlags = 5,   // 1: per-tensor flags follow from kStepSlots on, not 0 = leave that tensor alone
  kStepSlots = 8,
};

}  // namespace sg
