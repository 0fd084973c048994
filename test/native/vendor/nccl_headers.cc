// Our declarations of NCCL beside a header of NCCL's: compiled only (scripts/check-vendor-headers), never linked.
// Values and functions that are newer than the header are left out.
#include <cstddef>
#include <nccl.h>

#include "../../../csrc/cuda/nccl.h"
#include "vendor.h"

// Names that older headers do not have; their rows are skipped below.
#if NCCL_VERSION_CODE < 22803
void ncclGather();
void ncclScatter();
#endif

namespace sg::vendor {

using namespace nccl;

SG_IS(CommTag, std::remove_pointer_t<ncclComm_t>)
SG_IS(UniqueId, ncclUniqueId)
SG_IS(Config, ncclConfig_t)
SG_IS(Result, ncclResult_t)
SG_IS(Type, ncclDataType_t)
SG_IS(Op, ncclRedOp_t)
SG_IS(Residence, ncclScalarResidence_t)

#define SG_ROW(member, symbol, since, ...)                                                              \
  static_assert((since) > NCCL_VERSION_CODE || std::is_same_v<vendor_t<__VA_ARGS__>, decltype(symbol)>, \
                #symbol " has other parameters");
SG_NCCL(SG_ROW)
#undef SG_ROW

SG_VALUE(kSuccess, ncclSuccess)
SG_VALUE(kUnhandledCudaError, ncclUnhandledCudaError)
SG_VALUE(kSystemError, ncclSystemError)
SG_VALUE(kInternalError, ncclInternalError)
SG_VALUE(kInvalidArgument, ncclInvalidArgument)
SG_VALUE(kInvalidUsage, ncclInvalidUsage)
SG_VALUE(kRemoteError, ncclRemoteError)
SG_VALUE(kInProgress, ncclInProgress)
#if NCCL_VERSION_CODE >= 23000
SG_VALUE(kTimeout, ncclTimeout)
#endif

SG_VALUE(kInt8, ncclInt8)
SG_VALUE(kUint8, ncclUint8)
SG_VALUE(kInt32, ncclInt32)
SG_VALUE(kUint32, ncclUint32)
SG_VALUE(kInt64, ncclInt64)
SG_VALUE(kUint64, ncclUint64)
SG_VALUE(kFloat16, ncclFloat16)
SG_VALUE(kFloat32, ncclFloat32)
SG_VALUE(kFloat64, ncclFloat64)
SG_VALUE(kBfloat16, ncclBfloat16)
#if NCCL_VERSION_CODE >= 22400
SG_VALUE(kFloat8E4m3, ncclFloat8e4m3)
SG_VALUE(kFloat8E5m2, ncclFloat8e5m2)
#endif

SG_VALUE(kSum, ncclSum)
SG_VALUE(kProduct, ncclProd)
SG_VALUE(kMax, ncclMax)
SG_VALUE(kMin, ncclMin)
SG_VALUE(kAverage, ncclAvg)
SG_VALUE(kDeviceScalar, ncclScalarDevice)
SG_VALUE(kHostScalar, ncclScalarHostImmediate)
SG_VALUE(kNoColor, NCCL_SPLIT_NOCOLOR)
static_assert(sizeof(Result) == sizeof(ncclResult_t) && sizeof(Type) == sizeof(ncclDataType_t));
static_assert(sizeof(Op) == sizeof(ncclRedOp_t) && sizeof(Residence) == sizeof(ncclScalarResidence_t));

static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId) && alignof(UniqueId) == alignof(ncclUniqueId));

// Ours ends where that of 2.18 did; later versions only add to it.
SG_MEMBER(Config, size, ncclConfig_t, size)
SG_MEMBER(Config, magic, ncclConfig_t, magic)
SG_MEMBER(Config, version, ncclConfig_t, version)
SG_MEMBER(Config, blocking, ncclConfig_t, blocking)
SG_MEMBER(Config, cga_cluster_size, ncclConfig_t, cgaClusterSize)
SG_MEMBER(Config, min_ctas, ncclConfig_t, minCTAs)
SG_MEMBER(Config, max_ctas, ncclConfig_t, maxCTAs)
SG_MEMBER(Config, net_name, ncclConfig_t, netName)
SG_MEMBER(Config, split_share, ncclConfig_t, splitShare)
static_assert(sizeof(Config) <= sizeof(ncclConfig_t));
constexpr ncclConfig_t kTheirs = NCCL_CONFIG_INITIALIZER;
constexpr Config kOurs;
SG_VALUE(kOurs.magic, kTheirs.magic)
SG_VALUE(kOurs.version, NCCL_VERSION(2, 18, 0))
SG_VALUE(kOurs.cga_cluster_size, kTheirs.cgaClusterSize)
SG_VALUE(kOurs.min_ctas, kTheirs.minCTAs)
SG_VALUE(kOurs.max_ctas, kTheirs.maxCTAs)
SG_VALUE(kOurs.split_share, kTheirs.splitShare)
static_assert(kOurs.net_name == kTheirs.netName);

}  // namespace sg::vendor
