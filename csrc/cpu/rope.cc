// Device::rotaryEmbedding: every pair of features of x [B, T, H, D] turned by the angle of its position. One task: the
// heads of some positions; their cosines and sines are read once for all heads.
#include "cpu_device.h"

#define SG_KERNELS "../kernels/rope.h"
#include "simd/for_each_isa.h"

namespace sg {

void CpuDevice::rotaryEmbedding(In x, In cos, In sin, Out y, double interleaved, double inverse) {
  for (const View* table : {&cos, &sin})
    if (table->dtype != DType::k_float32)
      fail(ErrorCode::DType, "rotaryEmbedding: cos and sin must be float32, got ", dtype_name(table->dtype));
  if (x.dtype != y.dtype)
    fail(ErrorCode::DType, "rotaryEmbedding: x and y must have one dtype, got ", dtype_name(x.dtype), " and ",
         dtype_name(y.dtype));
  if (x.shape[3] != 2 * cos.shape[1])
    fail(ErrorCode::Shape, "rotaryEmbedding: ", x.shape[3], " features need tables of ", x.shape[3] / 2, ", got ",
         cos.shape[1]);
  SG_ISA_CALL(rotate_any, x, cos, sin, y, interleaved != 0, inverse != 0);
}

}  // namespace sg
