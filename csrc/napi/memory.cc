// Statistics of memory, the safety net for tensors nobody frees, and mapped files. The net's weak references are
// Node-API's with count 0: V8 clears young ones in a minor collection and reading one does not keep its target alive,
// so it works inside a loop that never returns to the event loop, where finalizers do not run.
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "args.h"

namespace sg {

Block* Environment::allocate(DeviceContext& device, size_t bytes, int stream) {
  try {
    return device.allocator().allocate(bytes, stream);
  } catch (const Error& e) {
    if (e.code != ErrorCode::OutOfMemory || devices.size() == 1) throw;
  }
  for (auto& d : devices) d->allocator().empty_cache();
  return device.allocator().allocate(bytes, stream);
}

namespace js {

// (device slot, Float64Array): the numbers of SG_MEMORY_STATS, in that order, as many as fit
napi_value stats(Environment&, const Arguments& a) {
  const MemoryStats s = a.device(0).allocator().stats();
  const Bytes out = a.bytes(1, "the target");
  std::memcpy(out.data, &s, std::min(out.size, sizeof s));
  return nullptr;
}

napi_value resetPeak(Environment&, const Arguments& a) {
  a.device(0).allocator().reset_peak();
  return nullptr;
}

napi_value emptyCache(Environment&, const Arguments& a) {
  a.device(0).allocator().empty_cache();
  return nullptr;
}

static napi_value text(napi_env env, const char* s) {
  napi_value v = nullptr;
  napi_create_string_utf8(env, s, NAPI_AUTO_LENGTH, &v);
  return v;
}

static napi_value event_object(Environment& e, const MemoryEvent& event) {
  static const char* const actions[] = {"alloc", "free", "park", "segmentAlloc", "segmentFree", "outOfMemory"};
  napi_value o = nullptr;
  napi_create_object(e.env, &o);
  const auto set = [&](const char* name, napi_value v) { napi_set_named_property(e.env, o, name, v); };
  set("action", text(e.env, actions[event.action]));
  set("address", make_number(e, double(event.address)));
  set("bytes", make_number(e, double(event.bytes)));
  set("stream", make_number(e, event.stream));
  set("microseconds", make_number(e, double(event.time_ns) / 1e3));
  return o;
}

static napi_value segment_object(Environment& e, const CachingAllocator::SegmentInfo& segment) {
  static const char* const states[] = {"live", "free", "pending"};
  napi_value o = nullptr, blocks = nullptr;
  napi_create_object(e.env, &o);
  napi_create_array_with_length(e.env, segment.blocks.size(), &blocks);
  for (size_t i = 0; i < segment.blocks.size(); i++) {
    const auto& block = segment.blocks[i];
    napi_value b = nullptr;
    napi_create_object(e.env, &b);
    napi_set_named_property(e.env, b, "address", make_number(e, double(block.address)));
    napi_set_named_property(e.env, b, "bytes", make_number(e, double(block.size)));
    napi_set_named_property(e.env, b, "requested", make_number(e, double(block.requested)));
    napi_set_named_property(e.env, b, "state", text(e.env, states[block.state]));
    napi_set_element(e.env, blocks, uint32_t(i), b);
  }
  napi_set_named_property(e.env, o, "address", make_number(e, double(segment.address)));
  napi_set_named_property(e.env, o, "bytes", make_number(e, double(segment.size)));
  napi_set_named_property(e.env, o, "stream", make_number(e, segment.stream));
  napi_set_named_property(e.env, o, "blocks", blocks);
  return o;
}

template <class List, class F>
static napi_value array_of(Environment& e, const List& list, const F& make) {
  napi_value array = nullptr;
  napi_create_array_with_length(e.env, list.size(), &array);
  for (size_t i = 0; i < list.size(); i++) {
    napi_handle_scope scope;
    napi_open_handle_scope(e.env, &scope);
    napi_set_element(e.env, array, uint32_t(i), make(e, list[i]));
    napi_close_handle_scope(e.env, scope);
  }
  return array;
}

// (device slot, on): true starts recording anew; false stops it. Returns { segments, events } as of now.
napi_value history(Environment& e, const Arguments& a) {
  CachingAllocator& allocator = a.device(0).allocator();
  const bool on = a.boolean(1, "on");
  napi_value result = nullptr;
  napi_create_object(e.env, &result);
  napi_set_named_property(e.env, result, "segments", array_of(e, allocator.snapshot(), segment_object));
  napi_set_named_property(e.env, result, "events", array_of(e, allocator.history(), event_object));
  allocator.record_history(on);
  return result;
}

// (objects, count) with the storages' handles in the block
napi_value trackMany(Environment& e, const Arguments& a) {
  constexpr int64_t kFirst = 8;
  const int64_t room = int64_t(e.block_length) - kFirst;
  const int64_t n = a.integer(1, 0, std::max<int64_t>(0, room), "the number of objects");
  bool is_array = false;
  napi_is_array(e.env, a.value(0), &is_array);
  if (!is_array) fail(ErrorCode::Value, "trackMany: expects an array of objects");
  for (int64_t i = 0; i < n; i++) {
    Storage* s = e.storages.find(e.block[kFirst + i]);
    if (!s) continue;
    const size_t slot = e.storages.slot(*s);
    if (slot >= e.watches.size()) e.watches.resize(slot + slot / 2 + 64);
    Environment::Watch& w = e.watches[slot];
    if (w.object) continue;
    napi_handle_scope scope;
    napi_open_handle_scope(e.env, &scope);
    napi_value object = nullptr;
    napi_get_element(e.env, a.value(0), uint32_t(i), &object);
    const bool made = napi_create_reference(e.env, object, 0, &w.object) == napi_ok;
    napi_close_handle_scope(e.env, scope);
    if (!made) fail(ErrorCode::Value, "trackMany: element ", i, " is not an object");
    if (!w.listed) e.watched.push_back(uint32_t(slot));
    w.listed = true;
  }
  return nullptr;
}

// The objects with weak references that are still alive: for reports, which name what fills the memory.
napi_value tracked(Environment& e, const Arguments&) {
  napi_value array = nullptr;
  napi_create_array(e.env, &array);
  uint32_t count = 0;
  for (const uint32_t slot : e.watched) {
    napi_value object = nullptr;
    if (e.watches[slot].object) napi_get_reference_value(e.env, e.watches[slot].object, &object);
    if (object) napi_set_element(e.env, array, count++, object);
  }
  return array;
}

// Frees the storages whose object is gone; returns how many. Block place 0 receives their bytes.
napi_value sweep(Environment& e, const Arguments&) {
  size_t kept = 0;
  double freed = 0, bytes = 0;
  for (const uint32_t slot : e.watched) {
    Environment::Watch& w = e.watches[slot];
    napi_value object = nullptr;
    if (w.object) {  // else it was freed in time
      napi_handle_scope scope;
      napi_open_handle_scope(e.env, &scope);
      napi_get_reference_value(e.env, w.object, &object);
      napi_close_handle_scope(e.env, scope);
    }
    if (object) {
      e.watched[kept++] = slot;
      continue;
    }
    w.listed = false;
    if (!w.object) continue;
    Storage& s = e.storages.at(slot);
    bytes += double(s.bytes());
    freed++;
    e.drop(s);
  }
  e.watched.resize(kept);
  if (e.block) e.block[0] = bytes;
  return make_number(e, freed);
}

// Makes V8 believe that much memory hangs on its heap: forces a full collection where there is no gc().
napi_value nudge(Environment& e, const Arguments& a) {
  const int64_t bytes = a.integer(0, 0, int64_t(1) << 40, "the number of bytes");
  int64_t now = 0;
  napi_adjust_external_memory(e.env, bytes, &now);
  napi_adjust_external_memory(e.env, -bytes, &now);
  return nullptr;
}

// The file as an ArrayBuffer, mapped: nothing is read before it is touched. The mapping is private, so that a write
// from JavaScript changes neither the file nor kills the process.
napi_value mapFile(Environment& e, const Arguments& a) {
  const std::string path = a.text(0, "the path");
  const auto refuse = [&](const char* why) { fail(ErrorCode::Checkpoint, "mapFile: ", path, ": ", why); };
  if (path.find('\0') != std::string::npos) fail(ErrorCode::Checkpoint, "mapFile: the path contains a zero byte");
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse(std::strerror(errno));
  struct stat info;
  void* data = nullptr;
  const char* why = nullptr;
  if (fstat(file, &info) != 0) why = std::strerror(errno);
  else if (S_ISDIR(info.st_mode)) why = "it is a directory";
  else if (!S_ISREG(info.st_mode)) why = "it is not a regular file";
  else if (info.st_size == 0) why = "the file is empty";
  else {
    data = mmap(nullptr, size_t(info.st_size), PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) why = std::strerror(errno);
  }
  ::close(file);
  if (why) refuse(why);
  struct Mapping {
    size_t bytes;
  };
  auto* mapping = new Mapping{size_t(info.st_size)};
  const auto unmap = [](napi_env, void* p, void* hint) {
    auto* m = static_cast<Mapping*>(hint);
    munmap(p, m->bytes);
    delete m;
  };
  napi_value buffer = nullptr;
  if (napi_create_external_arraybuffer(e.env, data, mapping->bytes, unmap, mapping, &buffer) != napi_ok) {
    unmap(e.env, data, mapping);
    refuse("this runtime does not allow buffers over mapped files");
  }
  return buffer;
}

}  // namespace js

std::vector<FunctionRow> memory_functions() {
  return {SG_FUNCTION(stats),   SG_FUNCTION(resetPeak), SG_FUNCTION(emptyCache),
          SG_FUNCTION(history), SG_FUNCTION(trackMany), SG_FUNCTION(tracked),
          SG_FUNCTION(sweep),   SG_FUNCTION(nudge),     SG_FUNCTION(mapFile)};
}

}  // namespace sg
