// The CUDA backend: the operations of Device as kernels, launched on the stream whose command runs. The families have
// the files of the CPU backend's names. What the data alone can show goes into the stream's fault record
// (device_fault.h).
#pragma once
#include "../core/device.h"

namespace sg {

inline constexpr int kMaxGpus = 64;

class CudaDevice final : public Device {
 public:
#define SG_METHOD(name, parameters) void name parameters override;
#include "../core/device_methods.h"
#undef SG_METHOD
};

// Writes the seconds of the GPU's clock (clock.cu).
void write_clock(double* to);

}  // namespace sg
