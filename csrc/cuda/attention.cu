// Device::attention and its gradient: which form of the kernels runs, and what the backward pass needs of every row.
#include "attention.h"
#include "attention_scores.cuh"
#include "cuda_device.h"
#include "cuda_queue.h"

namespace sg {

namespace gpu {
namespace {

// kLanes lanes a row, kWidth features at a time.
template <class T, int kLanes, int kWidth>
__global__ void __launch_bounds__(256)
    attention_statistics_kernel(const Attention at, RowStatistics<accumulate_t<T>>* statistics, int padded) {
  using E = accumulate_t<T>;
  const int heads = int(at.heads), lane = threadIdx.x % kLanes;
  const int64_t index = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / kLanes;
  const int head = int(index % heads);  // heads fastest: neighbours in memory
  const int row = int(index / heads % padded), batch = int(index / heads / padded);
  const bool inside = batch < at.batch && row < at.queries;
  E delta = 0;
  if (inside) {
    const T* const out = head_of<const T>(at.out, batch, head) + row * at.out.row;
    const T* const dout = head_of<const T>(at.dout, batch, head) + row * at.dout.row;
    for (int d = lane * kWidth; d < at.size; d += kLanes * kWidth) {
      if constexpr (kWidth == 1) {
        delta += E(out[d]) * E(dout[d]);
      } else {
        const Pack<T> a = *reinterpret_cast<const Pack<T>*>(out + d), b = *reinterpret_cast<const Pack<T>*>(dout + d);
#pragma unroll
        for (int i = 0; i < kWidth; i++) delta = std::fma(E(a.at[i]), E(b.at[i]), delta);
      }
    }
  }
#pragma unroll
  for (int bits = kLanes / 2; bits > 0; bits /= 2) delta += __shfl_xor_sync(kFullWarp, delta, bits);
  if (lane != 0 || batch >= at.batch) return;
  const E nothing = std::numeric_limits<E>::infinity();  // as a log-sum-exp: all weights are 0
  E lse = inside ? lse_of<E>(at, batch, head, row) * E(kLog2e) : nothing;
  if (lse == -nothing) lse = nothing;
  statistics[(int64_t(batch) * heads + head) * padded + row] = {lse, delta};
}

template <class T, int kLanes, int kWidth>
void make_statistics(const Attention& at, RowStatistics<accumulate_t<T>>* to, cudaStream_t stream) {
  constexpr int kThreads = 256;
  const int64_t padded = padded_queries(at), rows = at.batch * at.heads * padded;
  if (rows == 0) return;
  launch(attention_statistics_kernel<T, kLanes, kWidth>, unsigned((rows * kLanes + kThreads - 1) / kThreads), kThreads,
         0, stream, at, to, int(padded));
}

// Whether rows can be copied 16 bytes at a time, with 32-bit steps.
bool is_tileable(const HeadRows& x) {
  constexpr int64_t kMost = int64_t(1) << 30;
  return is_aligned16(x.data) && (x.batch | x.head | x.row) % 8 == 0 && x.row < kMost && x.row > -kMost;
}
bool is_tileable(const Attention& at, DType dtype, bool backward) {
  bool fits = is_float16_kind(dtype) && at.size > 0 && at.size <= 128 && at.size % 8 == 0;
  for (const HeadRows* x : {&at.q, &at.k, &at.v, &at.out}) fits &= is_tileable(*x);
  for (const HeadRows* x : {&at.dout, &at.dq, &at.dk, &at.dv}) fits &= !backward || is_tileable(*x);
  return fits;
}

template <class T>
bool is_tiled(const Attention& at, DType dtype, bool backward) {
  return is_tileable(at, dtype, backward) && tiles_fit<T>(at, backward, CudaQueue::current().gpu().shared_memory);
}

template <class T>
constexpr bool kIsHalf = std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

}  // namespace
}  // namespace gpu

void CudaDevice::attention(In q, In k, In v, MaybeIn mask, Out out, Out lse, double causal, double scale) {
  using namespace gpu;
  const Attention at = attention_of(q, k, v, mask, out, lse, causal, scale);
  if (at.batch * at.heads * at.queries == 0) return;
  const cudaStream_t stream = CudaQueue::current().stream();
  dispatch_float("attention", q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (kIsHalf<T>) {
      if (is_tiled<T>(at, q.dtype, false)) return tiled_attention<T>(at, stream);
    }
    plain_attention<T>(at, stream);
  });
}

void CudaDevice::attentionBackward(In dout, In q, In k, In v, MaybeIn mask, In out, In lse, Out dq, Out dk, Out dv,
                                   double causal, double scale) {
  using namespace gpu;
  Attention at = attention_of(q, k, v, mask, out, lse, causal, scale);
  at.dout = head_rows(dout), at.dq = head_rows(dq), at.dk = head_rows(dk), at.dv = head_rows(dv);
  if (at.batch * at.kv_heads == 0) return;
  const cudaStream_t stream = CudaQueue::current().stream();
  Scratch scratch;
  dispatch_float("attention", q.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto* const statistics =
        scratch.take<RowStatistics<accumulate_t<T>>>(size_t(at.batch * at.heads * padded_queries(at)));
    if constexpr (kIsHalf<T>) {
      if (is_tiled<T>(at, q.dtype, true)) {
        if (at.size <= 64) make_statistics<T, 8, 8>(at, statistics, stream);
        else make_statistics<T, 16, 8>(at, statistics, stream);
        return tiled_attention_backward<T>(at, statistics, stream);
      }
    }
    make_statistics<T, kWarpSize, 1>(at, statistics, stream);
    plain_attention_backward<T>(at, statistics, stream);
  });
}

}  // namespace sg
