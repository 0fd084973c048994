// One attention problem: what Device::attention and attentionBackward check and hand to the kernels of every backend.
#pragma once
#include <algorithm>

#include "../core/host_device.h"
#include "../core/view.h"

namespace sg {

struct HeadRows {  // a [B, H, T, D] tensor with D contiguous: element strides
  void* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
};
// The first row of one head.
template <class T>
SG_HOST_DEVICE inline T* head_of(const HeadRows& x, int64_t b, int64_t h) {
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

  SG_HOST_DEVICE int64_t group() const { return heads / kv_heads; }
  // Query i sees key j if j <= i + shift().
  SG_HOST_DEVICE int64_t shift() const { return causal ? keys - queries : keys; }
};
template <class E>
SG_HOST_DEVICE inline E& lse_of(const Attention& x, int64_t b, int64_t h, int64_t query) {
  return static_cast<E*>(x.lse)[b * x.lse_strides[0] + h * x.lse_strides[1] + query * x.lse_strides[2]];
}

inline HeadRows head_rows(In x) { return {x.data, x.strides[0], x.strides[1], x.strides[2]}; }

inline Attention attention_of(In q, In k, In v, MaybeIn mask, In out, In lse, double causal, double scale) {
  for (const View* x : {&k, &v, &out})
    if (x->dtype != q.dtype)
      fail(ErrorCode::DType, "attention: q, k, v and the output must have one dtype, got ", dtype_name(q.dtype),
           " and ", dtype_name(x->dtype));
  for (const View* x : {&q, &k, &v, &out})
    if (x->shape[3] > 1 && x->strides[3] != 1)
      fail(ErrorCode::Internal, "attention: features must be contiguous, got stride ", x->strides[3]);
  if (k.shape[1] == 0 ? q.shape[1] != 0 : q.shape[1] % k.shape[1] != 0)
    fail(ErrorCode::Shape, "attention: ", q.shape[1], " query heads are no multiple of ", k.shape[1], " key heads");
  Attention at{};
  at.batch = q.shape[0], at.heads = q.shape[1], at.kv_heads = k.shape[1];
  at.queries = q.shape[2], at.keys = k.shape[2], at.size = q.shape[3];
  at.q = head_rows(q), at.k = head_rows(k), at.v = head_rows(v), at.out = head_rows(out);
  if (mask) {
    at.mask = {mask->data, mask->dtype, {}};
    std::copy_n(mask->strides, 4, at.mask.strides);
  }
  at.lse = lse.data;
  std::copy_n(lse.strides, 3, at.lse_strides);
  at.causal = causal != 0;
  at.scale = scale;
  return at;
}

}  // namespace sg
