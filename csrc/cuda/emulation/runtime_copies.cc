// Copies and fills. Where a side is ordinary host memory CUDA copies in or out before the call returns; here too.
#include <cstring>
#include <memory>
#include <vector>

#include "report.h"
#include "runtime.h"
#include "shadow.h"

using namespace sg::emulation;

namespace {

bool pageable(const void* p) { return arena_of(p) == kNoArena && !is_registered(p, 1); }
bool on_device(const void* p) { return arena_of(p) != kNoArena && arena_of(p) != kHostArena; }

struct Rows {  // 2D copies: `height` rows of `width` bytes
  char* to;
  size_t to_pitch;
  const char* from;
  size_t from_pitch;
  size_t width, height;
};

void copy_rows(const Rows& r, const char* who) {
  for (size_t row = 0; row < r.height; row++) {
    char* const to = r.to + row * r.to_pitch;
    const char* const from = r.from + row * r.from_pitch;
    if (!may_access(from, r.width, who) || !may_access(to, r.width, who)) return;
    if (!shadow::copied(to, from, r.width, who)) return;
    memmove(to, from, r.width);
  }
}

// What CUDA refuses in the call itself.
cudaError_t wrong(const Rows& r, cudaMemcpyKind kind) {
  if (!r.width || !r.height) return cudaSuccess;
  if (!r.to || !r.from) return cudaErrorInvalidValue;
  if (r.width > r.to_pitch || r.width > r.from_pitch) return cudaErrorInvalidPitchValue;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  // Pinned memory passes as either side: the device sees it.
  if (kind != cudaMemcpyDefault) {
    if ((to_device && pageable(r.to)) || (from_device && pageable(r.from))) return cudaErrorInvalidValue;
    if ((!to_device && on_device(r.to)) || (!from_device && on_device(r.from))) return cudaErrorInvalidValue;
  }
  for (const void* side : {static_cast<const void*>(r.to), static_cast<const void*>(r.from)})
    if (arena_of(side) != kNoArena && !bytes_from(side)) return cudaErrorInvalidValue;
  return cudaSuccess;
}

cudaError_t copy(const Rows& rows, cudaMemcpyKind kind, cudaStream_t handle, bool wait, const char* who) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  if (wait)
    if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  if (const cudaError_t error = wrong(rows, kind)) return result(error);
  if (!rows.width || !rows.height) return fault_or();
  if (stream->capture && (pageable(rows.from) || pageable(rows.to))) {  // a replay would find other memory there
    invalidate(stream->capture);
    return result(cudaErrorStreamCaptureUnsupported);
  }
  Operation operation;
  if (pageable(rows.from) && on_device(rows.to)) {
    auto staged = std::make_shared<std::vector<char>>(rows.width * rows.height);
    for (size_t row = 0; row < rows.height; row++)
      memcpy(staged->data() + row * rows.width, rows.from + row * rows.from_pitch, rows.width);
    operation.run = [rows, staged, who] {
      copy_rows({rows.to, rows.to_pitch, staged->data(), rows.width, rows.width, rows.height}, who);
    };
  } else operation.run = [rows, who] { copy_rows(rows, who); };
  if (const cudaError_t error = enqueue(stream, std::move(operation))) return result(error);
  if (wait || pageable(rows.to)) finish(stream);
  return fault_or();
}

cudaError_t fill(void* p, int value, size_t bytes, cudaStream_t handle, bool wait) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  if (wait)
    if (const cudaError_t refused = refuse_while_capturing()) return result(refused);
  if (!bytes) return fault_or();
  if (pageable(p) || !bytes_from(p)) return result(cudaErrorInvalidValue);
  Operation operation;
  operation.run = [=] {
    if (may_access(p, bytes, "cudaMemset") && shadow::touched(p, bytes, true, "cudaMemset")) memset(p, value, bytes);
  };
  return result(enqueue(stream, std::move(operation)));
}

Rows flat(void* to, const void* from, size_t bytes) {
  return {static_cast<char*>(to), bytes, static_cast<const char*>(from), bytes, bytes, 1};
}

}  // namespace

SG_CUDART cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return copy(flat(to, from, bytes), kind, nullptr, true, "cudaMemcpy");
}
SG_CUDART cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                      cudaStream_t stream) {
  return copy(flat(to, from, bytes), kind, stream, false, "cudaMemcpyAsync");
}
SG_CUDART cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                   size_t height, cudaMemcpyKind kind) {
  return copy({static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height}, kind,
              nullptr, true, "cudaMemcpy2D");
}
SG_CUDART cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                        size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy({static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height}, kind,
              stream, false, "cudaMemcpy2DAsync");
}

// Needs no peer access: CUDA stages the bytes where the devices cannot reach each other.
SG_CUDART cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                                          cudaStream_t handle) {
  const Lock lock(runtime_mutex);
  CUstream_st* const stream = find_stream(handle);
  if (!stream) return result(cudaErrorInvalidResourceHandle);
  if (!bytes) return fault_or();
  if (arena_of(to) != to_device || arena_of(from) != from_device) return result(cudaErrorInvalidValue);
  Operation operation;
  operation.run = [=] {
    if (bytes_from(to) < bytes || bytes_from(from) < bytes) {
      report("cudaMemcpyPeerAsync: %zu bytes are more than one of the allocations has", bytes);
      return;
    }
    if (shadow::copied(to, from, bytes, "cudaMemcpyPeerAsync")) memcpy(to, from, bytes);
  };
  return result(enqueue(stream, std::move(operation)));
}

SG_CUDART cudaError_t cudaMemset(void* p, int value, size_t bytes) { return fill(p, value, bytes, nullptr, true); }
SG_CUDART cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return fill(p, value, bytes, stream, false);
}
