// The parts of argument reading that are not on the hot path, and the way of exceptions to JavaScript.
#include "args.h"

#include <cmath>
#include <cstdio>
#include <new>

namespace sg {

std::string show(double d) {
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
  char text[32];
  std::snprintf(text, sizeof text, "%.15g", d);
  return text;
}

std::string Arguments::text(size_t i, const char* what) const {
  size_t length = 0;
  if (napi_get_value_string_utf8(e_.env, value(i), nullptr, 0, &length) != napi_ok) {
    fail(ErrorCode::Value, function_, ": ", what, " must be a string");
  }
  std::string s(length, '\0');
  napi_get_value_string_utf8(e_.env, value(i), s.data(), length + 1, &length);
  return s;
}

Bytes Arguments::bytes(size_t i, const char* what) const {
  void* data = nullptr;
  size_t length = 0;
  napi_typedarray_type type;
  bool matches = false;
  napi_is_typedarray(e_.env, value(i), &matches);
  if (matches) {
    napi_get_typedarray_info(e_.env, value(i), &type, &length, &data, nullptr, nullptr);
    switch (type) {
      case napi_int8_array:
      case napi_uint8_array:
      case napi_uint8_clamped_array: break;
      case napi_int16_array:
      case napi_uint16_array: length *= 2; break;
      case napi_int32_array:
      case napi_uint32_array:
      case napi_float32_array: length *= 4; break;
      default: length *= 8; break;
    }
    return {static_cast<char*>(data), length};
  }
  napi_is_dataview(e_.env, value(i), &matches);
  if (!matches) fail(ErrorCode::Value, function_, ": ", what, " must be a typed array or a DataView");
  napi_get_dataview_info(e_.env, value(i), &length, &data, nullptr, nullptr);
  return {static_cast<char*>(data), length};
}

char* place_in(const char* op, const Storage& s, double at, size_t size) {
  const size_t offset = size_t(whole_between(at, 0, int64_t(1) << 53, op, "the byte offset"));
  if (offset > s.bytes() || size > s.bytes() - offset) {
    fail(ErrorCode::Shape, op, ": bytes ", offset, " to ", uint64_t(offset) + size, " are outside a storage of ",
         s.bytes(), " bytes");
  }
  return s.block->data + offset;
}

char* Arguments::range(const Storage& s, size_t offset_argument, size_t size) const {
  return place_in(function_, s, number(offset_argument, "the byte offset"), size);
}

napi_value throw_in_js(napi_env env) {
  const auto raise = [env](ErrorCode code, const char* text) { napi_throw(env, make_error(env, code, text)); };
  try {
    throw;
  } catch (const Error& e) { raise(e.code, e.what()); } catch (const std::bad_alloc&) {
    raise(ErrorCode::OutOfMemory, "out of memory for the native side's own bookkeeping");
  } catch (const std::exception& e) { raise(ErrorCode::Internal, e.what()); }
  return nullptr;
}

}  // namespace sg
