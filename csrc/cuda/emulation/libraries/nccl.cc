// A stand-in for libnccl.so.2 on the emulated runtime: the calls that nccl.h declares, between ranks in one process or
// in several on this machine. Where NCCL hangs, it tells: ranks that call different things, memory that must not be
// touched, and peers that do not come are errors of the communicator. Two ranks on one GPU are refused as NCCL does.
//
// SHARDGRAD_EMULATED_NCCL_VERSION=21805 makes it say that it is 2.18.5.
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "../../../core/half.h"
#include "nccl_work.h"

using namespace sg::emulated_nccl;
using namespace sg::nccl;

#define SG_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

std::mutex api_mutex;  // guards what follows, and the state of communicators; never held in a call that waits
std::map<CommTag*, Handle>& handles() {
  static auto* const all = new std::map<CommTag*, Handle>;
  return *all;
}

thread_local std::string last_error;
Result refuse(Result result, std::string why) {
  last_error = std::move(why);
  return result;
}

Handle find(Comm comm) {
  const auto found = handles().find(comm);
  return found == handles().end() ? nullptr : found->second;
}

int version() {
  static const int code = [] {
    const char* const text = std::getenv("SHARDGRAD_EMULATED_NCCL_VERSION");
    return text && std::atoi(text) > 0 ? std::atoi(text) : 23007;
  }();
  return code;
}

bool gpus_may_be_shared() {
  const char* const text = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return version() >= kSeveralRanksOnAGpu && text && std::strcmp(text, "1") == 0;
}

Comm new_handle(Handle communicator) {
  auto* const comm = reinterpret_cast<Comm>(communicator.get());
  handles().emplace(comm, std::move(communicator));
  return comm;
}

Result join(Comm* made, const std::string& name, int ranks, int rank, int device, bool blocking) {
  auto c = std::make_shared<Communicator>();
  c->name = name;
  c->rank = rank;
  c->ranks = ranks;
  c->blocking = blocking;
  c->joining_since = now();
  c->segment = open_segment(name);
  if (!c->segment) return refuse(kSystemError, "shm_open " + name);
  int32_t nobody = 0;
  if (!c->segment->ranks.compare_exchange_strong(nobody, ranks) && nobody != ranks)
    return refuse(kInvalidArgument, "the ranks disagree about their number");
  c->line().device = device;
  c->line().process = getpid();
  c->segment->joined++;
  *made = new_handle(std::move(c));
  return kInProgress;
}

void look_for_shared_gpus(Communicator& c) {
  if (gpus_may_be_shared()) return;
  for (int a = 0; a < c.ranks; a++) {
    for (int b = a + 1; b < c.ranks; b++) {
      if (c.segment->lines[a].device != c.segment->lines[b].device) continue;
      c.fail(kInvalidUsage, "Duplicate GPU detected: rank " + std::to_string(a) + " and rank " + std::to_string(b) +
                                " both on CUDA device " + std::to_string(c.segment->lines[a].device));
    }
  }
}

// What is under way besides the work in streams, as far as it has got.
Result advance(Communicator& c) {
  if (const Result error = c.error(); error != kSuccess) return error;
  if (c.state == State::kJoining) {
    if (c.segment->joined < c.ranks) {
      return now() - c.joining_since < longest_wait() ? kInProgress
                                                      : c.fail(kRemoteError, "not all ranks have come in time");
    }
    remove_name(c.name);
    look_for_shared_gpus(c);
    c.state = State::kReady;
    return c.error();
  }
  if (!c.split.under_way) return kSuccess;
  for (int r = 0; r < c.ranks; r++) {
    if (c.segment->lines[r].splits < c.splits) return kInProgress;
  }
  c.split.under_way = false;
  if (c.split.color == kNoColor) return kSuccess;
  int rank = 0, ranks = 0;
  for (int r = 0; r < c.ranks; r++) {
    const RankLine& line = c.segment->lines[r];
    const int key = line.key[c.splits & 1];
    if (line.color[c.splits & 1] != c.split.color) continue;
    ranks++;
    rank += key < c.split.key || (key == c.split.key && r < c.rank);
  }
  const std::string name = c.name + "-" + std::to_string(c.splits) + "-" + std::to_string(c.split.color);
  const Result joined = join(c.split.made, name, ranks, rank, c.line().device, c.split.blocking);
  return joined == kInProgress ? kSuccess : c.fail(joined, last_error);
}

// For blocking communicators.
Result wait(const Handle& c) {
  for (;; std::this_thread::sleep_for(std::chrono::microseconds(50))) {
    std::lock_guard lock(api_mutex);
    if (const Result result = advance(*c); result != kInProgress) return result;
  }
}

bool sound(const Config* config) { return !config || (config->magic == Config().magic && config->size >= 16); }
bool blocking(const Config* config) { return !config || config->blocking != 0; }

// ---- groups: what was called is enqueued when the group ends
struct Called {
  cudaStream_t stream;
  std::unique_ptr<Work> collective;  // or a message of this communicator
  Handle communicator;
  Message message;
};
thread_local int depth;
thread_local std::vector<Called> called;

Result flush() {
  std::vector<Called> all;
  all.swap(called);
  Result result = kSuccess;
  std::vector<std::pair<std::pair<cudaStream_t, Handle>, std::vector<Message>>> exchanges;
  const auto put = [&](cudaStream_t stream, std::unique_ptr<Work> work) {
    if (!work->communicator()->blocking && result == kSuccess) result = kInProgress;
    if (enqueue(stream, std::move(work)) != cudaSuccess) result = refuse(kUnhandledCudaError, "enqueueing failed");
  };
  for (Called& c : all) {
    if (c.collective) {
      put(c.stream, std::move(c.collective));
      continue;
    }
    const auto key = std::make_pair(c.stream, c.communicator);
    auto same = exchanges.begin();
    while (same != exchanges.end() && same->first != key) ++same;
    if (same == exchanges.end()) same = exchanges.insert(same, {key, {}});
    same->second.push_back(c.message);
  }
  for (auto& [key, messages] : exchanges)
    put(key.first, std::make_unique<MessageWork>(key.second, std::move(messages)));
  return result;
}

Result usable(Comm comm, Handle& c) {
  std::lock_guard lock(api_mutex);
  c = find(comm);
  if (!c) return refuse(kInvalidArgument, "no communicator");
  if (const Result error = c->error(); error != kSuccess) return refuse(error, c->error_text());
  if (c->state != State::kReady || c->split.under_way)
    return refuse(kInvalidUsage, "the communicator is in progress: ask ncclCommGetAsyncError until it is not");
  return kSuccess;
}

Result add(Called call) {
  called.push_back(std::move(call));
  return depth > 0 ? kSuccess : flush();
}

Result collective(Kind kind, const void* in, void* out, size_t count, Type type, int operation, int root, Comm comm,
                  cudaStream_t stream) {
  Handle c;
  if (const Result result = usable(comm, c); result != kSuccess) return result;
  if (root < -1 || root >= c->ranks) return refuse(kInvalidArgument, "invalid root");
  if (type < kInt8 || type > kFloat8E5m2 || (type >= kFloat8E4m3 && version() < kNewTypes))
    return refuse(kInvalidArgument, "invalid type");
  double factor = 1;
  if (operation > kAverage) {
    const size_t i = size_t(operation - kAverage - 1);
    if (i >= c->factors.size() || c->factors[i].first != type) return refuse(kInvalidArgument, "invalid operation");
    factor = c->factors[i].second;
    operation = kAverage + 1;  // whichever number each rank has for its own
  }
  const Call call{int32_t(kind), type, operation, root, count, factor};
  return add({stream, std::make_unique<CollectiveWork>(c, call, in, out), c, {}});
}

Result message(bool send, void* data, size_t count, Type type, int peer, Comm comm, cudaStream_t stream) {
  Handle c;
  if (const Result result = usable(comm, c); result != kSuccess) return result;
  if (peer < 0 || peer >= c->ranks) return refuse(kInvalidArgument, "invalid peer");
  return add({stream, nullptr, c, {send, static_cast<char*>(data), count * size_of(type), peer}});
}

}  // namespace

SG_EXPORT Result ncclGetVersion(int* code) {
  *code = version();
  return kSuccess;
}
SG_EXPORT Result ncclGetUniqueId(UniqueId* id) {
  std::memset(id, 0, sizeof *id);
  std::strncpy(id->bytes, new_name().c_str(), sizeof id->bytes - 1);
  return kSuccess;
}
SG_EXPORT Result ncclCommInitRankConfig(Comm* comm, int ranks, UniqueId id, int rank, Config* config) {
  if (!sound(config) || ranks < 1 || ranks > kMostRanks || rank < 0 || rank >= ranks)
    return refuse(kInvalidArgument, "invalid configuration or rank");
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return refuse(kUnhandledCudaError, "cudaGetDevice");
  Handle made;
  {
    std::lock_guard lock(api_mutex);
    const Result result = join(comm, id.bytes, ranks, rank, device, blocking(config));
    if (result != kInProgress) return result;
    made = find(*comm);
  }
  return made->blocking ? wait(made) : kInProgress;
}
SG_EXPORT Result ncclCommSplit(Comm comm, int color, int key, Comm* made, Config* config) {
  Handle c;
  if (const Result result = usable(comm, c); result != kSuccess) return result;
  if (!sound(config) || color < kNoColor) return refuse(kInvalidArgument, "invalid configuration or color");
  {
    std::lock_guard lock(api_mutex);
    *made = nullptr;
    c->splits++;
    c->split = {color, key, made, config ? blocking(config) : c->blocking, true};
    c->line().color[c->splits & 1] = color;
    c->line().key[c->splits & 1] = key;
    c->line().splits = c->splits;
  }
  if (!c->blocking) return kInProgress;
  const Result result = wait(c);
  if (result != kSuccess || !*made) return result;
  Handle part;
  {
    std::lock_guard lock(api_mutex);
    part = find(*made);
  }
  return part->blocking ? wait(part) : kSuccess;
}
SG_EXPORT Result ncclCommFinalize(Comm comm) {
  std::lock_guard lock(api_mutex);
  const Handle c = find(comm);
  if (!c) return refuse(kInvalidArgument, "no communicator");
  return c->finished == c->enqueued ? kSuccess : kInProgress;
}
SG_EXPORT Result ncclCommDestroy(Comm comm) {
  std::lock_guard lock(api_mutex);
  return handles().erase(comm) ? kSuccess : refuse(kInvalidArgument, "no communicator");
}
SG_EXPORT Result ncclCommAbort(Comm comm) {
  std::lock_guard lock(api_mutex);
  const Handle c = find(comm);
  if (!c) return refuse(kInvalidArgument, "no communicator");
  c->segment->aborted = 1;
  remove_name(c->name);
  handles().erase(comm);
  return kSuccess;
}
SG_EXPORT Result ncclCommGetAsyncError(Comm comm, Result* error) {
  std::lock_guard lock(api_mutex);
  const Handle c = find(comm);
  if (!c) return refuse(kInvalidArgument, "no communicator");
  *error = advance(*c);
  return kSuccess;
}
SG_EXPORT const char* ncclGetErrorString(Result result) {
  static const char* const texts[] = {"no error",
                                      "unhandled cuda error",
                                      "unhandled system error",
                                      "internal error",
                                      "invalid argument",
                                      "invalid usage",
                                      "remote process exited or there was a network error",
                                      "NCCL operation in progress",
                                      "timeout"};
  return result >= kSuccess && result <= kTimeout ? texts[result] : "unknown result code";
}
SG_EXPORT const char* ncclGetLastError(Comm comm) {
  std::lock_guard lock(api_mutex);
  if (const Handle c = find(comm); c && c->error() != kSuccess) last_error = c->error_text();
  return last_error.c_str();
}

SG_EXPORT Result ncclRedOpCreatePreMulSum(Op* op, void* scalar, Type type, Residence residence, Comm comm) {
  if (residence != kHostScalar) return refuse(kInvalidUsage, "a scalar on the device is not modelled");
  double factor = 0;
  switch (type) {
    case kFloat16: factor = float(*static_cast<sg::float16*>(scalar)); break;
    case kBfloat16: factor = float(*static_cast<sg::bfloat16*>(scalar)); break;
    case kFloat32: factor = *static_cast<float*>(scalar); break;
    case kFloat64: factor = *static_cast<double*>(scalar); break;
    case kFloat8E4m3: factor = float(*static_cast<sg::float8_e4m3*>(scalar)); break;
    case kFloat8E5m2: factor = float(*static_cast<sg::float8_e5m2*>(scalar)); break;
    default: return refuse(kInvalidArgument, "a factor of an integer type is not modelled");
  }
  std::lock_guard lock(api_mutex);
  const Handle c = find(comm);
  if (!c) return refuse(kInvalidArgument, "no communicator");
  c->factors.emplace_back(type, factor);
  *op = Op(int(kAverage) + int(c->factors.size()));
  return kSuccess;
}
SG_EXPORT Result ncclRedOpDestroy(Op op, Comm comm) {
  std::lock_guard lock(api_mutex);
  const Handle c = find(comm);
  if (!c || op <= kAverage || size_t(op - kAverage) > c->factors.size()) return kInvalidArgument;
  // what is enqueued has its factor
  if (size_t(op - kAverage) == c->factors.size()) c->factors.pop_back();
  return kSuccess;
}

SG_EXPORT Result ncclGroupStart() {
  depth++;
  return kSuccess;
}
SG_EXPORT Result ncclGroupEnd() {
  if (depth < 1) return refuse(kInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  return --depth > 0 ? kSuccess : flush();
}
SG_EXPORT Result ncclAllReduce(const void* in, void* out, size_t n, Type t, Op op, Comm comm, cudaStream_t stream) {
  return collective(Kind::kAllReduce, in, out, n, t, op, -1, comm, stream);
}
SG_EXPORT Result ncclReduce(const void* in, void* out, size_t n, Type t, Op op, int root, Comm comm, cudaStream_t s) {
  return collective(Kind::kReduce, in, out, n, t, op, root, comm, s);
}
SG_EXPORT Result ncclBroadcast(const void* in, void* out, size_t n, Type t, int root, Comm comm, cudaStream_t stream) {
  return collective(Kind::kBroadcast, in, out, n, t, kSum, root, comm, stream);
}
SG_EXPORT Result ncclAllGather(const void* in, void* out, size_t n, Type t, Comm comm, cudaStream_t stream) {
  return collective(Kind::kAllGather, in, out, n, t, kSum, -1, comm, stream);
}
SG_EXPORT Result ncclReduceScatter(const void* in, void* out, size_t n, Type t, Op op, Comm comm, cudaStream_t stream) {
  return collective(Kind::kReduceScatter, in, out, n, t, op, -1, comm, stream);
}
SG_EXPORT Result ncclGather(const void* in, void* out, size_t n, Type t, int root, Comm comm, cudaStream_t stream) {
  return collective(Kind::kGather, in, out, n, t, kSum, root, comm, stream);
}
SG_EXPORT Result ncclScatter(const void* in, void* out, size_t n, Type t, int root, Comm comm, cudaStream_t stream) {
  return collective(Kind::kScatter, in, out, n, t, kSum, root, comm, stream);
}
SG_EXPORT Result ncclSend(const void* data, size_t n, Type t, int peer, Comm comm, cudaStream_t stream) {
  return message(true, const_cast<void*>(data), n, t, peer, comm, stream);
}
SG_EXPORT Result ncclRecv(void* data, size_t n, Type t, int peer, Comm comm, cudaStream_t stream) {
  return message(false, data, n, t, peer, comm, stream);
}
