// The CPU backend: the embedded default and the reference of every test. Each operation runs on the worker thread of
// the stream it was enqueued on and may use the process-wide thread pool inside. Kernels are compiled once per
// instruction set (simd/for_each_isa.h) and chosen at run time, so one binary runs on every machine.
#pragma once
#include "../core/device.h"

namespace sg {

class CpuDevice final : public Device {
 public:
#define SG_METHOD(name, parameters) void name parameters override;
#include "../core/device_methods.h"
#undef SG_METHOD
};

}  // namespace sg
