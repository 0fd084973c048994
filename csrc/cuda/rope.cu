// Device::rotaryEmbedding: every pair of features (a, b) becomes (a cos - b sin, b cos + a sin). A thread has as many
// pairs as 16 bytes hold where the layout allows, otherwise one.
#include "../ops/rope.h"

#include "cuda_device.h"
#include "cuda_queue.h"
#include "lanes.cuh"
#include "walk.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256;

enum class Pairs {
  kSingle,      // one pair, its elements anywhere
  kHalves,      // 16 bytes of the first half and 16 of the second
  kNeighbours,  // 16 bytes of pairs
};

template <class T, Pairs kPairs>
constexpr int kPairCount = kPairs == Pairs::kSingle   ? 1
                           : kPairs == Pairs::kHalves ? Pack<T>::kCount
                                                      : Pack<T>::kCount / 2;

// kCount numbers of a table, by 16 bytes where there are as many.
template <int kCount>
SG_DEVICE void load_table(const float* from, float (&to)[kCount]) {
  if constexpr (kCount % 4 == 0) {
    Packs<float, kCount> packs;
    packs.load(from);
#pragma unroll
    for (int i = 0; i < kCount; i++) to[i] = packs.get(i);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i++) to[i] = from[i];
  }
}

// The walk goes over units of pairs, of y, x and the tables; from one element of a pair to the other it is x_other or
// y_other elements.
template <class T, Pairs kPairs>
__global__ void __launch_bounds__(kThreads)
    rotate_kernel(T* y, const T* x, const float* cosines, const float* sines, Walk<4> walk, int64_t y_other,
                  int64_t x_other, bool inverse) {
  using E = accumulate_t<T>;
  constexpr int kCount = kPairCount<T, kPairs>, kElements = kPairs == Pairs::kSingle ? 1 : Pack<T>::kCount;
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t unit = int64_t(blockIdx.x) * kThreads + threadIdx.x; unit < walk.count; unit += step) {
    int64_t at[4];
    walk.locate(unit, at);
    T* const to = y + at[0] * kElements;
    const T* const from = x + at[1] * kElements;
    float c[kCount], s[kCount];
    load_table(cosines + at[2] * kCount, c);
    load_table(sines + at[3] * kCount, s);
    const auto turn = [&](int i, T& first, T& second) {
      const E a = E(first), b = E(second), cosine = E(c[i]), sine = inverse ? -E(s[i]) : E(s[i]);
      first = T(a * cosine - b * sine);
      second = T(b * cosine + a * sine);
    };
    if constexpr (kPairs == Pairs::kSingle) {
      T first = from[0], second = from[x_other];
      turn(0, first, second);
      to[0] = first;
      to[y_other] = second;
    } else if constexpr (kPairs == Pairs::kHalves) {
      Pack<T> first = *reinterpret_cast<const Pack<T>*>(from);
      Pack<T> second = *reinterpret_cast<const Pack<T>*>(from + x_other);
#pragma unroll
      for (int i = 0; i < kCount; i++) turn(i, first.at[i], second.at[i]);
      *reinterpret_cast<Pack<T>*>(to) = first;
      *reinterpret_cast<Pack<T>*>(to + y_other) = second;
    } else {
      Pack<T> pairs = *reinterpret_cast<const Pack<T>*>(from);
#pragma unroll
      for (int i = 0; i < kCount; i++) turn(i, pairs.at[2 * i], pairs.at[2 * i + 1]);
      *reinterpret_cast<Pack<T>*>(to) = pairs;
    }
  }
}

// Strides of x over [B, T, H, pairs], in units of `by` elements; false if they are none.
bool pair_strides(In x, int64_t by, int64_t step, int64_t (&to)[4]) {
  for (int d = 0; d < 3; d++) {
    if (x.strides[d] % by != 0) return false;
    to[d] = x.strides[d] / by;
  }
  to[3] = step;
  return true;
}

template <class T>
void rotate(In x, In cos, In sin, Out y, bool interleaved, bool inverse) {
  const cudaStream_t stream = CudaQueue::current().stream();
  const int64_t half = x.shape[3] / 2, shape[4] = {x.shape[0], x.shape[1], x.shape[2], half};
  const int64_t c[4] = {0, cos.strides[0], 0, cos.strides[1]}, s[4] = {0, sin.strides[0], 0, sin.strides[1]};
  int64_t xs[4], ys[4];
  const auto run = [&](auto kernel, const Walk<4>& walk) {
    const int64_t apart = interleaved ? 1 : half;
    launch(kernel, grid_for(walk.count, kThreads), kThreads, 0, stream, y.ptr<T>(), x.ptr<const T>(),
           cos.ptr<const float>(), sin.ptr<const float>(), walk, apart * y.strides[3], apart * x.strides[3], inverse);
  };
  const bool aligned = is_aligned16(x.data) && is_aligned16(y.data) && is_aligned16(cos.data) && is_aligned16(sin.data);
  if (aligned && x.strides[3] == 1 && y.strides[3] == 1) {
    const int64_t by = interleaved ? 2 : 1;
    if (pair_strides(x, by, 1, xs) && pair_strides(y, by, 1, ys)) {
      Walk<4> walk(4, shape, {ys, xs, c, s});
      if (walk.widen(Pack<T>::kCount / by)) {
        if (interleaved) run(rotate_kernel<T, Pairs::kNeighbours>, walk);
        else run(rotate_kernel<T, Pairs::kHalves>, walk);
        return;
      }
    }
  }
  const int64_t step = interleaved ? 2 : 1;
  (void)pair_strides(x, 1, step * x.strides[3], xs);
  (void)pair_strides(y, 1, step * y.strides[3], ys);
  run(rotate_kernel<T, Pairs::kSingle>, Walk<4>(4, shape, {ys, xs, c, s}));
}

}  // namespace
}  // namespace gpu

void CudaDevice::rotaryEmbedding(In x, In cos, In sin, Out y, double interleaved, double inverse) {
  check_rotary(x, cos, sin, y);
  if (y.numel() == 0) return;
  dispatch_float("rotaryEmbedding", x.dtype, [&](auto tag) {
    gpu::rotate<typename decltype(tag)::type>(x, cos, sin, y, interleaved != 0, inverse != 0);
  });
}

}  // namespace sg
