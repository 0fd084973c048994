// Reading arguments, checked: every number that comes from JavaScript passes one of these functions before it is used
// as a count, an index or an address.
#pragma once
#include "environment.h"

namespace sg {

// A double that is a whole number of magnitude at most 2^53.
inline bool whole(double d, int64_t& out) {
  if (!(d >= -0x1p53 && d <= 0x1p53)) return false;
  out = int64_t(d);
  return double(out) == d;
}

std::string show(double d);  // as JavaScript prints it: NaN, Infinity, 1.5

inline int64_t whole_between(double d, int64_t low, int64_t high, const char* op, const char* what) {
  int64_t n = 0;
  if (!whole(d, n) || n < low || n > high) {
    fail(ErrorCode::Value, op, ": ", what, " must be a whole number from ", low, " to ", high, ", got ", show(d));
  }
  return n;
}

// [offset, offset + size) of a storage, checked.
char* place_in(const char* op, const Storage& s, double offset, size_t size);

struct Bytes {
  char* data;
  size_t size;
};

class Arguments {
 public:
  Arguments(Environment& e, const char* function, size_t count, const napi_value* values)
      : e_(e), function_(function), count_(count), values_(values) {}
  const char* function() const { return function_; }

  napi_value value(size_t i) const {
    if (i >= count_) fail(ErrorCode::Value, function_, ": argument ", i + 1, " is missing");
    return values_[i];
  }
  double number(size_t i, const char* what) const {
    double d = 0;
    if (napi_get_value_double(e_.env, value(i), &d) != napi_ok) {
      fail(ErrorCode::Value, function_, ": ", what, " must be a number");
    }
    return d;
  }
  int64_t integer(size_t i, int64_t low, int64_t high, const char* what) const {
    return whole_between(number(i, what), low, high, function_, what);
  }
  bool boolean(size_t i, const char* what) const {
    bool b = false;
    if (napi_get_value_bool(e_.env, value(i), &b) != napi_ok) {
      fail(ErrorCode::Value, function_, ": ", what, " must be a boolean");
    }
    return b;
  }
  std::string text(size_t i, const char* what) const;
  Bytes bytes(size_t i, const char* what) const;  // of a typed array, Buffer or DataView

  DeviceContext& device(size_t i) const {
    if (e_.devices.empty()) fail(ErrorCode::Device, function_, ": no device was opened");
    return *e_.devices[size_t(integer(i, 0, int64_t(e_.devices.size()) - 1, "the device slot"))];
  }
  int stream(size_t i) const { return int(integer(i, 0, kStreamsPerDevice - 1, "the stream")); }
  Storage& storage(size_t i) const { return e_.storage(function_, number(i, "the handle")); }
  // [offset, offset + size) of a storage, checked
  char* range(const Storage& s, size_t offset_argument, size_t size) const;

 private:
  Environment& e_;
  const char* function_;
  size_t count_;
  const napi_value* values_;
};

inline napi_value make_number(Environment& e, double d) {
  napi_value v = nullptr;
  napi_create_double(e.env, d, &v);
  return v;
}

// A function of the addon: its name in JavaScript and the C++ behind it. Null results are undefined.
using Function = napi_value (*)(Environment&, const Arguments&);
using Procedure = void (*)(Environment&);  // takes nothing, so that nothing is fetched for it
struct FunctionRow {
  const char* name;
  napi_callback callback;
};

napi_value throw_in_js(napi_env env);  // of the C++ exception being handled

template <auto kFunction, const char* kName>
napi_value entry(napi_env env, napi_callback_info info) {
  constexpr bool kTakesNothing = std::is_same_v<decltype(kFunction), Procedure>;
  constexpr size_t kMaxArguments = 12;
  size_t count = kTakesNothing ? 0 : kMaxArguments;
  napi_value values[kMaxArguments];
  void* data = nullptr;
  if (napi_get_cb_info(env, info, &count, values, nullptr, &data) != napi_ok) return nullptr;
  Environment& e = *static_cast<Environment*>(data);
  try {
    if constexpr (kTakesNothing) return kFunction(e), nullptr;
    else return kFunction(e, Arguments(e, kName, std::min(count, kMaxArguments), values));
  } catch (...) { return throw_in_js(env); }
}

// SG_FUNCTION(upload) defines the row of `napi_value upload(Environment&, const Arguments&)`.
#define SG_FUNCTION(name)                  \
  []() -> FunctionRow {                    \
    static constexpr char text[] = #name;  \
    return {text, entry<&js::name, text>}; \
  }()

// Each file gives its functions.
std::vector<FunctionRow> op_functions();                 // ops.cc
std::vector<FunctionRow> storage_functions();            // storage.cc
std::vector<FunctionRow> stream_functions();             // streams.cc
std::vector<FunctionRow> across_functions();             // across.cc
std::vector<FunctionRow> file_functions();               // files.cc
std::vector<FunctionRow> graph_functions();              // graphs.cc
std::vector<FunctionRow> report_functions();             // reports.cc
std::vector<FunctionRow> memory_functions();             // memory.cc
std::vector<FunctionRow> collective_functions();         // collectives.cc
std::vector<FunctionRow> nccl_functions();               // nccl.cc
std::vector<FunctionRow> profile_functions();            // profiles.cc
void export_tables(Environment& e, napi_value exports);  // tables.cc

}  // namespace sg
