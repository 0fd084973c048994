// Device::attention and its gradient: views become one Attention.
#include "attention.h"
#include "cpu_device.h"

#define SG_KERNELS "../kernels/attention.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

HeadRows rows(In x) { return {x.data, x.strides[0], x.strides[1], x.strides[2]}; }

Attention problem(In q, In k, In v, MaybeIn mask, In out, In lse, double causal, double scale) {
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
  at.q = rows(q), at.k = rows(k), at.v = rows(v), at.out = rows(out);
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

}  // namespace

void CpuDevice::attention(In q, In k, In v, MaybeIn mask, Out out, Out lse, double causal, double scale) {
  const Attention at = problem(q, k, v, mask, out, lse, causal, scale);
  if (at.batch * at.heads * at.queries == 0) return;
  SG_ISA_CALL(attention_any, at, q.dtype, false);
}

void CpuDevice::attentionBackward(In dout, In q, In k, In v, MaybeIn mask, In out, In lse, Out dq, Out dk, Out dv,
                                  double causal, double scale) {
  Attention at = problem(q, k, v, mask, out, lse, causal, scale);
  at.dout = rows(dout), at.dq = rows(dq), at.dk = rows(dk), at.dv = rows(dv);
  if (at.batch * at.kv_heads == 0) return;
  SG_ISA_CALL(attention_any, at, q.dtype, true);
}

}  // namespace sg
