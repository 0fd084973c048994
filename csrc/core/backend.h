// Backend: what one kind of device brings to a device context: kernels, memory, the queues of its streams, and copies
// between its memory and the host's. A new backend is one class, and one row in devices.cc.
#pragma once
#include <memory>
#include <utility>

#include "device.h"
#include "device_queue.h"

namespace sg {

class Backend {
 public:
  virtual ~Backend() = default;
  virtual Device& kernels() = 0;

  // ---- any thread
  virtual void* map(size_t bytes) = 0;  // null: none left, or over the limit
  virtual void unmap(void* p, size_t bytes) = 0;
  virtual size_t limit() const = 0;  // what all devices that share this memory may map together
  virtual std::unique_ptr<DeviceQueue> make_queue(bool communication) = 0;  // null: what has run is done

  // ---- the host's memory; where kernels work in it, the host reads and writes tensors itself
  virtual bool in_host_memory() const = 0;
  // Memory on the host that copies can go on with while the host does something else. Null when there is none.
  virtual void* allocate_staging(size_t bytes) = 0;
  virtual void free_staging(void* p) = 0;  // any thread
  // The same for tensors of the host that are copied again and again: theirs for as long as they want, longer than this
  // backend, too. Null where copies are as fast with any memory, or there is none.
  virtual std::shared_ptr<void> allocate_pinned(size_t bytes) = 0;
  // On the stream's thread, in its order. `host` is staging memory; it is free to go when the stream is done with this.
  virtual void copy_in(void* to, const void* host, size_t bytes) = 0;
  virtual void copy_out(void* host, const void* from, size_t bytes) = 0;
  virtual void mark_time(double* to) = 0;  // seconds of a clock, when the stream gets there
};

// Throw when there is no such device.
std::unique_ptr<Backend> open_cpu(int index);   // ../cpu/cpu_backend.cc
std::unique_ptr<Backend> open_cuda(int index);  // ../cuda/cuda_backend.cc

// Staging memory and its owner.
class Staging {
 public:
  Staging() = default;
  Staging(Backend& backend, size_t bytes) : backend_(&backend), data_(backend.allocate_staging(bytes)) {
    if (!data_) fail(ErrorCode::OutOfMemory, "out of memory for a copy of ", bytes, " bytes of host data");
  }
  Staging(Staging&& other) noexcept : backend_(other.backend_), data_(std::exchange(other.data_, nullptr)) {}
  Staging& operator=(Staging&& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Staging() {
    if (data_) backend_->free_staging(data_);
  }
  char* data() const { return static_cast<char*>(data_); }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
};

}  // namespace sg
