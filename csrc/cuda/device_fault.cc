#include "device_fault.h"

#include <atomic>
#include <sstream>

namespace sg {

namespace {

// "3" or "[1, 2]": the element of `shape` with number `position`.
std::string place(const DeviceFault& f, int64_t position) {
  std::string text;
  for (int d = f.ndim - 1; d >= 0; d--) {
    text.insert(0, std::to_string(position % f.shape[d]) + (d < f.ndim - 1 ? ", " : ""));
    position /= f.shape[d];
  }
  return f.ndim > 1 ? "[" + text + "]" : text;
}

std::string describe(const DeviceFault& f) {
  std::ostringstream text;
  const int64_t a = f.values[0], b = f.values[1], c = f.values[2];
  text << f.op << ": ";
  switch (f.kind) {
    case FaultKind::kIndex:
      text << "index " << a << " is out of range [" << -b << ", " << b << ")";
      if (f.ndim > 0) text << " at position " << place(f, c);
      break;
    case FaultKind::kEntry:
      text << "index " << a << " at position " << b << " is out of range: there are " << c << " " << f.noun;
      break;
    case FaultKind::kClass:
      text << "target " << a << " at row " << b << " is out of range: there are " << c << " classes";
      break;
    case FaultKind::kZeroDivision: text << "integer division by zero"; break;
    case FaultKind::kProbability:
      text << "probability " << f.number << " at [" << a << ", " << b << "] is negative or not finite";
      break;
    case FaultKind::kNoProbability: text << "the probabilities of row " << a << " are all 0"; break;
    case FaultKind::kInfiniteTotal: text << "the probabilities of row " << a << " sum to infinity"; break;
    case FaultKind::kTooFewCandidates:
      text << "cannot draw " << a << " samples without replacement from row " << b << ", which has " << c
           << " non-zero probabilities";
      break;
    case FaultKind::kNone: text << "unknown fault"; break;
  }
  return text.str();
}

}  // namespace

std::optional<Fault> take(DeviceFault& record) {
  std::atomic_ref<int32_t> state(record.state);
  if (state.load(std::memory_order_acquire) != 2) return std::nullopt;
  Fault fault{ErrorCode::Value, describe(record)};
  state.store(0, std::memory_order_release);
  return fault;
}

}  // namespace sg
