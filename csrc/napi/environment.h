// What one JavaScript environment (the main thread or a worker) owns: its devices, its storages, the block, and the
// promises under way. Nothing in here is shared between threads but the list of settled promises.
#pragma once
#include <node_api.h>

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "../core/devices.h"
#include "../core/storage.h"

namespace sg {

struct Environment;

// A promise that a stream will settle. Results are copied to JavaScript's memory on JavaScript's thread, since a buffer
// may have been detached in the meantime.
struct Settlement {
  Environment* owner;
  napi_deferred deferred;
  double value = 0;
  bool has_value = false;
  Staging bytes;
  size_t count = 0;
  napi_ref target = nullptr;
  std::optional<Fault> fault;
  Settlement* next = nullptr;
};

// A captured graph. The stream's thread makes it; a replay that comes too early finds nothing.
struct CapturedGraph {
  DeviceContext* device;
  CachingAllocator::Captured* memory;
  std::unique_ptr<DeviceQueue::Graph> graph;
};

struct Environment {
  napi_env env = nullptr;
  double* block = nullptr;
  size_t block_length = 0;
  napi_ref block_reference = nullptr;
  std::vector<std::unique_ptr<DeviceContext>> devices;
  StorageTable storages;
  std::unordered_map<int64_t, CapturedGraph*> graphs;  // by number; they are the streams' to delete
  int64_t last_graph = 0;
  // The safety net, by slot: the object that owns the storage, and whether `watched` lists the slot.
  struct Watch {
    napi_ref object = nullptr;
    bool listed = false;
  };
  std::vector<Watch> watches;
  std::vector<uint32_t> watched;
  napi_threadsafe_function wake = nullptr;
  std::atomic<Settlement*> settled{nullptr};
  size_t pending_promises = 0;
  std::atomic<bool> closing{false};

  // The storage of a handle, or a DisposedError that names `op`.
  Storage& storage(const char* op, double handle) {
    if (Storage* s = storages.find(handle)) return *s;
    fail(ErrorCode::Disposed, op, ": the tensor's memory was given back (handle ", handle, ")");
  }
  void drop(Storage& s) {
    const size_t slot = storages.slot(s);
    storages.remove(s);
    if (slot < watches.size() && watches[slot].object) forget(watches[slot]);
  }
  void forget(Watch& w) {
    napi_delete_reference(env, w.object);
    w.object = nullptr;
  }
  // Allocates; when there is no room, what the other devices of this thread have cached is given back first.
  Block* allocate(DeviceContext& device, size_t bytes, int stream);
  // Raises in JavaScript what a stream's kernels threw.
  static void check(Stream& stream) {
    if (!stream.faulted()) return;
    if (auto fault = stream.take_fault()) throw Error(fault->code, fault->text);
  }
};

// promises.cc
napi_value make_promise(Environment& e, Settlement* s);  // takes over s; settle() must be called for it once
void settle(Settlement* s);                              // any thread
void open_promises(Environment& e);
void close_promises(Environment& e);  // the streams have ended
napi_value make_error(napi_env env, ErrorCode code, const char* text);

}  // namespace sg
