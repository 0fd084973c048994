// Device: one backend. The operations are pure virtual, so a backend that forgets one does not compile. They run in
// stream order: on the CPU on the stream's worker thread, on a GPU they enqueue kernels. Every view is checked; outputs
// are allocated by the Node-API layer. Shapes, dtypes and broadcasting were decided in TypeScript and are not
// re-checked here; what only the data can show (an index out of range) is thrown as an Error and raised at the next
// host wait.
#pragma once
#include "view.h"

namespace sg {

enum class PointwiseOp : int;  // csrc/ops/pointwise.h
enum class ReduceOp : int;     // csrc/ops/reduce.h

// What a matmul does to its result before the one store of it. Values cross the boundary.
enum class Epilogue : int {
  kNone = 0,
  kGelu = 1,          // c = gelu_tanh(x), and `pre` = x
  kResidual = 2,      // c = x + extra
  kGeluBackward = 3,  // c = x * gelu_tanh'(extra), and if `pre` is `extra`, that turns into gelu_tanh(extra)
  kAccumulate = 4,    // c = c + x
};

class Device {
 public:
  virtual ~Device() = default;

#define SG_METHOD(name, parameters) virtual void name parameters = 0;
#include "device_methods.h"
#undef SG_METHOD
};

}  // namespace sg
