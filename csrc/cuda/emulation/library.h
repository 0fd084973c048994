// For code that stands in for NVIDIA's libraries on the emulated runtime (cuBLASLt, NCCL), and for allocators that hand
// out parts of what cudaMalloc gave. Plain C, so that dlsym finds it.
#pragma once
#include <cuda_runtime_api.h>
#include <stddef.h>

#include "export.h"

extern "C" {

// Work of a library in a stream. `ready` (may be null) is polled until it is not 0, with the runtime's lock held: it
// must neither wait nor call CUDA. Then `run` is called once, likewise; it works on device memory directly. `release`
// is called when both are over, also when the device has a fault and nothing ran. In a capture the work becomes a node
// and may run any number of times before its release.
SG_EMULATION_API cudaError_t sgEmulationEnqueue(cudaStream_t stream, int (*ready)(void* data), void (*run)(void* data),
                                                void (*release)(void* data), void* data);

// To be called in `run` for all memory it touches: bounds, peer access, and in the check build uninitialised and freed
// memory and races between streams. 0 after a report; then the memory must not be touched.
SG_EMULATION_API int sgEmulationAccess(const void* p, size_t bytes, int writes, const char* who);

// Fails the device, as a kernel's fault does, with this text.
SG_EMULATION_API void sgEmulationReport(const char* text);

// An allocator on top of cudaMalloc tells, in the order of a stream, that it hands out a part of an allocation (which
// then counts as uninitialised) or takes it back (as freed). Without effect in the fast build and in a capture.
SG_EMULATION_API void sgEmulationMark(const void* p, size_t bytes, int in_use, cudaStream_t stream);

// For tests of the emulator: the schedule of what runs from now on ("order", "reverse" or a seed), the number of
// reports so far, and whether this is the check build.
SG_EMULATION_API void sgEmulationSetSchedule(const char* schedule);
SG_EMULATION_API unsigned long sgEmulationReports(void);
SG_EMULATION_API int sgEmulationChecks(void);

}  // extern "C"
