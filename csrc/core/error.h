// Errors of the native side. Kernels and the core throw `Error`; a stream turns it into a fault that the next host wait
// raises in JavaScript, the Node-API layer turns it into a thrown JavaScript error. Nothing here ends the process.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace sg {

// The names are the error classes of lib/errors.ts; `code` travels to JavaScript, which picks the class by it.
enum class ErrorCode { Shape, DType, Device, Disposed, OutOfMemory, Distributed, Checkpoint, Value, Internal };

struct Error : std::runtime_error {
  ErrorCode code;
  Error(ErrorCode c, const std::string& text) : std::runtime_error(text), code(c) {}
};

template <class... Parts>
[[noreturn]] inline void fail(ErrorCode code, const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(code, text.str());
}

// For our own mistakes: a violated assumption names itself instead of corrupting memory.
#define SG_ASSERT(condition)                                                                        \
  do {                                                                                              \
    if (!(condition)) ::sg::fail(::sg::ErrorCode::Internal, "internal: ", #condition, " is false"); \
  } while (0)

}  // namespace sg
