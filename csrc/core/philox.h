// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a counter-based generator. The
// value at an element depends on (seed, stream, element index) alone, so dropout and initialisation do not depend on
// how a tensor is split over threads, devices or ranks.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace sg {

struct PhiloxKey {
  uint32_t seed[2];    // low, high
  uint32_t stream[2];  // which draw of this seed: the upper half of the counter
};

struct Philox4 {
  uint32_t v[4];
};

SG_HOST_DEVICE inline Philox4 philox(const PhiloxKey& key, uint64_t counter) {
  uint32_t c0 = uint32_t(counter), c1 = uint32_t(counter >> 32), c2 = key.stream[0], c3 = key.stream[1];
  uint32_t k0 = key.seed[0], k1 = key.seed[1];
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c0 = n0;
    c1 = uint32_t(p1);
    c2 = n2;
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Element i takes word i % 4 of block i / 4.
SG_HOST_DEVICE inline uint32_t philox_at(const PhiloxKey& key, uint64_t element) {
  return philox(key, element >> 2).v[element & 3];
}

// [0, 1) with 24 bits; (0, 1] with 32 bits, for logarithms.
SG_HOST_DEVICE inline float uniform01(uint32_t u) { return float(u >> 8) * 0x1p-24f; }
SG_HOST_DEVICE inline double uniform01_open(uint32_t u) { return (double(u) + 1) * 0x1p-32; }

}  // namespace sg
