#include "staged_group.h"

#include <chrono>
#include <deque>
#include <thread>

#include "../core/platform.h"

namespace sg {

// The tensors of one call, and what stands for them on the host.
class StagedGroup::Tensors {
 public:
  Tensors(Stream& stream, Backend& memory) : stream_(stream), memory_(memory) {
    if (stream.queue()->capturing()) {
      fail(ErrorCode::Distributed, "staged groups wait for the host, which a graph cannot hold; use the nccl backend");
    }
  }

  // The view of the host; `load`: with the tensor's values, once wait() has returned.
  View& add(const View& x, bool load) {
    const size_t bytes = size_t(x.numel()) * dtype_size(x.dtype);
    all_.push_back({x, x, Staging(memory_, bytes), bytes});
    Tensor& t = all_.back();
    t.host.data = t.staging.data();
    if (load) memory_.copy_out(t.host.data, t.device.data, bytes);
    return t.host;
  }
  // For the copies, and so for everything before them; a barrier waits for that alone.
  void wait() {
    constexpr auto kNap = std::chrono::microseconds(20);
    DeviceQueue& queue = *stream_.queue();
    struct Recorded {
      DeviceQueue& queue;
      const DeviceQueue::Event event;
      ~Recorded() { queue.recycle(event); }
    } recorded{queue, queue.record()};
    if (spin_until(stream_settings().spin_ns, [&] { return queue.reached(recorded.event); })) return;
    const Stream::Waiting mark(stream_);
    while (!queue.reached(recorded.event)) std::this_thread::sleep_for(kNap);
  }
  // The tensor gets the host's values; the memory stays until it has.
  void store(View& host) {
    for (Tensor& t : all_) {
      if (&t.host != &host) continue;
      memory_.copy_in(t.device.data, host.data, t.bytes);
      const auto finish = [](Stream&, void* p) { delete static_cast<Staging*>(p); };
      stream_.when_done(finish, new Staging(std::move(t.staging)));
    }
  }

 private:
  struct Tensor {
    View device, host;
    Staging staging;
    size_t bytes;
  };
  Stream& stream_;
  Backend& memory_;
  std::deque<Tensor> all_;  // whose elements stay where they are
};

void StagedGroup::all_reduce(Stream& stream, View& x, Reduction r) {
  Tensors tensors(stream, memory_);
  View& host = tensors.add(x, true);
  tensors.wait();
  group_.all_reduce(stream, host, r);
  tensors.store(host);
}

void StagedGroup::reduce(Stream& stream, View& x, Reduction r, int root) {
  Tensors tensors(stream, memory_);
  View& host = tensors.add(x, true);
  tensors.wait();
  group_.reduce(stream, host, r, root);
  if (group_.rank() == root) tensors.store(host);
}

void StagedGroup::broadcast(Stream& stream, View& x, int root) {
  Tensors tensors(stream, memory_);
  View& host = tensors.add(x, group_.rank() == root);
  tensors.wait();
  group_.broadcast(stream, host, root);
  if (group_.rank() != root) tensors.store(host);
}

void StagedGroup::all_gather(Stream& stream, const View& x, View& y, Rest counts) {
  Tensors tensors(stream, memory_);
  const View& from = tensors.add(x, true);
  View& to = tensors.add(y, false);
  tensors.wait();
  group_.all_gather(stream, from, to, counts);
  tensors.store(to);
}

void StagedGroup::gather(Stream& stream, const View& x, View* y, Rest counts, int root) {
  Tensors tensors(stream, memory_);
  const View& from = tensors.add(x, true);
  View* const to = y ? &tensors.add(*y, false) : nullptr;
  tensors.wait();
  group_.gather(stream, from, to, counts, root);
  if (to && group_.rank() == root) tensors.store(*to);
}

void StagedGroup::scatter(Stream& stream, const View* x, View& y, Rest counts, int root) {
  Tensors tensors(stream, memory_);
  const View* const from = x ? &tensors.add(*x, true) : nullptr;
  View& to = tensors.add(y, false);
  tensors.wait();
  group_.scatter(stream, from, to, counts, root);
  tensors.store(to);
}

void StagedGroup::reduce_scatter(Stream& stream, const View& x, View& y, Rest counts, Reduction r) {
  Tensors tensors(stream, memory_);
  const View& from = tensors.add(x, true);
  View& to = tensors.add(y, false);
  tensors.wait();
  group_.reduce_scatter(stream, from, to, counts, r);
  tensors.store(to);
}

void StagedGroup::all_to_all(Stream& stream, const View& x, View& y, Rest counts) {
  Tensors tensors(stream, memory_);
  const View& from = tensors.add(x, true);
  View& to = tensors.add(y, false);
  tensors.wait();
  group_.all_to_all(stream, from, to, counts);
  tensors.store(to);
}

void StagedGroup::exchange(Stream& stream, const std::vector<Message>& messages) {
  Tensors tensors(stream, memory_);
  std::vector<View*> hosts;
  std::vector<Message> staged;
  for (const Message& m : messages) {
    hosts.push_back(&tensors.add(m.x, m.out));
    staged.push_back({*hosts.back(), m.peer, m.out});
  }
  tensors.wait();
  group_.exchange(stream, staged);
  for (size_t i = 0; i < messages.size(); i++) {
    if (!messages[i].out) tensors.store(*hosts[i]);
  }
}

// What was called before is done on the device, too.
void StagedGroup::barrier(Stream& stream) {
  Tensors(stream, memory_).wait();
  group_.barrier(stream);
}

}  // namespace sg
