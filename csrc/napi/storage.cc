// Making, filling and reading storages. Whatever touches a storage's bytes does so in stream order: a fresh block may
// be an old one that a queued kernel still uses. Only when the stream is idle is the host's own copy in order, too.
#include <cstring>
#include <new>

#include "../core/platform.h"
#include "args.h"

namespace sg {

namespace {

// Host bytes on their way to a storage.
struct Upload {
  char *to, *staging;
  size_t size;
};

void copy_in(Stream& stream, void* payload) {
  const Upload& u = *static_cast<Upload*>(payload);
  if (!stream.faulted()) std::memcpy(u.to, u.staging, u.size);
  delete[] u.staging;
  stream.remove_staging(u.size);
}

void copy_from_host(Stream& stream, const char* name, char* to, Bytes from) {
  if (from.size == 0) return;
  if (stream.idle() && !stream.faulted()) {
    std::memcpy(to, from.data, from.size);
    return;
  }
  stream.add_staging(from.size);
  char* staging = new (std::nothrow) char[from.size];
  if (!staging) {
    stream.remove_staging(from.size);
    fail(ErrorCode::OutOfMemory, name, ": out of memory for a copy of ", from.size, " bytes of host data");
  }
  std::memcpy(staging, from.data, from.size);
  stream.enqueue(copy_in, name, Upload{to, staging, from.size}, true);
}

double read_element(const char* p, DType dtype) {
  double value = 0;
  dispatch_all(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T x;
    std::memcpy(&x, p, sizeof x);
    if constexpr (std::is_arithmetic_v<T>) value = double(x);
    else value = double(float(x));
  });
  return value;
}

DType dtype_argument(const Arguments& a, size_t i) {
  const double code = a.number(i, "the dtype code");
  int64_t n = 0;
  if (!whole(code, n) || n < 0 || n >= kDTypes) {
    fail(ErrorCode::DType, a.function(), ": unknown dtype code ", show(code));
  }
  return DType(n);
}

void mark_time(Stream&, void* payload) {
  const double seconds = double(now_ns()) / 1e9;
  std::memcpy(*static_cast<char**>(payload), &seconds, sizeof seconds);
}

struct Reading {
  Settlement* settlement;
  const char* from;
  DType dtype;
};

// These commands always run, and take the fault in stream order: which commands a fault skips is deterministic.
void read_item(Stream& stream, void* payload) {
  const Reading& r = *static_cast<Reading*>(payload);
  r.settlement->fault = stream.take_fault();
  if (!r.settlement->fault) r.settlement->value = read_element(r.from, r.dtype);
  settle(r.settlement);
}

void read_bytes(Stream& stream, void* payload) {
  const Reading& r = *static_cast<Reading*>(payload);
  r.settlement->fault = stream.take_fault();
  if (!r.settlement->fault) std::memcpy(r.settlement->bytes.get(), r.from, r.settlement->count);
  settle(r.settlement);
}

Stream& compute_stream(const Storage& s) { return s.device->stream(kComputeStream); }

void wait_for(Stream& stream) {
  stream.host_wait_all();
  Environment::check(stream);
}

napi_value resolved(Environment& e, double value) {
  napi_deferred deferred;
  napi_value promise = nullptr;
  if (napi_create_promise(e.env, &deferred, &promise) == napi_ok) {
    napi_resolve_deferred(e.env, deferred, make_number(e, value));
  }
  return promise;
}

}  // namespace

namespace js {

napi_value alloc(Environment& e, const Arguments& a) {
  DeviceContext& device = a.device(0);
  const double bytes = a.number(1, "the number of bytes");
  int64_t n = 0;
  if (!whole(bytes, n) || n < 0) fail(ErrorCode::Shape, "alloc: not a number of bytes: ", show(bytes));
  return make_number(e, e.storages.add(device, e.allocate(device, size_t(n), kComputeStream)));
}

// A handle that is already dead is no error: a scope may end after its device's owner freed everything.
napi_value free(Environment& e, const Arguments& a) {
  if (Storage* s = e.storages.find(a.number(0, "the handle"))) e.drop(*s);
  return nullptr;
}

napi_value freeMany(Environment& e, const Arguments& a) {
  constexpr int64_t kFirst = 8;
  const int64_t room = int64_t(e.block_length) - kFirst;
  const int64_t n = a.integer(0, 0, std::max<int64_t>(0, room), "the number of handles");
  for (int64_t i = 0; i < n; i++) {
    if (Storage* s = e.storages.find(e.block[kFirst + i])) e.drop(*s);
  }
  return nullptr;
}

napi_value upload(Environment& e, const Arguments& a) {
  DeviceContext& device = a.device(0);
  const Bytes from = a.bytes(1, "the data");
  Block* block = e.allocate(device, from.size, kComputeStream);
  try {
    copy_from_host(device.stream(kComputeStream), "upload", block->data, from);
  } catch (...) {
    device.allocator().free(block);
    throw;
  }
  return make_number(e, e.storages.add(device, block));
}

napi_value write(Environment&, const Arguments& a) {
  const Storage& s = a.storage(0);
  const Bytes from = a.bytes(2, "the data");
  copy_from_host(compute_stream(s), "write", a.range(s, 1, from.size), from);
  return nullptr;
}

// markTime(handle, byteOffset, stream): writes the seconds of a clock, a double, when the stream gets there
napi_value markTime(Environment&, const Arguments& a) {
  const Storage& s = a.storage(0);
  char* const to = a.range(s, 1, sizeof(double));
  const int stream = a.stream(2);
  CachingAllocator::record_use(s.block, stream, s.device->stream(stream).enqueue(mark_time, "markTime", to));
  return nullptr;
}

napi_value read(Environment&, const Arguments& a) {
  const Storage& s = a.storage(0);
  const Bytes to = a.bytes(2, "the target");
  const char* from = a.range(s, 1, to.size);
  wait_for(compute_stream(s));
  if (to.size) std::memcpy(to.data, from, to.size);
  return nullptr;
}

napi_value readAsync(Environment& e, const Arguments& a) {
  const Storage& s = a.storage(0);
  const Bytes to = a.bytes(2, "the target");
  const char* from = a.range(s, 1, to.size);
  bool is_bytes = false;
  napi_is_typedarray(e.env, a.value(2), &is_bytes);
  napi_typedarray_type type = napi_int8_array;
  if (is_bytes) napi_get_typedarray_info(e.env, a.value(2), &type, nullptr, nullptr, nullptr, nullptr);
  if (type != napi_uint8_array) fail(ErrorCode::Value, "readAsync: the target must be a Uint8Array");
  auto settlement = std::make_unique<Settlement>();
  settlement->owner = &e;
  settlement->bytes.reset(new (std::nothrow) char[std::max<size_t>(1, to.size)]);
  if (!settlement->bytes) fail(ErrorCode::OutOfMemory, "readAsync: out of memory for a copy of ", to.size, " bytes");
  settlement->count = to.size;
  Stream& stream = compute_stream(s);
  void* place = stream.begin(sizeof(Reading));  // before the promise: it may throw
  napi_create_reference(e.env, a.value(2), 1, &settlement->target);
  napi_value promise = make_promise(e, settlement.get());
  if (!promise) return nullptr;
  new (place) Reading{settlement.release(), from, DType::k_uint8};
  stream.commit(read_bytes, "readAsync", sizeof(Reading), true);
  return promise;
}

napi_value itemSync(Environment& e, const Arguments& a) {
  const Storage& s = a.storage(0);
  const DType dtype = dtype_argument(a, 2);
  const char* from = a.range(s, 1, dtype_size(dtype));
  wait_for(compute_stream(s));
  return make_number(e, read_element(from, dtype));
}

napi_value item(Environment& e, const Arguments& a) {
  constexpr int64_t kLookNs = 20'000;  // waking JavaScript costs about 12 us: look first
  const Storage& s = a.storage(0);
  const DType dtype = dtype_argument(a, 2);
  const char* from = a.range(s, 1, dtype_size(dtype));
  Stream& stream = compute_stream(s);
  if (spin_until(kLookNs, [&] { return stream.idle(); }) && !stream.faulted()) {
    return resolved(e, read_element(from, dtype));
  }
  auto settlement = std::make_unique<Settlement>();
  settlement->owner = &e;
  settlement->has_value = true;
  void* place = stream.begin(sizeof(Reading));
  napi_value promise = make_promise(e, settlement.get());
  if (!promise) return nullptr;
  new (place) Reading{settlement.release(), from, dtype};
  stream.commit(read_item, "item", sizeof(Reading), true);
  return promise;
}

// { bytes, capacity, device slot }
napi_value storageInfo(Environment& e, const Arguments& a) {
  const Storage& s = a.storage(0);
  size_t slot = 0;
  while (e.devices[slot].get() != s.device) slot++;
  napi_value info = nullptr;
  napi_create_object(e.env, &info);
  napi_set_named_property(e.env, info, "bytes", make_number(e, double(s.bytes())));
  napi_set_named_property(e.env, info, "capacity", make_number(e, double(s.block->size)));
  napi_set_named_property(e.env, info, "device", make_number(e, double(slot)));
  return info;
}

}  // namespace js

std::vector<FunctionRow> storage_functions() {
  return {SG_FUNCTION(alloc), SG_FUNCTION(free),     SG_FUNCTION(freeMany),   SG_FUNCTION(upload),
          SG_FUNCTION(write), SG_FUNCTION(read),     SG_FUNCTION(readAsync),  SG_FUNCTION(itemSync),
          SG_FUNCTION(item),  SG_FUNCTION(markTime), SG_FUNCTION(storageInfo)};
}

}  // namespace sg
