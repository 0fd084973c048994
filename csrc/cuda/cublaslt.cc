#include "cublaslt.h"

#include "../core/error.h"

namespace sg::cublaslt {

Api::Api()
    : library({"cuBLASLt",
               "SHARDGRAD_CUBLASLT",
               {"libcublasLt.so.13", "libcublasLt.so.12"},
               {"nvidia/cu13/lib", "nvidia/cublas/lib"},
               "install NVIDIA's CUDA toolkit or its cuBLAS package, or name the file in SHARDGRAD_CUBLASLT"}) {
#define SG_ROW(member, symbol, ...) library.bind(member, #symbol);
  SG_CUBLASLT(SG_ROW)
#undef SG_ROW
}

const Api& find() {
  static const auto* const found = new Api;
  return *found;
}

const Api& api() {
  const Api& found = find();
  if (!found.library.found()) fail(ErrorCode::Device, "matmul on cuda: ", found.library.problem());
  return found;
}

void check(Status status, const char* what) {
  static constexpr struct {
    Status status;
    const char* text;
  } texts[] = {
      {1, "not initialised"}, {3, "out of memory"},     {7, "invalid value"},   {8, "architecture mismatch"},
      {11, "mapping error"},  {13, "execution failed"}, {14, "internal error"}, {kNotSupported, "not supported"}};
  if (status == 0) return;
  const char* text = "unknown status";
  for (const auto& known : texts) text = known.status == status ? known.text : text;
  fail(status == 3 ? ErrorCode::OutOfMemory : ErrorCode::Device, what, ": cuBLASLt says ", text, " (", status, ")");
}

}  // namespace sg::cublaslt
