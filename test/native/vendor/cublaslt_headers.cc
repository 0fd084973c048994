// Our declarations of cuBLASLt beside a header of cuBLASLt's: compiled only (scripts/check-vendor-headers), never
// linked. A status is an int of ours, so it is told apart from counts by where it stands: what a function returns.
#include <cstddef>
#include <cublasLt.h>

#include "../../../csrc/cuda/cublaslt.h"
#include "vendor.h"

namespace sg::vendor {

using namespace cublaslt;

SG_IS(HandleTag, std::remove_pointer_t<cublasLtHandle_t>)
SG_IS(LayoutTag, std::remove_pointer_t<cublasLtMatrixLayout_t>)
SG_IS(DescriptionTag, std::remove_pointer_t<cublasLtMatmulDesc_t>)
SG_IS(PreferenceTag, std::remove_pointer_t<cublasLtMatmulPreference_t>)
SG_IS(Algorithm, cublasLtMatmulAlgo_t)
SG_IS(HeuristicResult, cublasLtMatmulHeuristicResult_t)
SG_IS(ComputeType, cublasComputeType_t)
SG_IS(LayoutAttribute, cublasLtMatrixLayoutAttribute_t)
SG_IS(DescriptionAttribute, cublasLtMatmulDescAttributes_t)
SG_IS(PreferenceAttribute, cublasLtMatmulPreferenceAttributes_t)
template <class... P>
struct Vendor<Status(P...)> {
  using type = cublasStatus_t(vendor_t<P>...);
};

#define SG_ROW(member, symbol, ...) \
  static_assert(std::is_same_v<vendor_t<__VA_ARGS__>, decltype(symbol)>, #symbol " has other parameters");
SG_CUBLASLT(SG_ROW)
#undef SG_ROW

SG_VALUE(0, CUBLAS_STATUS_SUCCESS)
SG_VALUE(3, CUBLAS_STATUS_ALLOC_FAILED)
SG_VALUE(kNotSupported, CUBLAS_STATUS_NOT_SUPPORTED)
SG_VALUE(kCompute32F, CUBLAS_COMPUTE_32F)
SG_VALUE(kCompute32FFastTF32, CUBLAS_COMPUTE_32F_FAST_TF32)
SG_VALUE(kCompute64F, CUBLAS_COMPUTE_64F)
SG_VALUE(kBatchCount, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
SG_VALUE(kStridedBatchOffset, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)
SG_VALUE(kTransA, CUBLASLT_MATMUL_DESC_TRANSA)
SG_VALUE(kTransB, CUBLASLT_MATMUL_DESC_TRANSB)
SG_VALUE(kEpilogue, CUBLASLT_MATMUL_DESC_EPILOGUE)
SG_VALUE(kBiasPointer, CUBLASLT_MATMUL_DESC_BIAS_POINTER)
SG_VALUE(kBiasDataType, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE)
SG_VALUE(kEpilogueAuxPointer, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER)
SG_VALUE(kEpilogueAuxLd, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD)
SG_VALUE(kEpilogueAuxBatchStride, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE)
SG_VALUE(kEpilogueAuxDataType, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE)
SG_VALUE(kMaxWorkspaceBytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
SG_VALUE(kMinAlignmentA, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES)
SG_VALUE(kMinAlignmentB, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES)
SG_VALUE(kMinAlignmentC, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES)
SG_VALUE(kMinAlignmentD, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
SG_VALUE(kPlain, CUBLASLT_EPILOGUE_DEFAULT)
SG_VALUE(kWithBias, CUBLASLT_EPILOGUE_BIAS)
SG_VALUE(kGelu, CUBLASLT_EPILOGUE_GELU)
SG_VALUE(kDGelu, CUBLASLT_EPILOGUE_DGELU)
SG_VALUE(kGelu | kWithAux, CUBLASLT_EPILOGUE_GELU_AUX)
SG_VALUE(kGelu | kWithBias, CUBLASLT_EPILOGUE_GELU_BIAS)
SG_VALUE(kGelu | kWithAux | kWithBias, CUBLASLT_EPILOGUE_GELU_AUX_BIAS)
SG_VALUE(kNormal, CUBLAS_OP_N)
SG_VALUE(kTransposed, CUBLAS_OP_T)
// set by pointer and size
static_assert(sizeof(EpilogueKind) == sizeof(cublasLtEpilogue_t) && sizeof(Operation) == sizeof(cublasOperation_t));
static_assert(sizeof(ComputeType) == sizeof(cublasComputeType_t) && sizeof(Status) == sizeof(cublasStatus_t));

static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t) && alignof(Algorithm) == alignof(cublasLtMatmulAlgo_t));
static_assert(sizeof(HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
SG_MEMBER(HeuristicResult, algorithm, cublasLtMatmulHeuristicResult_t, algo)
SG_MEMBER(HeuristicResult, workspace_bytes, cublasLtMatmulHeuristicResult_t, workspaceSize)
SG_MEMBER(HeuristicResult, status, cublasLtMatmulHeuristicResult_t, state)
SG_MEMBER(HeuristicResult, waves, cublasLtMatmulHeuristicResult_t, wavesCount)
SG_MEMBER(HeuristicResult, reserved, cublasLtMatmulHeuristicResult_t, reserved)

}  // namespace sg::vendor
