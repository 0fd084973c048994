// Opening and closing devices.
#include "devices.h"

namespace sg {

namespace {

std::unique_ptr<Backend> open_backend(const std::string& kind, int index) {
  if (kind == "cpu") return open_cpu(index);
  if (kind == "cuda") return open_cuda(index);
  fail(ErrorCode::Device, "unknown kind of device '", kind, "': there are cpu and cuda");
}

}  // namespace

std::unique_ptr<DeviceContext> DeviceContext::open(const std::string& kind, int index) {
  std::unique_ptr<Backend> backend = open_backend(kind, index);
  return std::unique_ptr<DeviceContext>(new DeviceContext(kind + ":" + std::to_string(index), std::move(backend)));
}

DeviceContext::DeviceContext(std::string name, std::unique_ptr<Backend> backend)
    : name_(std::move(name)), backend_(std::move(backend)) {
  streams_[kComputeStream] = std::make_unique<Stream>(name_ + " compute", backend_->make_queue(false));
  streams_[kCommunicationStream] = std::make_unique<Stream>(name_ + " communication", backend_->make_queue(true));
  // Never on the thread of JavaScript: a rank whose event loop stands still in a collective serves no store, which the
  // others may need to get there.
  streams_[kCommunicationStream]->use_inline(false);
  allocator_ = std::make_unique<CachingAllocator>(*this, name_.c_str());
}

DeviceContext::~DeviceContext() {
  halt();
  join();
  allocator_.reset();
}

void DeviceContext::halt() {
  for (auto& s : streams_) s->halt();
}

void DeviceContext::join() {
  for (auto& s : streams_) s->join();
}

}  // namespace sg
