// A profiler for tests: writes every range of NVTX into the file that SHARDGRAD_EMULATED_NVTX_LOG names, a line each:
// "thread push name", "thread pop", "thread mark name". NVTX loads it where NVTX_INJECTION64_PATH names it.
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <nvtx3/nvToolsExt.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

thread_local int depth = 0;

void write_line(const char* what, const char* name) {
  static std::mutex mutex;
  static FILE* const log = [] {
    const char* const path = getenv("SHARDGRAD_EMULATED_NVTX_LOG");
    return path ? fopen(path, "a") : nullptr;
  }();
  if (!log) return;
  const std::lock_guard lock(mutex);
  fprintf(log, "%ld %s%s%s\n", syscall(SYS_gettid), what, *name ? " " : "", name);
  fflush(log);
}

int push(const char* name) {
  write_line("push", name);
  return depth++;
}

int pop() {
  write_line("pop", "");
  return depth > 0 ? --depth : -1;
}

void mark(const char* name) { write_line("mark", name); }

template <class F>
NvtxFunctionPointer untyped(F* function) {
  return reinterpret_cast<NvtxFunctionPointer>(function);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const auto* const callbacks = static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable table = nullptr;
  unsigned size = 0;
  if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &size)) return 0;
  *table[NVTX_CBID_CORE_RangePushA] = untyped(&push);
  *table[NVTX_CBID_CORE_RangePop] = untyped(&pop);
  *table[NVTX_CBID_CORE_MarkA] = untyped(&mark);
  return 1;
}
