// Stochastic rounding to bfloat16: up or down with the probabilities that make the expected value the number itself, so
// that steps far below the spacing of the parameters are not lost. An element's random bits depend on the seed, the
// parameter, its step and the element's place in the whole parameter, and so are the same however the work is cut up,
// on every backend and on every number of ranks.
#pragma once
#include "../core/host_device.h"
#include "../core/philox.h"

namespace sg {

// Elements that one block of Philox serves, 16 bits each, in order: the lower half of a word before the upper one.
inline constexpr int kRoundingBlock = 8;

SG_HOST_DEVICE inline PhiloxKey rounding_key(double seed_low, double seed_high, int64_t parameter, double step) {
  return {{uint32_t(seed_low), uint32_t(seed_high)}, {uint32_t(parameter), uint32_t(int64_t(step))}};
}
SG_HOST_DEVICE inline uint32_t rounding_bits(const Philox4& block, int element) {
  const int i = element / 2;  // no computed index: it would put the block into memory
  const uint32_t word = i < 2 ? (i == 0 ? block.v[0] : block.v[1]) : (i == 2 ? block.v[2] : block.v[3]);
  return word >> (element % 2 * 16) & 0xffff;
}

// The bits of a float32, to those of one that bfloat16 has. A carry may go into the exponent, up to infinity as in
// other roundings; infinity and NaN stay.
SG_HOST_DEVICE inline uint32_t round_stochastically(uint32_t bits, uint32_t random) {
  return (bits & 0x7f800000) == 0x7f800000 ? bits : (bits + random) & 0xffff0000;
}

}  // namespace sg
