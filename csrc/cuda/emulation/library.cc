// The functions for libraries, allocators and tests.
#include "library.h"

#include <memory>

#include "report.h"
#include "runtime.h"
#include "shadow.h"

using namespace sg::emulation;

extern "C" {

cudaError_t sgEmulationEnqueue(cudaStream_t handle, int (*ready)(void*), void (*run)(void*), void (*release)(void*),
                               void* data) {
  const Lock lock(runtime_mutex);
  const std::shared_ptr<void> owner(data, [release](void* p) {
    if (release) release(p);
  });
  Operation operation;
  operation.run = [run, owner] { run(owner.get()); };
  if (ready) operation.ready = [ready, owner] { return ready(owner.get()) != 0; };
  return result(enqueue(find_stream(handle), std::move(operation)));
}

int sgEmulationAccess(const void* p, size_t bytes, int writes, const char* who) {
  return may_access(p, bytes, who) && shadow::touched(p, bytes, writes != 0, who);
}

void sgEmulationReport(const char* text) { report("%s", text); }

void sgEmulationMark(const void* p, size_t bytes, int in_use, cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!sgEmulationChecks() || !stream || stream->capture) return;
  Operation operation;
  operation.run = [=] { shadow::mark(p, bytes, in_use != 0); };
  (void)enqueue(stream, std::move(operation));
}

void sgEmulationSetSchedule(const char* schedule) {
  const Lock lock(runtime_mutex);
  set_schedule(schedule);
}
unsigned long sgEmulationReports() {
  const Lock lock(runtime_mutex);
  return report_count();
}
int sgEmulationChecks() {
#ifdef SG_EMULATION_CHECK
  return 1;
#else
  return 0;
#endif
}

}  // extern "C"
