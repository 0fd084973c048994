// Making, filling and reading storages. Whatever touches a storage's bytes does so in stream order: a fresh block may
// be an old one that a queued kernel still uses. Only when the stream is idle is the host's own copy in order, too.
#include <algorithm>
#include <cstring>

#include "../core/platform.h"
#include "args.h"

namespace sg {

namespace {

constexpr const char* kValueRead = "a value was read: read it after the replay";

void refuse_while_capturing(DeviceContext& device, const char* name, const char* what) {
  if (device.allocator().capturing()) fail(ErrorCode::Device, name, ": while a graph was captured, ", what);
}

// For commands that always run, as they have something to finish: a copy is skipped like any other command.
template <class F>
void unless_faulted(Stream& stream, const F& copy) {
  if (stream.faulted()) return;
  try {
    copy();
  } catch (const Error& e) { stream.raise(e.code, e.what()); }
}

// Host bytes on their way to a storage.
struct Upload {
  Backend* backend;
  char *to, *staging;
  size_t size;
  static void finish(Stream& stream, void* argument) {
    const std::unique_ptr<Upload> u(static_cast<Upload*>(argument));
    u->backend->free_staging(u->staging);
    stream.remove_staging(u->size);
  }
};

void copy_in(Stream& stream, void* payload) {
  Upload* const u = *static_cast<Upload**>(payload);
  unless_faulted(stream, [&] { u->backend->copy_in(u->to, u->staging, u->size); });
  stream.when_done(Upload::finish, u);
}

// Staging memory is counted, and taken in pieces, so that a large tensor does not need as much again.
constexpr size_t kPiece = size_t(8) << 20;

void copy_from_host(DeviceContext& device, const char* name, char* to, Bytes from) {
  refuse_while_capturing(device, name, "host data was copied to the device: make such tensors before");
  Stream& stream = device.stream(kComputeStream);
  Backend& backend = device.backend();
  if (from.size == 0) return;
  if (backend.in_host_memory() && stream.idle() && !stream.faulted()) {
    std::memcpy(to, from.data, from.size);
    return;
  }
  const size_t piece = backend.in_host_memory() ? from.size : kPiece;
  for (size_t at = 0; at < from.size; at += piece) {
    const size_t size = std::min(piece, from.size - at);
    stream.add_staging(size);
    char* staging = static_cast<char*>(backend.allocate_staging(size));
    if (!staging) {
      stream.remove_staging(size);
      fail(ErrorCode::OutOfMemory, name, ": out of memory for a copy of ", size, " bytes of host data");
    }
    std::memcpy(staging, from.data + at, size);
    stream.enqueue(copy_in, name, new Upload{&backend, to + at, staging, size}, true);
  }
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

struct TimeMark {
  Backend* backend;
  char* to;
};

void mark_time(Stream&, void* payload) {
  const TimeMark& m = *static_cast<TimeMark*>(payload);
  m.backend->mark_time(reinterpret_cast<double*>(m.to));
}

// A promise's value on its way to the host. It takes the fault of the commands before it: known when its turn comes,
// as it skips the copy, or found by the device until the copy is done. One of a later command is not its own. A reader
// aside leaves every fault to those who wait for values, and gets bytes of ones where there was one: NaN.
struct Reading {
  Settlement* settlement;
  Backend* backend;
  const char* from;
  DType dtype;
  bool aside;
  uint64_t command = 0;
};

void read_to_host(Stream& stream, void* payload) {
  Reading* const r = *static_cast<Reading**>(payload);
  const auto finish = [](Stream& self, void* argument) {
    const std::unique_ptr<Reading> reading(static_cast<Reading*>(argument));
    Settlement& s = *reading->settlement;
    if (!s.fault && !reading->aside) s.fault = self.take_fault(reading->command);
    if (!s.fault && s.has_value) s.value = read_element(s.bytes.data(), reading->dtype);
    settle(&s);
  };
  Settlement& s = *r->settlement;
  r->command = stream.running();
  if (r->aside) std::memset(s.bytes.data(), 0xff, s.count);
  else s.fault = stream.take_fault();
  if (!s.fault) {
    unless_faulted(stream, [&] { r->backend->copy_out(s.bytes.data(), r->from, s.count); });
  }
  stream.when_done(finish, r);
}

// Of the bytes in `target`, a typed array, or of one number.
napi_value promise_of(Environment& e, const char* name, const Storage& s, const char* from, size_t bytes, DType dtype,
                      napi_value target, bool aside = false) {
  refuse_while_capturing(*s.device, name, kValueRead);
  Backend& backend = s.device->backend();
  auto settlement = std::make_unique<Settlement>();
  settlement->owner = &e;
  settlement->has_value = target == nullptr;
  settlement->bytes = Staging(backend, bytes);
  settlement->count = bytes;
  Stream& stream = s.device->stream(kComputeStream);
  void* place = stream.begin(sizeof(Reading*));  // before the promise: it may throw
  if (target) napi_create_reference(e.env, target, 1, &settlement->target);
  napi_value promise = make_promise(e, settlement.get());
  if (!promise) return nullptr;
  new (place) Reading* {new Reading{settlement.release(), &backend, from, dtype, aside}};
  stream.commit(read_to_host, name, sizeof(Reading*), true);
  return promise;
}

Stream& compute_stream(const Storage& s) { return s.device->stream(kComputeStream); }

void wait_for(Stream& stream) {
  stream.host_wait_all();
  Environment::check(stream);
}

struct CopyOut {
  Backend* backend;
  char* staging;
  const char* from;
  size_t size;
};

void copy_out(Stream&, void* payload) {
  const CopyOut& c = *static_cast<CopyOut*>(payload);
  c.backend->copy_out(c.staging, c.from, c.size);
}

// A wait that threw because it would never end leaves a copy queued that still writes here.
void free_after_stream(Stream& stream, const char* name, Staging staging) {
  const auto free_when_done = [](Stream& self, void* payload) {
    self.when_done([](Stream&, void* p) { delete static_cast<Staging*>(p); }, *static_cast<Staging**>(payload));
  };
  stream.enqueue(free_when_done, name, new Staging(std::move(staging)), true);
}

// Waits.
void copy_to_host(const Storage& s, const char* name, char* to, const char* from, size_t size) {
  refuse_while_capturing(*s.device, name, kValueRead);
  Backend& backend = s.device->backend();
  Stream& stream = compute_stream(s);
  if (backend.in_host_memory()) {
    wait_for(stream);
    if (size) std::memcpy(to, from, size);
    return;
  }
  Staging staging(backend, std::max<size_t>(1, std::min(size, kPiece)));
  size_t at = 0;
  do {
    const size_t piece = std::min(kPiece, size - at);
    stream.enqueue(copy_out, name, CopyOut{&backend, staging.data(), from + at, piece});
    try {
      wait_for(stream);
    } catch (...) {
      free_after_stream(stream, name, std::move(staging));
      throw;
    }
    if (piece) std::memcpy(to + at, staging.data(), piece);
    at += piece;
  } while (at < size);
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
    copy_from_host(device, "upload", block->data, from);
  } catch (...) {
    device.allocator().free(block);
    throw;
  }
  return make_number(e, e.storages.add(device, block));
}

napi_value write(Environment&, const Arguments& a) {
  const Storage& s = a.storage(0);
  const Bytes from = a.bytes(2, "the data");
  copy_from_host(*s.device, "write", a.range(s, 1, from.size), from);
  return nullptr;
}

// markTime(handle, byteOffset, stream): writes the seconds of a clock, a double, when the stream gets there
napi_value markTime(Environment&, const Arguments& a) {
  const Storage& s = a.storage(0);
  char* const to = a.range(s, 1, sizeof(double));
  const int stream = a.stream(2);
  const TimeMark mark{&s.device->backend(), to};
  CachingAllocator::record_use(s.block, stream, s.device->stream(stream).enqueue(mark_time, "markTime", mark));
  return nullptr;
}

napi_value read(Environment&, const Arguments& a) {
  const Storage& s = a.storage(0);
  const Bytes to = a.bytes(2, "the target");
  copy_to_host(s, "read", to.data, a.range(s, 1, to.size), to.size);
  return nullptr;
}

napi_value read_into(Environment& e, const Arguments& a, bool aside) {
  const Storage& s = a.storage(0);
  const Bytes to = a.bytes(2, "the target");
  const char* from = a.range(s, 1, to.size);
  bool is_bytes = false;
  napi_is_typedarray(e.env, a.value(2), &is_bytes);
  napi_typedarray_type type = napi_int8_array;
  if (is_bytes) napi_get_typedarray_info(e.env, a.value(2), &type, nullptr, nullptr, nullptr, nullptr);
  if (type != napi_uint8_array) fail(ErrorCode::Value, a.function(), ": the target must be a Uint8Array");
  return promise_of(e, a.function(), s, from, to.size, DType::k_uint8, a.value(2), aside);
}

// readAsync(handle, byteOffset, target)
napi_value readAsync(Environment& e, const Arguments& a) { return read_into(e, a, false); }
// overhear(handle, byteOffset, target): the same by somebody to whom faults are not to be told
napi_value overhear(Environment& e, const Arguments& a) { return read_into(e, a, true); }

napi_value itemSync(Environment& e, const Arguments& a) {
  const Storage& s = a.storage(0);
  const DType dtype = dtype_argument(a, 2);
  char element[sizeof(double)];
  copy_to_host(s, "itemSync", element, a.range(s, 1, dtype_size(dtype)), dtype_size(dtype));
  return make_number(e, read_element(element, dtype));
}

napi_value item(Environment& e, const Arguments& a) {
  constexpr int64_t kLookNs = 20'000;  // waking JavaScript costs about 12 us: look first
  const Storage& s = a.storage(0);
  const DType dtype = dtype_argument(a, 2);
  const char* from = a.range(s, 1, dtype_size(dtype));
  Stream& stream = compute_stream(s);
  const bool on_host = s.device->backend().in_host_memory();
  if (on_host && spin_until(kLookNs, [&] { return stream.idle(); }) && !stream.faulted()) {
    return resolved(e, read_element(from, dtype));
  }
  return promise_of(e, "item", s, from, dtype_size(dtype), dtype, nullptr);
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
  return {SG_FUNCTION(alloc), SG_FUNCTION(free),     SG_FUNCTION(freeMany),  SG_FUNCTION(upload),
          SG_FUNCTION(write), SG_FUNCTION(read),     SG_FUNCTION(readAsync), SG_FUNCTION(itemSync),
          SG_FUNCTION(item),  SG_FUNCTION(overhear), SG_FUNCTION(markTime),  SG_FUNCTION(storageInfo)};
}

}  // namespace sg
