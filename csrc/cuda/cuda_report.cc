#include "../core/accelerators.h"
#include "cublaslt.h"
#include "gpu_info.h"
#include "matmul_settings.h"
#include "nccl.h"

namespace sg {

namespace {

std::string version_text(int v) {
  return v ? std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10) : std::string();
}

CudaReport::FoundLibrary found(const char* name, const Library& library, std::string version) {
  return {name, library.path(), std::move(version), library.tried()};
}

}  // namespace

CudaReport report_cuda() {
  CudaReport report;
  const GpuSurvey& survey = gpus();
  report.problem = survey.problem;
  report.driver = version_text(survey.driver);
  report.runtime = version_text(survey.runtime);
  for (const GpuInfo& g : survey.gpus) {
    report.gpus.push_back({g.name, g.major, g.minor, g.multiprocessors, g.total_bytes, g.bus_id});
  }
  const auto& lt = cublaslt::find();
  std::string version;
  if (lt.get_version) {  // 130101
    const size_t v = lt.get_version();
    version = std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  }
  report.libraries.push_back(found("cuBLASLt", lt.library, version));
  const auto& nccl = nccl::find();
  report.libraries.push_back(found("NCCL", nccl.library, nccl.version ? nccl::version_text(nccl.version) : ""));
  return report;
}

void set_matmul_tf32(bool on) { matmul_tf32 = on; }

}  // namespace sg
