#include "rank_reduce.h"

#include <cstring>

#define SG_KERNELS "../kernels/rank_reduce.h"
#include "../cpu/simd/for_each_isa.h"

namespace sg {

namespace {

template <class T>
constexpr bool in_lanes =
    std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>;

// Integers wrap around as their unsigned forms do; sums and products of bool are "or" and "and".
template <class T>
void reduce_integers(RankReduce reduce, const T* const* parts, int ranks, T* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    T total = parts[0][i];
    for (int r = 1; r < ranks; r++) {
      const T x = parts[r][i];
      if constexpr (std::is_same_v<T, bool>) {
        total = reduce == RankReduce::kSum || reduce == RankReduce::kMax ? total || x : total && x;
      } else {
        using U = std::make_unsigned_t<T>;
        switch (reduce) {
          case RankReduce::kMin: total = std::min(total, x); break;
          case RankReduce::kMax: total = std::max(total, x); break;
          // in 64 bits: a product of two 16-bit numbers would otherwise be one of int
          case RankReduce::kProduct: total = T(U(uint64_t(total) * uint64_t(x))); break;
          default: total = T(U(uint64_t(total) + uint64_t(x)));
        }
      }
    }
    y[i] = total;
  }
}

}  // namespace

void check_reduction(const char* op, DType dtype, RankReduce reduce) {
  if (is_floating(dtype) || (reduce != RankReduce::kAvg && reduce != RankReduce::kPremulSum)) return;
  fail(ErrorCode::DType, op, ": an average or a factor needs a floating-point tensor, got ", dtype_name(dtype));
}

void reduce_parts(DType dtype, RankReduce reduce, const void* const* parts, const double* factors, int ranks,
                  void* const* outputs, int output_count, int64_t n) {
  void* const y = outputs[0];
  const double scale = reduce == RankReduce::kAvg ? 1.0 / ranks : 1;
  dispatch_all(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const auto from = reinterpret_cast<const T* const*>(parts);
    if constexpr (in_lanes<T>) {
      SG_ISA_CALL(reduce_ranks, reduce, from, factors, ranks, scale, reinterpret_cast<T* const*>(outputs), output_count,
                  n);
      return;
    } else if constexpr (std::is_integral_v<T>) {
      reduce_integers(reduce, from, ranks, static_cast<T*>(y), n);
    } else {  // the 8-bit floats
      constexpr int64_t kBlock = 256;
      const double ones[] = {1, 1};
      float wide[kBlock], other[kBlock];
      for (int64_t b = 0; b < n; b += kBlock) {
        const int64_t count = std::min(kBlock, n - b);
        for (int r = 0; r < ranks; r++) {
          const float factor = reduce == RankReduce::kPremulSum ? float(factors[r]) : 1;
          for (int64_t i = 0; i < count; i++) other[i] = float(from[r][b + i]) * factor;
          if (r == 0) {
            std::copy(other, other + count, wide);
            continue;
          }
          const float* const pair[] = {wide, other};
          const RankReduce op =
              reduce == RankReduce::kMin || reduce == RankReduce::kMax || reduce == RankReduce::kProduct
                  ? reduce
                  : RankReduce::kSum;
          float* const sum[] = {wide};
          SG_ISA_CALL(reduce_ranks, op, pair, ones, 2, 1.0, sum, 1, count);
        }
        for (int64_t i = 0; i < count; i++) static_cast<T*>(y)[b + i] = T(wide[i] * float(scale));
      }
    }
    for (int o = 1; o < output_count; o++) std::memcpy(outputs[o], y, size_t(n) * sizeof(T));
  });
}

}  // namespace sg
