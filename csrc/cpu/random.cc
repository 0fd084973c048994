// Random numbers by Philox. An element's value depends on the key and on its index alone: not on strides, threads or
// the instruction set's width.
#include "../ops/random.h"

#include <cmath>

#include "blocks.h"
#include "cpu_device.h"
#include "flat.h"
#include "nest.h"
#include "rows.h"

namespace sg {

namespace {

constexpr int kPhiloxPadding = 64;

}  // namespace

}  // namespace sg

#define SG_KERNELS "../kernels/random.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

// Fills y with values(words, n, lanes), which turns the words of n neighbouring elements, `per_element` each, into
// numbers. n is padded to whole registers.
template <class Lane, class Values>
void generate(const View& y, const PhiloxKey& key, int per_element, const Values& values) {
  const Flat flat(y);
  const StoreBlock store = block_storer(DTypeOf<Lane>::value, y.dtype);
  const int64_t blocks = (flat.size() + kBoxElements - 1) / kBoxElements;
  parallel_for(blocks, kGrainElements / 4 / kBoxElements, [&](int64_t begin, int64_t end) {
    alignas(64) uint32_t words[2 * kBoxElements];
    alignas(64) Lane lanes[kBoxElements];
    for (int64_t block = begin; block < end; block++) {
      const int64_t first = block * kBoxElements, n = std::min<int64_t>(kBoxElements, flat.size() - first);
      const int64_t padded = (n + kPhiloxPadding - 1) / kPhiloxPadding * kPhiloxPadding;
      SG_ISA_CALL(philox_words, key, uint64_t(first / 4 * per_element), padded / 4 * per_element, words);
      values(words, padded, lanes);
      const Lane* from = lanes;
      flat.stretches(first, n, [&](int64_t offset, int64_t stride, int64_t count) {
        store(from, 1, count, {address(y.data, offset, y.dtype), 0, stride});
        from += count;
      });
    }
  });
}

template <class Lane>
void uniform_as(const View& y, const PhiloxKey& key, double low, double high) {
  const UniformRange<Lane> range(low, high, y.dtype);
  generate<Lane>(y, key, sizeof(Lane) / 4, [&](const uint32_t* words, int64_t n, Lane* lanes) {
    SG_ISA_CALL(uniform_values, words, n, range.low, range.width, range.top, lanes);
  });
}

template <class Lane>
void normal_as(const View& y, const PhiloxKey& key, double mean, double std) {
  generate<Lane>(y, key, sizeof(Lane) / 4, [&](const uint32_t* words, int64_t n, Lane* lanes) {
    SG_ISA_CALL(normal_values, words, n, Lane(mean), Lane(std), lanes);
  });
}

template <class Lane>
void dropout_as(const View& x, const View& y, double p, const PhiloxKey& key, Rest layout) {
  int64_t counters[kMaxDims];
  for (int d = 0; d < x.ndim; d++) counters[d] = int64_t(layout[d + 1]);
  Rows rows(x);
  rows.add(y.strides);
  rows.add(counters);
  rows.merge();
  const LoadBlock load = block_loader(x.dtype, DTypeOf<Lane>::value);
  const StoreBlock store = block_storer(DTypeOf<Lane>::value, y.dtype);
  const Dropout rule(p);
  const int64_t pieces = (rows.length() + kBoxElements - 1) / kBoxElements;
  const int64_t grain = std::max<int64_t>(1, kGrainElements / std::min<int64_t>(rows.length(), kBoxElements));
  parallel_for(rows.count() * pieces, grain, [&](int64_t begin, int64_t end) {
    alignas(64) uint32_t words[kBoxElements + 2 * kPhiloxPadding];
    alignas(64) Lane lanes[kBoxElements];
    Rows row = rows;
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = i % pieces * kBoxElements, n = std::min<int64_t>(kBoxElements, rows.length() - first);
      row.seek(i / pieces);
      const uint64_t counter = uint64_t(layout[0]) + uint64_t(row[2] + first * row.stride(2));
      const uint32_t* word = words + counter % 4;
      if (row.stride(2) == 1) {
        SG_ISA_CALL(philox_words, key, counter / 4, int64_t(counter % 4 + n + 3) / 4, words);
      } else {
        word = words;
        for (int64_t c = 0; c < n; c++) words[c] = philox_at(key, counter + uint64_t(c * row.stride(2)));
      }
      load({address(x.data, row[0] + first * row.stride(0), x.dtype), 0, row.stride(0)}, 1, n, lanes);
      SG_ISA_CALL(dropout_values, static_cast<const Lane*>(lanes), word, n, rule.threshold, Lane(rule.scale), lanes);
      store(lanes, 1, n, {address(y.data, row[1] + first * row.stride(1), y.dtype), 0, row.stride(1)});
    }
  });
}

}  // namespace

void CpuDevice::uniform(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) {
  const PhiloxKey key = philox_key(seed0, seed1, stream0, stream1);
  if (y.dtype == DType::k_float64) uniform_as<double>(y, key, low, high);
  else uniform_as<float>(y, key, low, high);
}

void CpuDevice::normal(Out y, double mean, double std, double seed0, double seed1, double stream0, double stream1) {
  const PhiloxKey key = philox_key(seed0, seed1, stream0, stream1);
  if (y.dtype == DType::k_float64) normal_as<double>(y, key, mean, std);
  else normal_as<float>(y, key, mean, std);
}

void CpuDevice::randint(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) {
  const IntegerRange range(low, high);
  generate<int64_t>(y, philox_key(seed0, seed1, stream0, stream1), 2,
                    [&](const uint32_t* words, int64_t n, int64_t* lanes) {
                      SG_ISA_CALL(randint_values, words, n, range.low, range.width, lanes);
                    });
}

void CpuDevice::dropout(In x, Out y, double p, double seed0, double seed1, double stream0, double stream1,
                        Rest layout) {
  SG_ASSERT(layout.count == x.ndim + 1);
  const PhiloxKey key = philox_key(seed0, seed1, stream0, stream1);
  if (x.numel() == 0) return;
  if (p >= 1) return fill(y, 0);
  if (x.dtype == DType::k_float64) dropout_as<double>(x, y, p, key, layout);
  else dropout_as<float>(x, y, p, key, layout);
}

}  // namespace sg
