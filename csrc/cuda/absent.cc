// In place of the CUDA backend where it was not built.
#include "../comm/nccl.h"
#include "../core/accelerators.h"
#include "../core/backend.h"

namespace sg {

constexpr const char* kProblem =
    "this binary was built without CUDA (no nvcc was found); the prebuilt one for linux-x64 has it";

std::unique_ptr<Backend> open_cuda(int index) { fail(ErrorCode::Device, "no device cuda:", index, ": ", kProblem); }

CudaReport report_cuda() {
  CudaReport report;
  report.problem = kProblem;
  return report;
}

void set_matmul_tf32(bool) {}

NcclLibrary find_nccl() { return {0, kProblem}; }
std::string make_nccl_id() { fail(ErrorCode::Distributed, "nccl: ", kProblem); }
void start_nccl(Stream&, Group&, const char*) { fail(ErrorCode::Distributed, "nccl: ", kProblem); }
void split_nccl(Stream&, Group&, const std::shared_ptr<Group>&, int, int) {
  fail(ErrorCode::Distributed, "nccl: ", kProblem);
}

}  // namespace sg
