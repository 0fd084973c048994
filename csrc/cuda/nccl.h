// The part of NCCL that process groups use, declared by its documented binary interface for the versions 2.18 to 2.30,
// so that building needs no headers of it. What is newer than the library that was found stays null.
#pragma once
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <string>
#include <type_traits>

#include "library.h"

namespace sg::nccl {

using Comm = struct CommTag*;
struct UniqueId {
  char bytes[128];
};

enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
  kTimeout = 8,
};
enum Type : int {
  kInt8 = 0,
  kUint8 = 1,
  kInt32 = 2,
  kUint32 = 3,
  kInt64 = 4,
  kUint64 = 5,
  kFloat16 = 6,
  kFloat32 = 7,
  kFloat64 = 8,
  kBfloat16 = 9,
  kFloat8E4m3 = 10,
  kFloat8E5m2 = 11,
};
// Beyond these: what red_op_create made.
enum Op : int { kSum = 0, kProduct = 1, kMax = 2, kMin = 3, kAverage = 4 };
enum Residence : int { kDeviceScalar = 0, kHostScalar = 1 };
inline constexpr int kNoColor = -1;

// As of 2.18. The library takes as much of it as `size` says, and gives what its `version` did not have its defaults.
struct Config {
  size_t size = sizeof(Config);
  uint32_t magic = 0xcafebeef;
  uint32_t version = 21800;
  int blocking = 0;
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
};

inline constexpr int kOldest = 21800, kNewTypes = 22400, kNewCollectives = 22803, kSeveralRanksOnAGpu = 23003;

// X(member, symbol, the version it came with, parameters)
#define SG_NCCL(X)                                                                                                \
  X(get_unique_id, ncclGetUniqueId, kOldest, Result(UniqueId*))                                                   \
  X(comm_init, ncclCommInitRankConfig, kOldest, Result(Comm*, int, UniqueId, int, Config*))                       \
  X(comm_split, ncclCommSplit, kOldest, Result(Comm, int, int, Comm*, Config*))                                   \
  X(comm_finalize, ncclCommFinalize, kOldest, Result(Comm))                                                       \
  X(comm_destroy, ncclCommDestroy, kOldest, Result(Comm))                                                         \
  X(comm_abort, ncclCommAbort, kOldest, Result(Comm))                                                             \
  X(comm_get_async_error, ncclCommGetAsyncError, kOldest, Result(Comm, Result*))                                  \
  X(get_error_string, ncclGetErrorString, kOldest, const char*(Result))                                           \
  X(get_last_error, ncclGetLastError, kOldest, const char*(Comm))                                                 \
  X(group_start, ncclGroupStart, kOldest, Result())                                                               \
  X(group_end, ncclGroupEnd, kOldest, Result())                                                                   \
  X(red_op_create, ncclRedOpCreatePreMulSum, kOldest, Result(Op*, void*, Type, Residence, Comm))                  \
  X(red_op_destroy, ncclRedOpDestroy, kOldest, Result(Op, Comm))                                                  \
  X(all_reduce, ncclAllReduce, kOldest, Result(const void*, void*, size_t, Type, Op, Comm, cudaStream_t))         \
  X(reduce, ncclReduce, kOldest, Result(const void*, void*, size_t, Type, Op, int, Comm, cudaStream_t))           \
  X(broadcast, ncclBroadcast, kOldest, Result(const void*, void*, size_t, Type, int, Comm, cudaStream_t))         \
  X(all_gather, ncclAllGather, kOldest, Result(const void*, void*, size_t, Type, Comm, cudaStream_t))             \
  X(reduce_scatter, ncclReduceScatter, kOldest, Result(const void*, void*, size_t, Type, Op, Comm, cudaStream_t)) \
  X(send, ncclSend, kOldest, Result(const void*, size_t, Type, int, Comm, cudaStream_t))                          \
  X(recv, ncclRecv, kOldest, Result(void*, size_t, Type, int, Comm, cudaStream_t))                                \
  X(gather, ncclGather, kNewCollectives, Result(const void*, void*, size_t, Type, int, Comm, cudaStream_t))       \
  X(scatter, ncclScatter, kNewCollectives, Result(const void*, void*, size_t, Type, int, Comm, cudaStream_t))

struct Api {
  Library library;
  int version = 0;      // 23007: 2.30.7
  std::string problem;  // why there is none that can be used; empty: there is
  Api();
#define SG_ROW(member, symbol, since, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  SG_NCCL(SG_ROW)
#undef SG_ROW
};

const Api& find();  // looked for once
const Api& api();   // throws what the problem is
std::string version_text(int version);
// What NCCL says, and what of this machine may be the reason.
std::string explain(const char* what, Result result, Comm comm);

}  // namespace sg::nccl
