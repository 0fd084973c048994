// Philox for many neighbouring counters at once.

// 32-bit numbers in 64-bit lanes; the upper halves hold rubbish that nothing reads.
typedef uint64_t PhiloxLanes __attribute__((vector_size(sizeof(vf))));
inline constexpr int kPhiloxLanes = sizeof(PhiloxLanes) / 8;

// The 64-bit products of the lower halves.
template <class U>
KI U multiply_halves(U a, U b) {
#if defined(__x86_64__)
  if constexpr (sizeof(U) == 64) return (U)_mm512_mul_epu32((__m512i)a, (__m512i)b);
  else if constexpr (sizeof(U) == 32) return (U)_mm256_mul_epu32((__m256i)a, (__m256i)b);
  else return (U)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

// Stores the pairs (low[i], high[i]) of the even lanes, then those of the odd lanes.
template <class U>
KI void store_pairs(U low, U high, uint32_t* words) {
  U even, odd;
  if constexpr (sizeof(U) == 64) {
    even = __builtin_shufflevector(low, high, 0, 8, 2, 10, 4, 12, 6, 14);
    odd = __builtin_shufflevector(low, high, 1, 9, 3, 11, 5, 13, 7, 15);
  } else if constexpr (sizeof(U) == 32) {
    even = __builtin_shufflevector(low, high, 0, 4, 2, 6);
    odd = __builtin_shufflevector(low, high, 1, 5, 3, 7);
  } else {
    even = __builtin_shufflevector(low, high, 0, 2);
    odd = __builtin_shufflevector(low, high, 1, 3);
  }
  std::memcpy(words, &even, sizeof(U));
  std::memcpy(words + sizeof(U) / 4, &odd, sizeof(U));
}

// The words of the blocks first, first + 1, …, n of them rounded up to whole registers.
KT inline void philox_words(const PhiloxKey& key, uint64_t first, int64_t n, uint32_t* words) {
  using U = PhiloxLanes;
  const U zero = {};
  U order;  // the even lanes come first
  for (int j = 0; j < kPhiloxLanes; j++) order[j] = uint64_t(j / 2 + j % 2 * (kPhiloxLanes / 2));
  for (int64_t block = 0; block < n; block += kPhiloxLanes, words += 4 * kPhiloxLanes) {
    U c0 = order + (first + uint64_t(block)), c1 = c0 >> 32, c2 = zero + key.stream[0], c3 = zero + key.stream[1];
    U k0 = zero + key.seed[0], k1 = zero + key.seed[1];
    SG_UNROLL(10)
    for (int round = 0; round < 10; round++) {
      const U p0 = multiply_halves(c0, zero + 0xD2511F53u), p1 = multiply_halves(c2, zero + 0xCD9E8D57u);
      c0 = (p1 >> 32) ^ c1 ^ k0;
      c1 = p1;
      c2 = (p0 >> 32) ^ c3 ^ k1;
      c3 = p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    store_pairs((c0 & 0xffffffff) | c1 << 32, (c2 & 0xffffffff) | c3 << 32, words);
  }
}
