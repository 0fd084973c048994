// Operations that the CUDA backend does not have yet; weak, so that one that is written replaces its line here.
#include "cuda_device.h"

namespace sg {

#define SG_MISSING(name, ...) \
  __attribute__((weak)) void CudaDevice::name(__VA_ARGS__) { fail(ErrorCode::Device, #name, ": not available on cuda yet"); }
SG_MISSING(sgdStep, In, double, Rest, Ins)
SG_MISSING(adamStep, In, double, Rest, Ins)
SG_MISSING(adagradStep, In, double, Rest, Ins)
SG_MISSING(rmspropStep, In, double, Rest, Ins)
SG_MISSING(lambStep, In, double, Rest, Ins)
SG_MISSING(lionStep, In, double, Rest, Ins)
SG_MISSING(globalNorm, Out, double, Ins)
SG_MISSING(scaleMany, In, Ins)
SG_MISSING(clampMany, double, double, Ins)
#undef SG_MISSING

}  // namespace sg
