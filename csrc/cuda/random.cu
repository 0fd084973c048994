// Random numbers by Philox: an element's value depends on the key and its logical index alone, as on the CPU. A thread
// makes what one block of four words gives; it finds its elements by walks whose first operand is the index itself.
#include "cuda_device.h"
#include "cuda_queue.h"
#include "keys.cuh"
#include "lanes.cuh"
#include "walk.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256;

// ---- distributions: Value is what they give, kCount of them a block

template <class T>
struct Uniform {
  using Value = T;
  static constexpr int kCount = 16 / sizeof(T);
  UniformRange<T> range;
  SG_DEVICE void operator()(const Philox4& words, T (&to)[kCount]) const {
    for (int i = 0; i < kCount; i++) {
      const T u = unit<T>(words.v + i * (4 / kCount));
      // Rounded twice, as on the CPU: no fused multiplication and addition.
      T value;
      if constexpr (sizeof(T) == 4) value = __fadd_rn(range.low, __fmul_rn(range.width, u));
      else value = __dadd_rn(range.low, __dmul_rn(range.width, u));
      to[i] = value > range.top ? range.top : value;
    }
  }
};

// Box and Muller: each pair of uniform numbers (u, v) gives r cos(2 pi v), r sin(2 pi v) with r = sqrt(-2 ln u), u > 0.
template <class T>
struct Normal {
  using Value = T;
  static constexpr int kCount = 16 / sizeof(T);
  T mean, std;
  SG_DEVICE void operator()(const Philox4& words, T (&to)[kCount]) const {
    constexpr int kWords = 4 / kCount;
    for (int i = 0; i < kCount; i += 2) {
      const T u = positive_unit<T>(words.v + i * kWords), v = unit<T>(words.v + (i + 1) * kWords);
      const T radius = std::sqrt(std::log(u) * T(-2)) * std;
      T sine, cosine;
      if constexpr (sizeof(T) == 4) {
        sincospif(2 * v, &sine, &cosine);
      } else {
        sine = std::sin(v * T(6.283185307179586));
        cosine = std::cos(v * T(6.283185307179586));
      }
      to[i] = std::fma(radius, cosine, mean);
      to[i + 1] = std::fma(radius, sine, mean);
    }
  }
};

// The high half of a 64 by 64 bit product: every number of the range differs in probability by less than width / 2^64.
struct Integers {
  using Value = int64_t;
  static constexpr int kCount = 2;
  IntegerRange range;
  SG_DEVICE void operator()(const Philox4& words, int64_t (&to)[kCount]) const {
    for (int i = 0; i < kCount; i++)
      to[i] = int64_t(uint64_t(range.low) + __umul64hi(word_pair(words.v + 2 * i), range.width));
  }
};

// Operands of the walk: the index, y.
template <class Distribution>
__global__ void __launch_bounds__(kThreads)
    generate_kernel(Distribution distribution, KeySource source, void* y, DType dtype, bool packed, Walk<2> walk) {
  using Value = typename Distribution::Value;
  constexpr int kCount = Distribution::kCount;
  const PhiloxKey key = source.get();
  const int64_t blocks = (walk.count + kCount - 1) / kCount, step = int64_t(gridDim.x) * kThreads;
  for (int64_t block = int64_t(blockIdx.x) * kThreads + threadIdx.x; block < blocks; block += step) {
    Pack<Value> values;
    distribution(philox(key, uint64_t(block)), values.at);
    if (packed) {
      static_cast<Pack<Value>*>(y)[block] = values;
      continue;
    }
#pragma unroll
    for (int i = 0; i < kCount; i++) {
      if (block * kCount + i >= walk.count) break;
      int64_t at[2];
      walk.locate(block * kCount + i, at);
      store_any(y, dtype, at[1], lane_for<Value>(values.at[i]));
    }
  }
}

void index_strides(const View& v, int64_t (&strides)[kMaxDims]) {
  int64_t stride = 1;
  for (int d = v.ndim - 1; d >= 0; d--) {
    strides[d] = stride;
    stride *= v.shape[d];
  }
}

template <class Distribution>
void generate(const Distribution& distribution, const KeySource& key, const View& y) {
  using Value = typename Distribution::Value;
  constexpr int kCount = Distribution::kCount;
  if (y.numel() == 0) return;
  int64_t index[kMaxDims];
  index_strides(y, index);
  const Walk<2> walk(y.ndim, y.shape, {index, y.strides});
  const bool packed =
      y.dtype == DTypeOf<Value>::value && y.contiguous() && walk.count % kCount == 0 && is_aligned16(y.data);
  const dim3 grid = grid_for((walk.count + kCount - 1) / kCount, kThreads);
  launch(generate_kernel<Distribution>, grid, kThreads, 0, CudaQueue::current().stream(), distribution, key, y.data,
         y.dtype, packed, walk);
}

// ---- dropout. Operands of the walks: y, x, the counter.

template <class T>
__global__ void __launch_bounds__(kThreads) dropout_packs_kernel(const T* x, T* y, KeySource source, uint64_t first,
                                                                 uint32_t threshold, float scale, Walk<3> walk) {
  constexpr int kCount = Pack<T>::kCount;
  const PhiloxKey key = source.get();
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < walk.count; i += step) {
    int64_t at[3];
    walk.locate(i, at);
    Pack<T> pack = reinterpret_cast<const Pack<T>*>(x)[at[1]];
#pragma unroll
    for (int j = 0; j < kCount; j += 4) {
      const Philox4 words = philox(key, (first + uint64_t(at[2]) * kCount + j) / 4);
#pragma unroll
      for (int k = 0; k < 4; k++)
        pack.at[j + k] = words.v[k] >= threshold ? cast<T>(cast<float>(pack.at[j + k]) * scale) : cast<T>(0.f);
    }
    reinterpret_cast<Pack<T>*>(y)[at[0]] = pack;
  }
}

struct DropoutTensors {
  const void* x;
  void* y;
  DType x_dtype, y_dtype;
};

template <class L>
__global__ void __launch_bounds__(kThreads) dropout_kernel(DropoutTensors t, KeySource source, uint64_t first,
                                                           uint32_t threshold, typename L::value scale, Walk<3> walk) {
  const PhiloxKey key = source.get();
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < walk.count; i += step) {
    int64_t at[3];
    walk.locate(i, at);
    const bool kept = philox_at(key, first + uint64_t(at[2])) >= threshold;
    const L x = load_any<L>(t.x, t.x_dtype, at[1]);
    store_any(t.y, t.y_dtype, at[0], kept ? x * L(scale) : L(0));
  }
}

template <class T>
bool dropout_packs(const View& x, const View& y, const Dropout& rule, const KeySource& key, uint64_t first,
                   Walk<3> walk, cudaStream_t stream) {
  if (first % 4 != 0 || !is_aligned16(x.data) || !is_aligned16(y.data) || !walk.widen(Pack<T>::kCount)) return false;
  launch(dropout_packs_kernel<T>, grid_for(walk.count, kThreads), kThreads, 0, stream, x.ptr<const T>(), y.ptr<T>(),
         key, first, rule.threshold, float(rule.scale), walk);
  return true;
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::uniform(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) {
  const KeySource key(seed0, seed1, stream0, stream1);
  if (y.dtype == DType::k_float64) generate(Uniform<double>{{low, high, y.dtype}}, key, y);
  else generate(Uniform<float>{{low, high, y.dtype}}, key, y);
}

void CudaDevice::normal(Out y, double mean, double std, double seed0, double seed1, double stream0, double stream1) {
  const KeySource key(seed0, seed1, stream0, stream1);
  if (y.dtype == DType::k_float64) generate(Normal<double>{mean, std}, key, y);
  else generate(Normal<float>{float(mean), float(std)}, key, y);
}

void CudaDevice::randint(Out y, double low, double high, double seed0, double seed1, double stream0, double stream1) {
  generate(Integers{{low, high}}, KeySource(seed0, seed1, stream0, stream1), y);
}

void CudaDevice::dropout(In x, Out y, double p, double seed0, double seed1, double stream0, double stream1,
                         Rest layout) {
  SG_ASSERT(layout.count == x.ndim + 1);
  if (x.numel() == 0) return;
  if (p >= 1) return fill(y, 0);
  const KeySource key(seed0, seed1, stream0, stream1);
  const Dropout rule(p);
  const auto first = uint64_t(layout[0]);
  int64_t counters[kMaxDims];
  for (int d = 0; d < x.ndim; d++) counters[d] = int64_t(layout[d + 1]);
  const Walk<3> walk(x.ndim, x.shape, {y.strides, x.strides, counters});
  const cudaStream_t stream = CudaQueue::current().stream();
  bool done = false;
  if (x.dtype == y.dtype) {
    switch (x.dtype) {
      case DType::k_float32: done = dropout_packs<float>(x, y, rule, key, first, walk, stream); break;
      case DType::k_bfloat16: done = dropout_packs<bfloat16>(x, y, rule, key, first, walk, stream); break;
      case DType::k_float16: done = dropout_packs<float16>(x, y, rule, key, first, walk, stream); break;
      default: break;
    }
  }
  if (done) return;
  const DropoutTensors tensors{x.data, y.data, x.dtype, y.dtype};
  const dim3 grid = grid_for(walk.count, kThreads);
  if (x.dtype == DType::k_float64) {
    launch(dropout_kernel<Lane<double>>, grid, kThreads, 0, stream, tensors, key, first, rule.threshold, rule.scale,
           walk);
  } else {
    launch(dropout_kernel<Lane<float>>, grid, kThreads, 0, stream, tensors, key, first, rule.threshold,
           float(rule.scale), walk);
  }
}

}  // namespace sg
