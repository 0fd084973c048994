// Copies between the host's memory and a GPU's that nobody waits for: optimizer state that lives on the host needs them
// at every step. The GPU's stream copies, in its order; the other device's stream waits for it, as it waits for any
// event, and before that the GPU waits for what still uses the host's side.
#include "args.h"

namespace sg {

namespace {

struct AcrossCopy {
  Backend* backend;
  char* to;
  const char* from;
  size_t size;
};

void copy_in(Stream&, void* payload) {
  const AcrossCopy& c = *static_cast<AcrossCopy*>(payload);
  c.backend->copy_in(c.to, c.from, c.size);
}

void copy_out(Stream&, void* payload) {
  const AcrossCopy& c = *static_cast<AcrossCopy*>(payload);
  c.backend->copy_out(c.to, c.from, c.size);
}

// One of the rows that JavaScript wrote.
struct Row {
  const Storage *from, *to;
  char *source, *target;
  size_t size;
  Row(Environment& e, const char* name, const double* row)
      : from(&e.storage(name, row[0])), to(&e.storage(name, row[2])) {
    const int64_t bytes = whole_between(row[4], 0, int64_t(1) << 53, name, "the number of bytes");
    size = size_t(bytes);
    source = place_in(name, *from, row[1], size);
    target = place_in(name, *to, row[3], size);
  }
};

}  // namespace

namespace js {

// copyAcross(count): rows [handle, byte offset, handle, byte offset, bytes] in the block, from the first to the second,
// all of them between the same two devices, one of which works in the host's memory.
napi_value copyAcross(Environment& e, const Arguments& a) {
  constexpr int64_t kFirst = 8, kRow = 5;
  const int64_t room = std::max<int64_t>(0, int64_t(e.block_length) - kFirst) / kRow;
  const int64_t n = a.integer(0, 0, room, "the number of copies");
  const auto row = [&](int64_t i) { return Row(e, a.function(), e.block + kFirst + kRow * i); };
  if (n == 0) return nullptr;
  const Row first = row(0);
  DeviceContext &from = *first.from->device, &to = *first.to->device;
  if (&from == &to) fail(ErrorCode::Device, a.function(), ": both tensors are on ", from.name());
  const bool out = !from.backend().in_host_memory();
  if (out && !to.backend().in_host_memory())
    fail(ErrorCode::Device, a.function(), ": neither ", from.name(), " nor ", to.name(), " is in the host's memory");
  for (int64_t i = 0; i < n; i++) {  // before anything is enqueued
    const Row r = row(i);
    if (r.from->device != &from || r.to->device != &to)
      fail(ErrorCode::Device, a.function(), ": copy ", i, " is between other devices than the first");
  }
  DeviceContext &runs = out ? from : to, &waits = out ? to : from;
  for (DeviceContext* d : {&runs, &waits}) {
    if (d->allocator().capturing())
      fail(ErrorCode::Device, a.function(), ": a copy to another device cannot be part of a captured graph");
  }
  Stream &stream = runs.stream(kComputeStream), &other = waits.stream(kComputeStream);
  stream.wait_stream(other);
  for (int64_t i = 0; i < n; i++) {
    const Row r = row(i);
    const AcrossCopy copy{&runs.backend(), r.target, r.source, r.size};
    const uint64_t seq = stream.enqueue(out ? copy_out : copy_in, "copyAcross", copy);
    CachingAllocator::record_use((out ? r.from : r.to)->block, kComputeStream, seq);
  }
  other.wait_stream(stream);
  // a command and no promise of one: from here on memory is only freed behind it
  const uint64_t waited = other.record_event();
  for (int64_t i = 0; i < n; i++) {
    const Row r = row(i);
    CachingAllocator::record_use((out ? r.to : r.from)->block, kComputeStream, waited);
  }
  return nullptr;
}

// hostMemory(device, accelerator, bytes): a storage of the first, in memory that the other one's copies are fastest
// with
napi_value hostMemory(Environment& e, const Arguments& a) {
  DeviceContext &device = a.device(0), &accelerator = a.device(1);
  const size_t bytes = size_t(a.integer(2, 0, int64_t(1) << 46, "the number of bytes"));
  if (!device.backend().in_host_memory())
    fail(ErrorCode::Device, a.function(), ": ", device.name(), " does not work in the host's memory");
  if (std::shared_ptr<void> memory = bytes ? accelerator.backend().allocate_pinned(bytes) : nullptr) {
    char* const data = static_cast<char*>(memory.get());
    return make_number(e, e.storages.add(device, device.allocator().adopt(data, bytes, std::move(memory))));
  }
  return make_number(e, e.storages.add(device, e.allocate(device, bytes, kComputeStream)));
}

}  // namespace js

std::vector<FunctionRow> across_functions() { return {SG_FUNCTION(copyAcross), SG_FUNCTION(hostMemory)}; }

}  // namespace sg
