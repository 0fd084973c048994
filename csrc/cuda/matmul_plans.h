// Plans of matrix products: descriptors and the algorithm cuBLASLt chose, kept by shape. Asking for them costs more
// than a small product.
#pragma once
#include <memory>
#include <unordered_map>

#include "../core/dtype.h"
#include "cublaslt.h"

namespace sg {

// A matrix of cuBLASLt's: columns lie `leading` elements apart.
struct LtMatrix {
  int64_t dtype;  // a DType; all fields are as wide, so that problems can be compared byte by byte
  int64_t rows, columns, leading, batch_stride;
  int64_t transposed;  // of what is multiplied
};

// D = epilogue(alpha op(A) op(B) + beta C + bias). C has D's layout.
struct LtProblem {
  LtMatrix a, b, d;
  int64_t batch;
  int64_t epilogue;  // cublaslt::EpilogueKind, joined
  int64_t aux_leading, aux_batch_stride;
  int64_t tf32;
  int32_t alignment[4];  // bytes, of A, B, C and D
};
static_assert(std::has_unique_object_representations_v<LtProblem>);

struct LtPlan {
  cublaslt::Description description = nullptr;
  cublaslt::Layout a = nullptr, b = nullptr, d = nullptr;
  cublaslt::Algorithm algorithm{};
  size_t workspace = 0;
  bool exists = false;  // cuBLASLt can do it
  LtPlan() = default;
  LtPlan(const LtPlan&) = delete;
  ~LtPlan();
};

class MatmulPlans {
 public:
  MatmulPlans();
  ~MatmulPlans();
  cublaslt::Handle handle() const { return handle_; }
  LtPlan& find(const LtProblem& problem);

 private:
  struct Hash {
    size_t operator()(const LtProblem& p) const;
  };
  struct Same {
    bool operator()(const LtProblem& a, const LtProblem& b) const;
  };
  std::unique_ptr<LtPlan> make(const LtProblem& problem) const;
  cublaslt::Handle handle_ = nullptr;
  std::unordered_map<LtProblem, std::unique_ptr<LtPlan>, Hash, Same> plans_;
};

}  // namespace sg
