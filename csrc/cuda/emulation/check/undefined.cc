// The functions that -fsanitize=alignment,bounds,... make a compiler call: undefined behaviour of kernels becomes a
// report like every other instead of the end of the process. libubsan is not linked.
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../block.h"
#include "../export.h"
#include "../stream.h"

using namespace sg::emulation;

namespace {

// The layouts are those of GCC's libubsan.
struct Location {
  const char* file;
  uint32_t line, column;
};
struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  Location location;
  const TypeDescriptor* type;
  unsigned char log_alignment, check_kind;
};
struct OutOfBounds {
  Location location;
  const TypeDescriptor *array, *index;
};
struct Anywhere {
  Location location;
};

template <class... Parts>
void found(const Location& location, const char* format, Parts... parts) {
  const bool in_kernel = on_fiber_stack(__builtin_frame_address(0));
  if (!in_kernel && !runtime_mutex.try_lock()) return;
  const char* const slash = strrchr(location.file, '/');
  char text[512];
  snprintf(text, sizeof text, format, parts...);
  if (fault_is_new(reinterpret_cast<uintptr_t>(&location)))
    tell("%s (%s:%u)", text, slash ? slash + 1 : location.file, location.line);
  if (in_kernel) abandon_block();
  runtime_mutex.unlock();
}

}  // namespace

#define SG_UNDEFINED extern "C" SG_EMULATION_API void

SG_UNDEFINED __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, uintptr_t p) {
  found(data->location, "access to %s at %p, which is not aligned to %d bytes", data->type->name,
        reinterpret_cast<void*>(p), 1 << data->log_alignment);
}
SG_UNDEFINED __ubsan_handle_out_of_bounds(const OutOfBounds* data, uintptr_t index) {
  found(data->location, "index %ld is out of bounds of %s", long(index), data->array->name);
}
SG_UNDEFINED __ubsan_handle_shift_out_of_bounds(const Anywhere* data, uintptr_t, uintptr_t count) {
  found(data->location, "shift by %ld bits", long(count));
}
SG_UNDEFINED __ubsan_handle_divrem_overflow(const Anywhere* data, uintptr_t, uintptr_t) {
  found(data->location, "integer division by zero");
}
SG_UNDEFINED __ubsan_handle_builtin_unreachable(const Anywhere* data) {
  found(data->location, "a point that must not be reached");
}
SG_UNDEFINED __ubsan_handle_missing_return(const Anywhere* data) {
  found(data->location, "the end of a function that must return a value");
}
