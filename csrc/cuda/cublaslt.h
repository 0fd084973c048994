// The part of cuBLASLt that matmul uses, declared by its documented binary interface, so that building needs no headers
// of it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <library_types.h>

#include "library.h"

namespace sg::cublaslt {

using Status = int;  // 0: success
inline constexpr Status kNotSupported = 15;
using Handle = struct HandleTag*;
using Layout = struct LayoutTag*;
using Description = struct DescriptionTag*;
using Preference = struct PreferenceTag*;

enum ComputeType : int { kCompute32F = 68, kCompute32FFastTF32 = 77, kCompute64F = 70 };
enum LayoutAttribute : int { kBatchCount = 5, kStridedBatchOffset = 6 };
enum DescriptionAttribute : int {
  kTransA = 3,
  kTransB = 4,
  kEpilogue = 7,
  kBiasPointer = 8,
  kEpilogueAuxPointer = 11,
  kEpilogueAuxLd = 12,
  kEpilogueAuxBatchStride = 13,
  kEpilogueAuxDataType = 22,
  kBiasDataType = 26,
};
enum PreferenceAttribute : int {
  kMaxWorkspaceBytes = 1,
  kMinAlignmentA = 5,
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8,
};
enum EpilogueKind : uint32_t {
  kPlain = 1,
  kWithBias = 4,
  kGelu = 32,
  kDGelu = 64 | 128,
  kWithAux = 128,  // GELU: its argument is written to the auxiliary matrix
};
enum Operation : int32_t { kNormal = 0, kTransposed = 1 };

struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status status;
  float waves;
  int reserved[4];
};

// X(member, symbol, parameters)
#define SG_CUBLASLT(X)                                                                                               \
  X(get_version, cublasLtGetVersion, size_t())                                                                       \
  X(create, cublasLtCreate, Status(Handle*))                                                                         \
  X(destroy, cublasLtDestroy, Status(Handle))                                                                        \
  X(layout_create, cublasLtMatrixLayoutCreate, Status(Layout*, cudaDataType, uint64_t, uint64_t, int64_t))           \
  X(layout_destroy, cublasLtMatrixLayoutDestroy, Status(Layout))                                                     \
  X(layout_set, cublasLtMatrixLayoutSetAttribute, Status(Layout, LayoutAttribute, const void*, size_t))              \
  X(description_create, cublasLtMatmulDescCreate, Status(Description*, ComputeType, cudaDataType))                   \
  X(description_destroy, cublasLtMatmulDescDestroy, Status(Description))                                             \
  X(description_set, cublasLtMatmulDescSetAttribute, Status(Description, DescriptionAttribute, const void*, size_t)) \
  X(preference_create, cublasLtMatmulPreferenceCreate, Status(Preference*))                                          \
  X(preference_destroy, cublasLtMatmulPreferenceDestroy, Status(Preference))                                         \
  X(preference_set, cublasLtMatmulPreferenceSetAttribute,                                                            \
    Status(Preference, PreferenceAttribute, const void*, size_t))                                                    \
  X(heuristic, cublasLtMatmulAlgoGetHeuristic,                                                                       \
    Status(Handle, Description, Layout, Layout, Layout, Layout, Preference, int, HeuristicResult*, int*))            \
  X(matmul, cublasLtMatmul,                                                                                          \
    Status(Handle, Description, const void*, const void*, Layout, const void*, Layout, const void*, const void*,     \
           Layout, void*, Layout, const Algorithm*, void*, size_t, cudaStream_t))

struct Api {
  Library library;
  Api();
#define SG_ROW(member, symbol, ...) std::add_pointer_t<__VA_ARGS__> member = nullptr;
  SG_CUBLASLT(SG_ROW)
#undef SG_ROW
};

const Api& find();  // looked for once; `library` says whether it is there
const Api& api();   // throws what was tried
void check(Status status, const char* what);

}  // namespace sg::cublaslt
