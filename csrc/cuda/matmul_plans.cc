#include "matmul_plans.h"

#include <cstring>

#include "../core/error.h"

namespace sg {

namespace {

using namespace cublaslt;

constexpr size_t kMaxWorkspace = size_t(32) << 20;  // what NVIDIA advises for Hopper
constexpr size_t kMaxPlans = 4096;

cudaDataType data_type(int64_t dtype) {
  switch (DType(dtype)) {
    case DType::k_float32: return CUDA_R_32F;
    case DType::k_float64: return CUDA_R_64F;
    case DType::k_float16: return CUDA_R_16F;
    case DType::k_bfloat16: return CUDA_R_16BF;
    default: fail(ErrorCode::Internal, "matmul: no matrix type for ", dtype_name(DType(dtype)));
  }
}

template <class T>
void set(Description d, DescriptionAttribute attribute, T value) {
  check(api().description_set(d, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
}

Layout layout(const LtMatrix& m, int64_t batch) {
  Layout made = nullptr;
  check(api().layout_create(&made, data_type(m.dtype), uint64_t(m.rows), uint64_t(m.columns), m.leading),
        "cublasLtMatrixLayoutCreate");
  if (batch > 1) {
    const int32_t count = int32_t(batch);
    check(api().layout_set(made, kBatchCount, &count, sizeof count), "cublasLtMatrixLayoutSetAttribute");
    check(api().layout_set(made, kStridedBatchOffset, &m.batch_stride, sizeof m.batch_stride),
          "cublasLtMatrixLayoutSetAttribute");
  }
  return made;
}

class Preferences {
 public:
  explicit Preferences(const LtProblem& p) {
    check(api().preference_create(&preference_), "cublasLtMatmulPreferenceCreate");
    set(kMaxWorkspaceBytes, kMaxWorkspace);
    constexpr PreferenceAttribute alignments[] = {kMinAlignmentA, kMinAlignmentB, kMinAlignmentC, kMinAlignmentD};
    for (int i = 0; i < 4; i++) set(alignments[i], uint32_t(p.alignment[i]));
  }
  ~Preferences() { api().preference_destroy(preference_); }
  Preference get() const { return preference_; }

 private:
  template <class T>
  void set(PreferenceAttribute attribute, T value) {
    check(api().preference_set(preference_, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
  }
  Preference preference_ = nullptr;
};

}  // namespace

LtPlan::~LtPlan() {
  const Api& lt = api();
  if (description) lt.description_destroy(description);
  for (Layout l : {a, b, d}) {
    if (l) lt.layout_destroy(l);
  }
}

MatmulPlans::MatmulPlans() { check(api().create(&handle_), "cublasLtCreate"); }

MatmulPlans::~MatmulPlans() {
  plans_.clear();
  api().destroy(handle_);
}

size_t MatmulPlans::Hash::operator()(const LtProblem& p) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&p);
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (size_t i = 0; i < sizeof p; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  return size_t(hash);
}

bool MatmulPlans::Same::operator()(const LtProblem& a, const LtProblem& b) const {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

std::unique_ptr<LtPlan> MatmulPlans::make(const LtProblem& p) const {
  auto plan = std::make_unique<LtPlan>();
  const bool wide = DType(p.d.dtype) == DType::k_float64;
  const ComputeType compute = wide ? kCompute64F : p.tf32 ? kCompute32FFastTF32 : kCompute32F;
  check(api().description_create(&plan->description, compute, wide ? CUDA_R_64F : CUDA_R_32F),
        "cublasLtMatmulDescCreate");
  set<int32_t>(plan->description, kTransA, p.a.transposed ? kTransposed : kNormal);
  set<int32_t>(plan->description, kTransB, p.b.transposed ? kTransposed : kNormal);
  set<uint32_t>(plan->description, kEpilogue, uint32_t(p.epilogue));
  if (p.epilogue & kWithBias) set<int32_t>(plan->description, kBiasDataType, data_type(p.d.dtype));
  if (p.epilogue & kWithAux) {
    set<int64_t>(plan->description, kEpilogueAuxLd, p.aux_leading);
    set<int64_t>(plan->description, kEpilogueAuxBatchStride, p.aux_batch_stride);
    // The choice of algorithm looks at its alignment; the pointer of each call has at least this one.
    set<const void*>(plan->description, kEpilogueAuxPointer, reinterpret_cast<const void*>(uintptr_t(16)));
  }
  plan->a = layout(p.a, p.batch);
  plan->b = layout(p.b, p.batch);
  plan->d = layout(p.d, p.batch);
  const Preferences preferences(p);
  HeuristicResult result{};
  int found = 0;
  const Status status = api().heuristic(handle_, plan->description, plan->a, plan->b, plan->d, plan->d,
                                        preferences.get(), 1, &result, &found);
  if (status != kNotSupported) check(status, "cublasLtMatmulAlgoGetHeuristic");
  plan->exists = status == 0 && found > 0 && result.status == 0;
  plan->algorithm = result.algorithm;
  plan->workspace = result.workspace_bytes;
  return plan;
}

LtPlan& MatmulPlans::find(const LtProblem& problem) {
  if (plans_.size() >= kMaxPlans) plans_.clear();  // shapes that change at every step
  auto& plan = plans_[problem];
  if (!plan) plan = make(problem);
  return *plan;
}

}  // namespace sg
