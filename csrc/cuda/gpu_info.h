// The GPUs of this machine, and why there is none.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace sg {

struct GpuInfo {
  int ordinal;
  std::string name;  // NVIDIA H100 80GB HBM3
  int major, minor;  // compute capability
  int multiprocessors;
  size_t shared_memory;  // what a block may ask for
  size_t total_bytes;
  std::string bus_id;
};

struct GpuSurvey {
  std::vector<GpuInfo> gpus;
  int driver = 0, runtime = 0;  // 13000: 13.0; 0: not known
  std::string problem;          // why there is none
};

// Asked once, at first use: it starts the driver.
const GpuSurvey& gpus();

}  // namespace sg
