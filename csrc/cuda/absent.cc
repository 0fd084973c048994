// In place of the CUDA backend where it was not built.
#include "../core/backend.h"

namespace sg {

std::unique_ptr<Backend> open_cuda(int index) {
  fail(ErrorCode::Device, "no device cuda:", index,
       ": this binary was built without CUDA (no nvcc was found); the prebuilt one for linux-x64 has it");
}

}  // namespace sg
