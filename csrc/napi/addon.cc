// The addon: makes one Environment for each JavaScript environment that loads it, and takes it down again when that one
// ends, in mid-work too. Process-wide objects (pool, tables, settings) are leaked on purpose: static destructors would
// run while threads still use them.
#include "../core/command_log.h"
#include "args.h"

namespace sg {

namespace {

// On the dying environment's thread, before its threadsafe function goes: clean-up hooks run in reverse order.
void close_environment(void* data) {
  const std::unique_ptr<Environment> e(static_cast<Environment*>(data));
  e->closing = true;
  for (auto& device : e->devices) device->halt();
  for (auto& device : e->devices) device->join();
  CommandLog::instance().stop(e.get());
  for (auto& [number, graph] : e->graphs) delete graph;
  e->devices.clear();
  close_promises(*e);
}

void add_functions(Environment& e, napi_value exports, const std::vector<FunctionRow>& rows) {
  for (const FunctionRow& row : rows) {
    napi_value function = nullptr;
    napi_create_function(e.env, row.name, NAPI_AUTO_LENGTH, row.callback, &e, &function);
    napi_set_named_property(e.env, exports, row.name, function);
  }
}

}  // namespace

}  // namespace sg

NAPI_MODULE_INIT() {
  using namespace sg;
  try {
    auto e = std::make_unique<Environment>();
    e->env = env;
    export_tables(*e, exports);
    open_promises(*e);
    add_functions(*e, exports, op_functions());
    add_functions(*e, exports, storage_functions());
    add_functions(*e, exports, across_functions());
    add_functions(*e, exports, file_functions());
    add_functions(*e, exports, stream_functions());
    add_functions(*e, exports, graph_functions());
    add_functions(*e, exports, report_functions());
    add_functions(*e, exports, memory_functions());
    add_functions(*e, exports, collective_functions());
    add_functions(*e, exports, nccl_functions());
    add_functions(*e, exports, profile_functions());
    napi_add_env_cleanup_hook(env, close_environment, e.release());
  } catch (...) { return throw_in_js(env); }
  return exports;
}
