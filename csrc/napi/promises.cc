// Promises settled by streams. Settled ones go onto a lock-free list, and only the push onto an empty list wakes
// JavaScript: one call of the threadsafe function serves a whole batch.
#include "environment.h"

#include <cstring>

namespace sg {

static const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::Shape: return "ShapeError";
    case ErrorCode::DType: return "DTypeError";
    case ErrorCode::Device: return "DeviceError";
    case ErrorCode::Disposed: return "DisposedError";
    case ErrorCode::OutOfMemory: return "OutOfMemoryError";
    case ErrorCode::Distributed: return "DistributedError";
    case ErrorCode::Checkpoint: return "CheckpointError";
    case ErrorCode::Value: return "ValueError";
    case ErrorCode::Internal: break;
  }
  return "InternalError";
}

napi_value make_error(napi_env env, ErrorCode code, const char* text) {
  napi_value name, message, error = nullptr;
  napi_create_string_utf8(env, class_name(code), NAPI_AUTO_LENGTH, &name);
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message);
  napi_create_error(env, name, message, &error);
  return error;
}

// Copies what was read into its typed array, if that still has the room.
static bool deliver(napi_env env, Settlement& s) {
  napi_value target = nullptr;
  napi_get_reference_value(env, s.target, &target);
  void* data = nullptr;
  size_t length = 0;
  if (!target || napi_get_typedarray_info(env, target, nullptr, &length, &data, nullptr, nullptr) != napi_ok)
    return false;
  if (length < s.count) return false;
  if (s.count) std::memcpy(data, s.bytes.data(), s.count);
  return true;
}

static void finish(napi_env env, Environment& e, Settlement& s) {
  if (!s.fault && s.target && !deliver(env, s)) {
    s.fault = Fault{ErrorCode::Value, "readAsync: the target was detached or shrunk while it was being read into"};
  }
  if (s.target) napi_delete_reference(env, s.target);
  if (s.fault) {
    napi_reject_deferred(env, s.deferred, make_error(env, s.fault->code, s.fault->text.c_str()));
  } else {
    napi_value value;
    if (s.has_value) napi_create_double(env, s.value, &value);
    else napi_get_undefined(env, &value);
    napi_resolve_deferred(env, s.deferred, value);
  }
  if (--e.pending_promises == 0) napi_unref_threadsafe_function(env, e.wake);
}

static Settlement* take_in_order(Environment& e) {
  Settlement* newest = e.settled.exchange(nullptr);
  Settlement* oldest = nullptr;
  while (newest) {
    Settlement* next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  return oldest;
}

static void on_wake(napi_env env, napi_value, void* context, void*) {
  if (!env) return;  // the environment is going
  Environment& e = *static_cast<Environment*>(context);
  for (Settlement* s = take_in_order(e); s;) {
    const std::unique_ptr<Settlement> mine(s);
    s = s->next;
    finish(env, e, *mine);
  }
}

napi_value make_promise(Environment& e, Settlement* s) {
  napi_value promise = nullptr;
  if (napi_create_promise(e.env, &s->deferred, &promise) != napi_ok) return nullptr;
  // The loop stays alive for as long as somebody awaits a stream, and no longer.
  if (e.pending_promises++ == 0) napi_ref_threadsafe_function(e.env, e.wake);
  return promise;
}

void settle(Settlement* s) {
  Environment& e = *s->owner;
  Settlement* head = e.settled.load();
  do s->next = head;
  while (!e.settled.compare_exchange_weak(head, s));
  if (!head && !e.closing) napi_call_threadsafe_function(e.wake, nullptr, napi_tsfn_nonblocking);
}

void open_promises(Environment& e) {
  napi_value name;
  napi_create_string_utf8(e.env, "shardgrad", NAPI_AUTO_LENGTH, &name);
  napi_create_threadsafe_function(e.env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, &e, on_wake, &e.wake);
  napi_unref_threadsafe_function(e.env, e.wake);
}

void close_promises(Environment& e) {
  for (Settlement* s = take_in_order(e); s;) {
    const std::unique_ptr<Settlement> mine(s);
    s = s->next;
  }
}

}  // namespace sg
