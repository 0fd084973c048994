// What every backend checks of Device::rotaryEmbedding.
#pragma once
#include "../core/view.h"

namespace sg {

inline void check_rotary(In x, In cos, In sin, In y) {
  for (const View* table : {&cos, &sin})
    if (table->dtype != DType::k_float32)
      fail(ErrorCode::DType, "rotaryEmbedding: cos and sin must be float32, got ", dtype_name(table->dtype));
  if (x.dtype != y.dtype)
    fail(ErrorCode::DType, "rotaryEmbedding: x and y must have one dtype, got ", dtype_name(x.dtype), " and ",
         dtype_name(y.dtype));
  if (x.shape[3] != 2 * cos.shape[1])
    fail(ErrorCode::Shape, "rotaryEmbedding: ", x.shape[3], " features need tables of ", x.shape[3] / 2, ", got ",
         cos.shape[1]);
}

}  // namespace sg
