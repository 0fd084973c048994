// The key of a random kernel: a value, or within a captured graph a place in the graph's table, which is written anew
// before each replay. A negative seed says which place.
#pragma once
#include "../ops/random.h"
#include "cuda_queue.h"
#include "gpu.cuh"

namespace sg::gpu {

class KeySource {
 public:
  KeySource(double seed0, double seed1, double stream0, double stream1) {
    if (seed0 >= 0) {
      key_ = philox_key(seed0, seed1, stream0, stream1);
      return;
    }
    const PhiloxKey* const table = CudaQueue::current().captured_keys();
    if (!table) fail(ErrorCode::Internal, "a random key of a graph outside of its capture");
    place_ = table + int64_t(-1 - seed0);
  }
  SG_DEVICE PhiloxKey get() const { return place_ ? *place_ : key_; }

 private:
  PhiloxKey key_{};
  const PhiloxKey* place_ = nullptr;
};

}  // namespace sg::gpu
