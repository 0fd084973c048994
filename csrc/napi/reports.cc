// What was found of CUDA, for JavaScript to show.
#include "../core/accelerators.h"
#include "args.h"

namespace sg {

namespace {

napi_value text(Environment& e, const std::string& s) {
  napi_value v = nullptr;
  napi_create_string_utf8(e.env, s.data(), s.size(), &v);
  return v;
}

void put(Environment& e, napi_value object, const char* name, napi_value value) {
  napi_set_named_property(e.env, object, name, value);
}

napi_value object_of(Environment& e) {
  napi_value v = nullptr;
  napi_create_object(e.env, &v);
  return v;
}

template <class List, class F>
napi_value array_of(Environment& e, const List& list, const F& make) {
  napi_value array = nullptr;
  napi_create_array_with_length(e.env, list.size(), &array);
  for (size_t i = 0; i < list.size(); i++) napi_set_element(e.env, array, uint32_t(i), make(list[i]));
  return array;
}

}  // namespace

namespace js {

// { problem, driver, runtime, gpus, libraries }: lib/cuda.ts names the fields
napi_value cudaReport(Environment& e, const Arguments&) {
  const CudaReport report = report_cuda();
  napi_value result = object_of(e);
  put(e, result, "problem", text(e, report.problem));
  put(e, result, "driver", text(e, report.driver));
  put(e, result, "runtime", text(e, report.runtime));
  put(e, result, "gpus", array_of(e, report.gpus, [&](const CudaReport::Gpu& g) {
        napi_value o = object_of(e);
        put(e, o, "name", text(e, g.name));
        put(e, o, "capability", text(e, std::to_string(g.major) + "." + std::to_string(g.minor)));
        put(e, o, "multiprocessors", make_number(e, g.multiprocessors));
        put(e, o, "bytes", make_number(e, double(g.total_bytes)));
        put(e, o, "busId", text(e, g.bus_id));
        return o;
      }));
  put(e, result, "libraries", array_of(e, report.libraries, [&](const CudaReport::FoundLibrary& l) {
        napi_value o = object_of(e);
        put(e, o, "name", text(e, l.name));
        put(e, o, "path", text(e, l.path));
        put(e, o, "version", text(e, l.version));
        put(e, o, "tried", array_of(e, l.tried, [&](const std::string& t) { return text(e, t); }));
        return o;
      }));
  return result;
}

}  // namespace js

std::vector<FunctionRow> report_functions() { return {SG_FUNCTION(cudaReport)}; }

}  // namespace sg
