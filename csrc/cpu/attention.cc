// Device::attention and its gradient: views become one Attention.
#include "../ops/attention.h"
#include "cpu_device.h"

#define SG_KERNELS "../kernels/attention.h"
#include "simd/for_each_isa.h"

namespace sg {

void CpuDevice::attention(In q, In k, In v, MaybeIn mask, Out out, Out lse, double causal, double scale) {
  const Attention at = attention_of(q, k, v, mask, out, lse, causal, scale);
  if (at.batch * at.heads * at.queries == 0) return;
  SG_ISA_CALL(attention_any, at, q.dtype, false);
}

void CpuDevice::attentionBackward(In dout, In q, In k, In v, MaybeIn mask, In out, In lse, Out dq, Out dk, Out dv,
                                  double causal, double scale) {
  Attention at = attention_of(q, k, v, mask, out, lse, causal, scale);
  at.dout = head_rows(dout), at.dq = head_rows(dq), at.dk = head_rows(dk), at.dv = head_rows(dv);
  if (at.batch * at.kv_heads == 0) return;
  SG_ISA_CALL(attention_any, at, q.dtype, true);
}

}  // namespace sg
