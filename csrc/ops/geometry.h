// Numbers of windows (sizes, strides, paddings) as they come from JavaScript.
#pragma once
#include "../core/error.h"

namespace sg {

inline int64_t whole_number(double v, int64_t least) {
  SG_ASSERT(v >= double(least) && v < 1e9);
  return int64_t(v);
}

}  // namespace sg
