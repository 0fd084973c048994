#include "nccl_work.h"

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../../../core/half.h"
#include "../library.h"

namespace sg::emulated_nccl {

namespace {

// Integers wrap around.
template <class A>
A sum(A a, A b) {
  if constexpr (std::is_integral_v<A>) return A(uint64_t(a) + uint64_t(b));
  else return a + b;
}
template <class A>
A product(A a, A b) {
  if constexpr (std::is_integral_v<A>) return A(uint64_t(a) * uint64_t(b));
  else return a * b;
}

// y = the reduction of n elements of every rank, in rank order; 16-bit and 8-bit floats in float32.
template <class T, class A>
void reduce_as(const char* const* parts, const double* factors, int ranks, int operation, void* y, size_t n) {
  for (size_t i = 0; i < n; i++) {
    A total{};
    for (int r = 0; r < ranks; r++) {
      A x = A(reinterpret_cast<const T*>(parts[r])[i]);
      if (factors) x = product(x, A(factors[r]));
      if (r == 0) total = x;
      else if (operation == nccl::kProduct) total = product(total, x);
      else if (operation == nccl::kMax) total = std::max(total, x);
      else if (operation == nccl::kMin) total = std::min(total, x);
      else total = sum(total, x);
    }
    if (operation == nccl::kAverage) total = A(total / A(ranks));
    static_cast<T*>(y)[i] = T(total);
  }
}

void reduce(nccl::Type type, const char* const* parts, const double* factors, int ranks, int operation, void* y,
            size_t n) {
  switch (type) {
    case nccl::kInt8: return reduce_as<int8_t, int64_t>(parts, factors, ranks, operation, y, n);
    case nccl::kUint8: return reduce_as<uint8_t, uint64_t>(parts, factors, ranks, operation, y, n);
    case nccl::kInt32: return reduce_as<int32_t, int64_t>(parts, factors, ranks, operation, y, n);
    case nccl::kUint32: return reduce_as<uint32_t, uint64_t>(parts, factors, ranks, operation, y, n);
    case nccl::kInt64: return reduce_as<int64_t, int64_t>(parts, factors, ranks, operation, y, n);
    case nccl::kUint64: return reduce_as<uint64_t, uint64_t>(parts, factors, ranks, operation, y, n);
    case nccl::kFloat16: return reduce_as<float16, float>(parts, factors, ranks, operation, y, n);
    case nccl::kFloat32: return reduce_as<float, float>(parts, factors, ranks, operation, y, n);
    case nccl::kFloat64: return reduce_as<double, double>(parts, factors, ranks, operation, y, n);
    case nccl::kBfloat16: return reduce_as<bfloat16, float>(parts, factors, ranks, operation, y, n);
    case nccl::kFloat8E4m3: return reduce_as<float8_e4m3, float>(parts, factors, ranks, operation, y, n);
    case nccl::kFloat8E5m2: return reduce_as<float8_e5m2, float>(parts, factors, ranks, operation, y, n);
  }
}

const char* const kKinds[] = {"AllReduce", "Reduce", "Broadcast", "AllGather", "ReduceScatter", "Gather", "Scatter"};

std::string show(const Call& c) {
  return std::string(kKinds[c.kind]) + "(count " + std::to_string(c.count) + ", type " + std::to_string(c.type) +
         ", operation " + std::to_string(c.operation) + ", root " + std::to_string(c.root) + ")";
}

}  // namespace

size_t size_of(nccl::Type type) {
  switch (type) {
    case nccl::kFloat16:
    case nccl::kBfloat16: return 2;
    case nccl::kInt32:
    case nccl::kUint32:
    case nccl::kFloat32: return 4;
    case nccl::kInt64:
    case nccl::kUint64:
    case nccl::kFloat64: return 8;
    default: return 1;
  }
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

double longest_wait() {
  static const double seconds = [] {
    const char* const text = std::getenv("SHARDGRAD_EMULATED_NCCL_TIMEOUT_MS");
    return text && std::atof(text) > 0 ? std::atof(text) / 1000 : 60.0;
  }();
  return seconds;
}

Communicator::~Communicator() {
  if (segment) close_segment(segment);
}

nccl::Result Communicator::error() {
  std::lock_guard lock(mutex_);
  if (error_ == nccl::kSuccess && segment && segment->aborted) {
    error_ = nccl::kRemoteError;
    text_ = "a rank has aborted the communicator";
  }
  return error_;
}
std::string Communicator::error_text() {
  std::lock_guard lock(mutex_);
  return text_;
}
nccl::Result Communicator::fail(nccl::Result result, std::string text) {
  std::lock_guard lock(mutex_);
  if (error_ == nccl::kSuccess) {
    error_ = result;
    text_ = std::move(text);
  }
  return error_;
}

namespace {

// SHARDGRAD_EMULATED_NCCL_STALL=5: this process stands still in its fifth collective or exchange, as with a GPU that
// hangs.
bool stalls(uint64_t number) {
  static const uint64_t first = [] {
    const char* const text = std::getenv("SHARDGRAD_EMULATED_NCCL_STALL");
    return text ? std::strtoull(text, nullptr, 10) : 0;
  }();
  return first > 0 && number >= first;
}

}  // namespace

bool Work::touch(const void* p, size_t bytes, bool writes) const {
  return bytes == 0 || sgEmulationAccess(p, bytes, writes, "NCCL");
}

bool Work::advance() {
  if (comm_->error() != nccl::kSuccess) return true;
  if (stalls(comm_->done + 1)) return false;
  if (progress()) return true;
  if (since_ == 0) since_ = now();
  if (now() - since_ < longest_wait()) return false;
  return fail(nccl::kTimeout, "a peer is missing, or has issued something else");
}

// ---- collectives
bool CollectiveWork::reads() const {
  return comm_->rank == call_.root || (kind() != Kind::kBroadcast && kind() != Kind::kScatter);
}
bool CollectiveWork::writes() const {
  return comm_->rank == call_.root || (kind() != Kind::kReduce && kind() != Kind::kGather);
}

size_t CollectiveWork::room() const {
  return kSlotBytes / size_of(nccl::Type(call_.type)) / size_t(in_parts() ? comm_->ranks : 1);
}

void CollectiveWork::begin() {
  const size_t each = size_of(nccl::Type(call_.type)), ranks = size_t(comm_->ranks);
  const bool gathers = kind() == Kind::kAllGather || kind() == Kind::kGather;
  refused_ = (reads() && !touch(in_, call_.count * each * (in_parts() ? ranks : 1), false)) ||
             (writes() && !touch(out_, call_.count * each * (gathers ? ranks : 1), true));
  comm_->collectives++;
  comm_->line().call[comm_->collectives & 1] = call_;
  if (refused_) return;
  comm_->round++;
  write_slot();
  comm_->line().round = comm_->round;
}

void CollectiveWork::write_slot() {
  if (!reads()) return;
  const size_t each = size_of(nccl::Type(call_.type)), n = std::min(room(), call_.count - at_);
  char* const mine = slot(comm_->rank, comm_->round);
  for (size_t p = 0; p < (in_parts() ? size_t(comm_->ranks) : 1); p++) {
    if (n > 0) std::memcpy(mine + p * room() * each, in_ + (p * call_.count + at_) * each, n * each);
  }
}

void CollectiveWork::read_slots() {
  const size_t each = size_of(nccl::Type(call_.type)), n = std::min(room(), call_.count - at_);
  if (!writes() || n == 0) return;
  const char* parts[kMostRanks];
  double factors[kMostRanks];
  const size_t part = kind() == Kind::kReduceScatter ? size_t(comm_->rank) * room() * each : 0;
  for (int r = 0; r < comm_->ranks; r++) {
    parts[r] = slot(r, comm_->round) + part;
    factors[r] = call_of(r).factor;
  }
  const bool premultiplied = call_.operation > nccl::kAverage;
  switch (kind()) {
    case Kind::kAllReduce:
    case Kind::kReduce:
    case Kind::kReduceScatter:
      reduce(nccl::Type(call_.type), parts, premultiplied ? factors : nullptr, comm_->ranks, call_.operation,
             out_ + at_ * each, n);
      return;
    case Kind::kBroadcast: std::memmove(out_ + at_ * each, parts[call_.root], n * each); return;
    case Kind::kScatter:
      std::memcpy(out_ + at_ * each, parts[call_.root] + size_t(comm_->rank) * room() * each, n * each);
      return;
    case Kind::kAllGather:
    case Kind::kGather:
      for (int r = 0; r < comm_->ranks; r++)
        std::memcpy(out_ + (size_t(r) * call_.count + at_) * each, parts[r], n * each);
      return;
  }
}

bool CollectiveWork::compare() {
  for (int r = 0; r < comm_->ranks; r++) {
    const Call& theirs = call_of(r);
    if (theirs.kind == call_.kind && theirs.count == call_.count && theirs.type == call_.type &&
        theirs.operation == call_.operation && theirs.root == call_.root)
      continue;
    fail(nccl::kInvalidUsage, "this rank calls " + show(call_) + ", rank " + std::to_string(r) + " " + show(theirs));
    return false;
  }
  return true;
}

bool CollectiveWork::progress() {
  if (refused_) return fail(nccl::kUnhandledCudaError, "memory that must not be touched");
  for (;;) {
    for (int r = 0; r < comm_->ranks; r++) {
      if (comm_->segment->lines[r].round < comm_->round) return false;
    }
    if (!signed_ && !compare()) return true;
    signed_ = true;
    read_slots();
    at_ += std::min(room(), call_.count - at_);
    if (at_ == call_.count) return true;
    comm_->round++;
    write_slot();
    comm_->line().round = comm_->round;
  }
}

// ---- messages
void MessageWork::begin() {
  for (const Message& m : messages_) {
    if (!touch(m.data, m.bytes, !m.send)) fail(nccl::kUnhandledCudaError, "memory that must not be touched");
  }
}

bool MessageWork::move(Message& m) {
  Segment& s = *comm_->segment;
  Channel& way = m.send ? s.channels[comm_->rank][m.peer] : s.channels[m.peer][comm_->rank];
  const bool full = way.written != way.read;
  if (full == m.send) return false;
  if (m.send) {
    const size_t n = std::min(kChannelBytes, m.bytes - m.done);
    way.message_bytes = m.bytes;
    way.piece_bytes = n;
    std::memcpy(way.data, m.data + m.done, n);
    m.done += n;
    way.written++;
  } else {
    if (way.message_bytes != m.bytes) {
      fail(nccl::kInvalidUsage, "Recv of " + std::to_string(m.bytes) + " bytes from rank " + std::to_string(m.peer) +
                                    ", which sends " + std::to_string(way.message_bytes));
      return false;
    }
    std::memcpy(m.data + m.done, way.data, way.piece_bytes);
    m.done += way.piece_bytes;
    way.read++;
  }
  m.over = m.done == m.bytes;
  return true;
}

// All together; those between the same two ranks in their order.
bool MessageWork::progress() {
  for (bool moved = true; moved;) {
    moved = false;
    bool left = false;
    for (size_t i = 0; i < messages_.size(); i++) {
      Message& m = messages_[i];
      if (m.over) continue;
      left = true;
      const bool behind = std::any_of(messages_.begin(), messages_.begin() + std::ptrdiff_t(i), [&](const Message& o) {
        return !o.over && o.send == m.send && o.peer == m.peer;
      });
      moved |= !behind && move(m);
    }
    if (!left) return true;
  }
  return comm_->error() != nccl::kSuccess;
}

// ---- in a stream: first what may be touched is looked at and the others are told, then it is asked until it is over
cudaError_t enqueue(cudaStream_t stream, std::unique_ptr<Work> work) {
  struct Job {
    std::unique_ptr<Work> work;
    uint64_t ticket;
  };
  Communicator& comm = *work->communicator();
  auto* const job = new Job{std::move(work), comm.enqueued++};
  const auto turn = [](void* p) {
    const Job& j = *static_cast<Job*>(p);
    return int(j.work->communicator()->done == j.ticket);
  };
  const auto begin = [](void* p) { static_cast<Job*>(p)->work->begin(); };
  const auto over = [](void* p) { return int(static_cast<Job*>(p)->work->advance()); };
  const auto finish = [](void* p) {
    Communicator& c = *static_cast<Job*>(p)->work->communicator();
    c.done++;
    c.finished++;
  };
  const auto release = [](void* p) { delete static_cast<Job*>(p); };
  if (const cudaError_t error = sgEmulationEnqueue(stream, turn, begin, nullptr, job)) {
    delete job;
    return error;
  }
  return sgEmulationEnqueue(stream, over, finish, release, job);
}

}  // namespace sg::emulated_nccl
