// Per thread: the chosen device and the last error. Per device: the fault that stays.
#include "device_state.h"

#include "memory.h"
#include "options.h"

namespace sg::emulation {

static thread_local int chosen;
static thread_local cudaError_t last = cudaSuccess;
static int running = -1;  // guarded by the runtime's lock
static cudaError_t faults[kMostDevices];

int chosen_device() { return chosen; }
void choose_device(int device) { chosen = device; }
int running_device() { return running >= 0 ? running : chosen; }
void set_running_device(int device) { running = device; }

void fail_device(cudaError_t error) { faults[running_device()] = error; }
cudaError_t device_fault(int device) { return faults[device]; }
cudaError_t fault_or(cudaError_t otherwise) {
  return result(faults[chosen] != cudaSuccess ? faults[chosen] : otherwise);
}
cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}
cudaError_t last_error(bool clear) {
  const cudaError_t error = faults[chosen] != cudaSuccess ? faults[chosen] : last;
  if (clear) last = cudaSuccess;
  return error;
}
void clear_faults() {
  for (cudaError_t& fault : faults) fault = cudaSuccess;
}

}  // namespace sg::emulation
