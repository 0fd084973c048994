// Printing reports. Lines come from addr2line, which binutils brings along with the compiler; without it a report names
// module and offset.
#include "report.h"

#include <dlfcn.h>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>

#include "block.h"
#include "device_state.h"
#include "options.h"

extern "C" {
extern const uint3 threadIdx, blockIdx;
}

namespace sg::emulation {

static std::set<std::pair<uintptr_t, uintptr_t>> told;
static unsigned long reports, lines_told;
constexpr unsigned long kMostTold = 1000;

static const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

std::string describe(const std::source_location& site) {
  return std::string(base_name(site.file_name())) + ":" + std::to_string(site.line());
}

static std::string ask_addr2line(const char* options, const Dl_info& module, uintptr_t code, const char* filter) {
  char command[1024];
  snprintf(command, sizeof command, "addr2line %s -e '%s' 0x%lx 2>/dev/null | %s", options, module.dli_fname,
           long(code - reinterpret_cast<uintptr_t>(module.dli_fbase)), filter);
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  char line[512] = "";
  if (!fgets(line, sizeof line, pipe)) line[0] = 0;
  pclose(pipe);
  line[strcspn(line, "\n")] = 0;
  return line;
}

std::string describe_code(uintptr_t code) {
  Dl_info module;
  if (!code || !dladdr(reinterpret_cast<void*>(code), &module)) return "unknown code";
  // The innermost frames that are not the emulator's own wrappers; code - 1 lies within the call instruction.
  const std::string lines = ask_addr2line("-s -i", module, code - 1,
                                          "grep -v -E '^(device|atomics|intrinsics|ptx)\\.h:|^\\?\\?' |"
                                          " sed 's/ (disc.*//' | head -3 | paste -sd' ' | sed 's/ / called from /g'");
  if (!lines.empty()) return lines;
  char place[300];
  snprintf(place, sizeof place, "%s+0x%lx", base_name(module.dli_fname),
           long(code - reinterpret_cast<uintptr_t>(module.dli_fbase)));
  return place;
}

static std::string kernel_name() {
  const auto code = reinterpret_cast<uintptr_t>(block.launch->kernel);
  Dl_info module;
  if (!dladdr(reinterpret_cast<void*>(code), &module)) return "a kernel";
  const std::string name = ask_addr2line("-f -C", module, code, "head -1");
  return name.empty() || name[0] == '?' ? "a kernel of " + std::string(base_name(module.dli_fname)) : name;
}

unsigned long report_count() { return reports; }

static void print(const char* format, va_list arguments) {
  if (lines_told++ >= kMostTold) return;
  char text[1024];
  vsnprintf(text, sizeof text, format, arguments);
  if (block.running)
    fprintf(stderr, "CUDA emulation: %s\n    thread (%u,%u,%u) of block (%u,%u,%u) of %s\n", text, threadIdx.x,
            threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, kernel_name().c_str());
  else fprintf(stderr, "CUDA emulation: %s\n", text);
  if (options().abort_on_report) abort();
}

bool fault_is_new(uintptr_t code, uintptr_t other) {
  fail_device(cudaErrorLaunchFailure);
  reports++;
  return told.insert({code, other}).second;
}

void tell(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print(format, arguments);
  va_end(arguments);
}

void report(const char* format, ...) {
  fail_device(cudaErrorLaunchFailure);
  reports++;
  va_list arguments;
  va_start(arguments, format);
  print(format, arguments);
  va_end(arguments);
}

}  // namespace sg::emulation
