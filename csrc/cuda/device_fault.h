// What a kernel found wrong in its data. Kernels cannot throw: the first one that finds something writes it into this
// record in mapped host memory, leaves the element out and goes on; the host raises it when it next learns how far the
// stream has got. The texts are those of the CPU backend.
#pragma once
#include <cstdint>
#include <optional>

#include "../core/device_queue.h"

namespace sg {

enum class FaultKind : int32_t {
  kNone,
  kIndex,             // value, size, position in `shape`
  kEntry,             // value, position, how many `noun` there are
  kClass,             // value, row, classes
  kZeroDivision,      // -
  kProbability,       // row, column; `number` is the value
  kNoProbability,     // row
  kInfiniteTotal,     // row
  kTooFewCandidates,  // samples, row, candidates
};

struct DeviceFault {
  static constexpr int kMaxDims = 8;
  int32_t state;  // 0: nothing, 1: being written, 2: complete
  FaultKind kind;
  const char *op, *noun;
  int64_t values[3];
  double number;
  int32_t ndim;
  int64_t shape[kMaxDims];
};

// Takes what is complete out of the record.
std::optional<Fault> take(DeviceFault& record);

}  // namespace sg
