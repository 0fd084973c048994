// The device side of device_fault.h.
#pragma once
#include "device_fault.h"
#include "gpu.cuh"

namespace sg::gpu {

// The fault record of the running stream, and the op's name for it: a parameter of every kernel that may find one.
struct FaultSink {
  DeviceFault* record;
  const char *op, *noun;
};

// Only the first fault is kept. What follows from it is the caller's: it must not use the wrong value.
inline __device__ void raise_fault(FaultSink sink, FaultKind kind, int64_t a = 0, int64_t b = 0, int64_t c = 0,
                                   double number = 0, int ndim = 0, const int64_t* shape = nullptr) {
  DeviceFault& f = *sink.record;
  if (atomicCAS(&f.state, 0, 1) != 0) return;
  f.kind = kind;
  f.op = sink.op;
  f.noun = sink.noun;
  f.values[0] = a;
  f.values[1] = b;
  f.values[2] = c;
  f.number = number;
  f.ndim = ndim;
  for (int d = 0; d < ndim; d++) f.shape[d] = shape[d];
  __threadfence_system();
  atomicExch(&f.state, 2);
}

}  // namespace sg::gpu
