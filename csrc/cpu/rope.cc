// Device::rotaryEmbedding: every pair of features of x [B, T, H, D] turned by the angle of its position. One task: the
// heads of some positions; their cosines and sines are read once for all heads.
#include "../ops/rope.h"
#include "cpu_device.h"

#define SG_KERNELS "../kernels/rope.h"
#include "simd/for_each_isa.h"

namespace sg {

void CpuDevice::rotaryEmbedding(In x, In cos, In sin, Out y, double interleaved, double inverse) {
  check_rotary(x, cos, sin, y);
  SG_ISA_CALL(rotate_any, x, cos, sin, y, interleaved != 0, inverse != 0);
}

}  // namespace sg
