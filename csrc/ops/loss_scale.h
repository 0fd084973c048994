// The arithmetic of loss scaling and of the preparation of a step, for every backend.
#pragma once
#include <cmath>
#include <limits>

#include "../core/host_device.h"
#include "optim.h"

namespace sg {

// The state of a loss scale, float64. The scale itself is a float32 number, as in PyTorch.
enum ScaleSlot : int {
  kScale = 0,
  kGrowthTracker = 1,  // steps without found-inf since the scale last changed
  kScaleSkips = 2,     // steps with found-inf
  kStuck = 3,          // those of them at the smallest scale
  kScaleSlots = 4,
};

SG_HOST_DEVICE inline bool is_finite(double x) { return x - x == 0; }

// As torch._amp_update_scale_, with a smallest scale.
struct ScaleUpdate {
  double growth_factor, backoff_factor, growth_interval, min_scale;

  SG_HOST_DEVICE void operator()(double* state, float* scale, bool found) const {
    if (found) {
      if (state[kScale] <= min_scale) state[kStuck] += 1;
      const double less = double(float(state[kScale] * backoff_factor));
      state[kScale] = less < min_scale ? min_scale : less;
      state[kGrowthTracker] = 0;
      state[kScaleSkips] += 1;
    } else if ((state[kGrowthTracker] += 1) >= growth_interval) {
      const double more = double(float(state[kScale] * growth_factor));
      if (is_finite(more)) state[kScale] = more;
      state[kGrowthTracker] = 0;
    }
    *scale = float(state[kScale]);
  }
};

// From the sum of the squares of all gradients, which are `scale` times too large, to the slots of the step. The double
// sum of finite float32 numbers is finite, that of float64 ones need not be: `found` is about the elements.
SG_HOST_DEVICE inline void prepare_step(double* step, float* norm, double squares, bool found, double scale,
                                        double max_norm) {
  const double length = std::sqrt(squares) / scale, factor = max_norm / (length + 1e-6);
  step[kClipFactor] = !found && factor < 1 ? factor : 1;
  step[kLossScale] = scale;
  step[kFoundInf] = found ? 1 : 0;
  *norm = float(length);
}

}  // namespace sg
