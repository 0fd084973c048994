// Draws classes from rows of weights, which need not sum to 1. With replacement: inversion of the cumulative weights,
// sample s of row r by random number r * samples + s. Without: the classes of largest weight / exponential variate
// (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006), class i of row r by r * classes + i;
// this is drawing one by one, so the samples come in the order drawn.
#include <algorithm>
#include <cmath>

#include "cpu_device.h"
#include "rows.h"
#include "../core/philox.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

// cumulative[i] = weights[0] + … + weights[i], in float64. Throws on a weight that is none.
template <class T>
void read_weights(const T* weights, int64_t stride, int64_t n, int64_t row, double* cumulative) {
  double total = 0;
  for (int64_t i = 0; i < n; i++) {
    const double w = double(accumulate_t<T>(weights[i * stride]));
    if (!(w >= 0 && w <= std::numeric_limits<double>::max())) {
      fail(ErrorCode::Value, "multinomial: probability ", w, " at [", row, ", ", i, "] is negative or not finite");
    }
    cumulative[i] = total += w;
  }
  if (total == 0) fail(ErrorCode::Value, "multinomial: the probabilities of row ", row, " are all 0");
  if (!std::isfinite(total)) fail(ErrorCode::Value, "multinomial: the probabilities of row ", row, " sum to infinity");
}

}  // namespace

void CpuDevice::multinomial(In probabilities, Out indices, double replacement, double seed0, double seed1,
                            double stream0, double stream1) {
  SG_ASSERT(probabilities.ndim > 0 && probabilities.ndim == indices.ndim && indices.dtype == DType::k_int64);
  for (int d = 0; d < indices.ndim - 1; d++) SG_ASSERT(indices.shape[d] == probabilities.shape[d]);
  const PhiloxKey key{{uint32_t(seed0), uint32_t(seed1)}, {uint32_t(stream0), uint32_t(stream1)}};
  Rows rows(probabilities);
  rows.add(indices.strides);
  const int64_t n = rows.length(), samples = indices.size(-1);
  if (samples == 0) return;

  dispatch_float("multinomial", probabilities.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(rows.count(), std::max<int64_t>(1, 1024 / std::max<int64_t>(1, n)), [&](int64_t begin, int64_t end) {
      double* const cumulative = scratch<double>(Scratch::kLocalA, size_t(n));
      Rows mine = rows;
      mine.seek(begin);
      for (int64_t row = begin; row < end; row++, mine.next()) {
        const T* const weights = probabilities.ptr<const T>() + mine[0];
        const auto weight = [&](int64_t i) { return double(accumulate_t<T>(weights[i * mine.stride(0)])); };
        const auto take = [&](int64_t sample, int64_t index) {
          indices.ptr<int64_t>()[mine[1] + sample * mine.stride(1)] = index;
        };
        read_weights(weights, mine.stride(0), n, row, cumulative);

        if (replacement != 0) {
          // Below the total (rounding could reach a subnormal one), so a class is found; at or above what came before
          // that class, so its weight is not 0.
          const double total = cumulative[n - 1], below = std::nextafter(total, 0.0);
          for (int64_t s = 0; s < samples; s++) {
            const double u = double(philox_at(key, uint64_t(row * samples + s))) * 0x1p-32 * total;
            take(s, std::upper_bound(cumulative, cumulative + n, std::min(u, below)) - cumulative);
          }
          continue;
        }
        double* const race = cumulative;
        int64_t* const order = scratch<int64_t>(Scratch::kLocalB, size_t(n));
        int64_t candidates = 0;
        Philox4 words{};
        for (int64_t i = 0; i < n; i++) {
          const uint64_t element = uint64_t(row * n + i);
          if (i == 0 || element % 4 == 0) words = philox(key, element / 4);
          const double w = weight(i);
          if (w == 0) continue;
          race[i] = -std::log(uniform01_open(words.v[element % 4])) / w;
          order[candidates++] = i;
        }
        if (samples > candidates) {
          fail(ErrorCode::Value, "multinomial: cannot draw ", samples, " samples without replacement from row ", row,
               ", which has ", candidates, " non-zero probabilities");
        }
        std::partial_sort(order, order + samples, order + candidates,
                          [race](int64_t a, int64_t b) { return race[a] != race[b] ? race[a] < race[b] : a < b; });
        for (int64_t s = 0; s < samples; s++) take(s, order[s]);
      }
    });
  });
}

}  // namespace sg
