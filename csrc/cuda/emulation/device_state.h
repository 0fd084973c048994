// The emulated devices: which one a thread has chosen, which one runs, and what is wrong with it.
#pragma once
#include <cuda_runtime_api.h>
#include <cstdint>

namespace sg::emulation {

int chosen_device();  // cudaSetDevice of this thread
void choose_device(int device);
int running_device();                 // of the operation that runs; the chosen one outside of operations
void set_running_device(int device);  // -1: none

// Faults of kernels stay: every later call on the device returns them, as on CUDA.
void fail_device(cudaError_t error);  // the running device
cudaError_t device_fault(int device);
// Notes the result of a call for cudaGetLastError of this thread and returns it.
cudaError_t result(cudaError_t error);
// The device's fault, if there is one.
cudaError_t fault_or(cudaError_t otherwise = cudaSuccess);
cudaError_t last_error(bool clear);
void clear_faults();  // cudaDeviceReset, and tests that plant faults

}  // namespace sg::emulation
