// Runs all cases and prints one line for each; `--record FILE` writes the recordings of PTX instead.
#include <cstdio>
#include <cstring>

#include "suite.h"
#ifdef SG_CUDA_EMULATION
#include "../../../csrc/cuda/emulation/library.h"
#endif

#ifdef SG_CUDA_EMULATION
static const char* const kSchedules[] = {"order", "reverse", "7"};
static void choose(const char* schedule) { sgEmulationSetSchedule(schedule); }
static unsigned long reports() { return sgEmulationReports(); }
static bool checks() { return sgEmulationChecks() != 0; }
#else
static const char* const kSchedules[] = {"the GPU's"};
static void choose(const char*) {}
static unsigned long reports() { return 0; }
static bool checks() { return false; }
#endif

// After a fault the device is as good as new, for the next case.
static void recover() {
  for (int device = 0, count = 0; cudaGetDeviceCount(&count) == cudaSuccess && device < count; device++) {
    (void)cudaSetDevice(device);
#ifdef SG_CUDA_EMULATION
    (void)cudaDeviceReset();
#endif
  }
  (void)cudaSetDevice(0);
  (void)cudaGetLastError();
}

void Suite::judge(const char* kind, const char* name, const std::function<bool()>& run) {
  const char* failed_with = nullptr;
  for (const char* schedule : kSchedules) {
    choose(schedule);
    if (!run() && !failed_with) failed_with = schedule;
    recover();
  }
  if (failed_with) printf("FAILED  %-6s %s (schedule %s)\n", kind, name, failed_with);
  else printf("ok      %-6s %s\n", kind, name);
  fflush(stdout);
  (failed_with ? failed_ : passed_)++;
}

void Suite::works(const char* name, const std::function<bool()>& run) {
  judge("works", name, [&] {
    const unsigned long before = reports();
    const bool right = run();
    return cudaDeviceSynchronize() == cudaSuccess && right && reports() == before;
  });
}

void Suite::fault(const char* name, Caught caught, const std::function<void()>& run) {
#ifdef SG_CUDA_EMULATION
  if (caught == Caught::Always || checks()) {
    judge("fault", name, [&] {
      const unsigned long before = reports();
      run();
      return cudaDeviceSynchronize() == cudaErrorLaunchFailure && reports() > before;
    });
    return;
  }
#else
  (void)caught, (void)run, (void)checks;
#endif
  (void)name;
  left_out_++;
}

int Suite::finish() const {
  printf("%d passed, %d failed, %d need the check build\n", passed_, failed_, left_out_);
  return failed_ != 0;
}

int main(int count, char** arguments) {
  int devices = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&devices); error != cudaSuccess || devices == 0) {
    printf("no GPU answered: %s\n", cudaGetErrorString(error));
    return 2;
  }
  if (count == 3 && !strcmp(arguments[1], "--record")) return record(arguments[2]) ? 0 : 1;
  Suite suite;
  instruction_cases(suite);
  matrix_cases(suite);
  idiom_cases(suite);
  runtime_cases(suite);
  capture_cases(suite);
  block_faults(suite);
  memory_faults(suite);
  return suite.finish();
}
