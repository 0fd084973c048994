// What is kept of an arena.
#pragma once
#include <cstdint>

#include "cells.h"

namespace sg::emulation {

enum State : uint8_t { kNothing, kAllocated, kWritten, kFreed };

struct Shadow {
  uint8_t* states = nullptr;  // a State a byte
  Cell* cells = nullptr;      // one for four bytes
};
const Shadow& shadow_of(int arena);

}  // namespace sg::emulation
