// What there is of CUDA on this machine, for reports, and what may be set about it.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace sg {

struct CudaReport {
  struct Gpu {
    std::string name;  // NVIDIA H100 80GB HBM3
    int major, minor;  // compute capability
    int multiprocessors;
    size_t total_bytes;
    std::string bus_id;
  };
  struct FoundLibrary {
    std::string name, path, version;  // no path: not found
    std::vector<std::string> tried;   // and why not
  };
  std::string problem;          // why there is no GPU; empty where there is one
  std::string driver, runtime;  // "13.0"; empty: not known
  std::vector<Gpu> gpus;
  std::vector<FoundLibrary> libraries;
};

// ../cuda/cuda_report.cc, or ../cuda/absent.cc
CudaReport report_cuda();
// float32 products with inputs rounded to TF32 (10 bits of mantissa), on the tensor cores; off at first.
void set_matmul_tf32(bool on);

}  // namespace sg
