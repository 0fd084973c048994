// One attention problem: what Device::attention and attentionBackward hand to the kernels of kernels/attention*.h.
#pragma once
#include "../core/view.h"

namespace sg {

struct HeadRows {  // a [B, H, T, D] tensor with D contiguous: element strides
  void* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
};
// The first row of one head.
template <class T>
inline T* head_of(const HeadRows& x, int64_t b, int64_t h) {
  return static_cast<T*>(x.data) + b * x.batch + h * x.head;
}

struct AttentionMask {  // absent without data; strides over batch, head, query, key
  const void* data = nullptr;
  DType dtype = DType::k_bool_;
  int64_t strides[4] = {};
};

struct Attention {
  int64_t batch, heads, kv_heads, queries, keys, size;  // size: features of a head
  HeadRows q, k, v, out;
  HeadRows dout, dq, dk, dv;  // backward only
  AttentionMask mask;
  void* lse;  // [B, H, queries], in the accumulation type
  int64_t lse_strides[3];
  bool causal;
  double scale;

  int64_t group() const { return heads / kv_heads; }
  // Query i sees key j if j <= i + shift().
  int64_t shift() const { return causal ? keys - queries : keys; }
};
template <class E>
inline E& lse_of(const Attention& x, int64_t b, int64_t h, int64_t query) {
  return static_cast<E*>(x.lse)[b * x.lse_strides[0] + h * x.lse_strides[1] + query * x.lse_strides[2]];
}

}  // namespace sg
