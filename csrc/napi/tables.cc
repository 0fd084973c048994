// Every operation, in one table: the pointwise rows, the reductions, the structured ones, then the collectives, a row
// each. The index is the op's id; JavaScript reads the table at load time.
#include <vector>

#include "args.h"
#include "call.h"
#include "../cpu/simd/isa.h"
#include "../ops/pointwise.h"
#include "../ops/reduce.h"

namespace sg {

namespace {

void invoke_pointwise(Stream&, Device& device, const OpRow& row, OpArguments& a) {
  const int inputs = a.view_count - 1;
  device.pointwise(PointwiseOp(row.code), Ins{a.views, inputs}, a.views[inputs], DType(int(a.numbers[0])));
}

void invoke_reduce(Stream&, Device& device, const OpRow& row, OpArguments& a) {
  device.reduce(ReduceOp(row.code), a.views[0], a.views[1], a.numbers[0]);
}

constexpr TensorKind kPointwiseTensors[] = {TensorKind::kIn, TensorKind::kIn, TensorKind::kIn, TensorKind::kOut};
constexpr TensorKind kReduceTensors[] = {TensorKind::kIn, TensorKind::kOut};

#define SG_OP(name, contract) structured<&Device::name>(#name, contract)
const OpRow kStructuredOps[] = {
    SG_OP(copy, "*[..] *[..]"),
    SG_OP(fill, "*[..]; r"),
    SG_OP(arange, "*[N]; r r"),
    SG_OP(cat, "T[*] T[*]; d"),
    SG_OP(triangle, "T[..,M,N] T[..,M,N]; n b"),
    SG_OP(uniform, "*[..]; r r n n n n"),
    SG_OP(normal, "*[..]; r r n n n n"),
    SG_OP(randint, "*[..]; n n n n n n"),
    SG_OP(dropout, "*[..] *[..]; r n n n n n"),
    SG_OP(gather, "T[*] I[*] T[*]; d"),
    SG_OP(scatter, "T[*] I[*] T[*]; d"),
    SG_OP(scatterAdd, "T[*] I[*] T[*]; d"),
    SG_OP(indexSelect, "T[*] I[*] T[*]; d"),
    SG_OP(indexAdd, "T[*] I[*] T[*]; d"),
    SG_OP(index, "T[*] T[*] I[*]; d"),
    SG_OP(indexPut, "T[*] T[*] I[*]; d b"),
    SG_OP(nonzero, "*[*] L[N,D]"),
    SG_OP(embedding, "T[V,D] I[..] T[..,D]"),
    SG_OP(embeddingBackward, "f[..,D] I[..] f[V,D]; r"),
    SG_OP(oneHot, "I[..] *[..,C]"),
    SG_OP(sort, "T[..] T[..] L[..]; b"),
    SG_OP(topk, "T[*] T[..] L[..]; b"),
    SG_OP(cumsum, "*[..] *[..]; b"),
    SG_OP(cumprod, "*[..] *[..]"),
    SG_OP(multinomial, "f[..,C] L[..,K]; b n n n n"),
    SG_OP(softmax, "F[..] F[..]"),
    SG_OP(softmaxBackward, "F[..] F[..] F[..]"),
    SG_OP(logSoftmax, "F[..] F[..]"),
    SG_OP(logSoftmaxBackward, "F[..] F[..] F[..]"),
    SG_OP(logsumexp, "F[*] F[*]"),
    SG_OP(layerNorm, "F[..,C] f[C] f[C] F[..,C] A[..] A[..]; r"),
    SG_OP(layerNormBackward, "F[..,C] F[..,C] f[C] A[..] A[..] F[..,C] f[C] f[C]"),
    SG_OP(rmsNorm, "F[..,C] f[C] F[..,C] A[..]; r"),
    SG_OP(rmsNormBackward, "F[..,C] F[..,C] f[C] A[..] F[..,C] f[C]"),
    SG_OP(groupNorm, "F[N,C,..] f[C] f[C] F[N,C,..] A[N,G] A[N,G]; n r"),
    SG_OP(groupNormBackward, "F[N,C,..] F[N,C,..] f[C] A[N,G] A[N,G] F[N,C,..] f[C] f[C]; n"),
    SG_OP(batchNorm, "F[N,C,..] f[C] f[C] f[C] f[C] F[N,C,..] A[C] A[C]; b r r"),
    SG_OP(batchNormBackward, "F[N,C,..] F[N,C,..] f[C] A[C] A[C] F[N,C,..] f[C] f[C]; b"),
    SG_OP(crossEntropy, "F[M,V] I[M] f[V] A[M] A[M] A[_] F[M,V]; n r n"),
    SG_OP(crossEntropyBackward, "f[*] F[M,V] I[M] f[V] A[M] F[M,V]; n r"),
    SG_OP(attention, "F[B,H,Q,D'] F[B,G,K,D'] F[B,G,K,D'] M[B,H,Q,K] F[B,H,Q,D'] A[B,H,Q]; b r"),
    SG_OP(attentionBackward,
          "F[B,H,Q,D'] F[B,H,Q,D'] F[B,G,K,D'] F[B,G,K,D'] M[B,H,Q,K] F[B,H,Q,D'] A[B,H,Q] F[B,H,Q,D'] F[B,G,K,D'] "
          "F[B,G,K,D']; b r"),
    SG_OP(rotaryEmbedding, "F[B,T,H,D] s[T,E] s[T,E] F[B,T,H,D]; b b"),
    SG_OP(matmul, "F[..,M,K] F[..,K,N] f[N] f[..,M,N] f[..,M,N] f[..,M,N] f[M]; n"),
    SG_OP(conv2d, "F[N,C,_,_] F[O,_,_,_] F[O] F[N,O,_,_]; n"),
    SG_OP(conv2dBackwardInput, "F[N,O,_,_] F[O,_,_,_] F[N,C,_,_]; n"),
    SG_OP(conv2dBackwardWeight, "F[N,O,_,_] F[N,C,_,_] F[O,_,_,_] F[O]; n"),
    SG_OP(maxPool2d, "F[N,C,_,_] F[N,C,X,Y] L[N,C,X,Y]; n"),
    SG_OP(maxPool2dBackward, "F[N,C,X,Y] L[N,C,X,Y] F[N,C,_,_]"),
    SG_OP(avgPool2d, "F[N,C,_,_] F[N,C,_,_]; n"),
    SG_OP(avgPool2dBackward, "F[N,C,_,_] F[N,C,_,_]; n"),
    SG_OP(sgdStep, "f[_] f[*]; c r"),
    SG_OP(adamStep, "f[_] f[*]; c r"),
    SG_OP(adagradStep, "f[_] f[*]; c r"),
    SG_OP(rmspropStep, "f[_] f[*]; c r"),
    SG_OP(lambStep, "f[_] f[*]; c r"),
    SG_OP(lionStep, "f[_] f[*]; c r"),
    SG_OP(prepareStep, "f[_] s[*] s[*] f[*]; r"),
    SG_OP(unscaleMany, "s[*] f[_] f[*]"),
    SG_OP(updateScale, "f[_] s[*] f[*]; r r c r"),
    SG_OP(globalNorm, "*[*] f[*]; r"),
    SG_OP(scaleMany, "*[*] f[*]"),
    SG_OP(clampMany, "f[*]; r r"),
};
#undef SG_OP

napi_value text(napi_env env, const char* s) {
  napi_value v = nullptr;
  napi_create_string_utf8(env, s, NAPI_AUTO_LENGTH, &v);
  return v;
}

napi_value number(napi_env env, double d) {
  napi_value v = nullptr;
  napi_create_double(env, d, &v);
  return v;
}

template <class F>
napi_value array(napi_env env, size_t n, const F& element) {
  napi_value a = nullptr;
  napi_create_array_with_length(env, n, &a);
  for (size_t i = 0; i < n; i++) napi_set_element(env, a, uint32_t(i), element(i));
  return a;
}

napi_value describe(napi_env env, const OpRow& row) {
  static const char* const kinds[] = {"pointwise", "reduce", "structured"};
  napi_value object = nullptr;
  napi_create_object(env, &object);
  napi_set_named_property(env, object, "name", text(env, row.name));
  napi_set_named_property(env, object, "kind", text(env, kinds[int(row.kind)]));
  napi_set_named_property(env, object, "inputs",
                          number(env, row.kind == OpKind::kStructured ? 0 : row.tensor_count - 1));
  return object;
}

}  // namespace

const std::vector<OpRow>& op_table() {
  static const auto* table = [] {
    auto* rows = new std::vector<OpRow>;
    int code = 0;
    for (const PointwiseRow& row : kPointwiseOps) {
      rows->push_back({row.name, OpKind::kPointwise, code++, kPointwiseTensors + 3 - row.arity, row.arity + 1, false, 1,
                       false, invoke_pointwise, nullptr});
    }
    code = 0;
    for (const ReduceRow& row : kReduceOps) {
      rows->push_back({row.name, OpKind::kReduce, code++, kReduceTensors, 2, false, 1, false, invoke_reduce, nullptr});
    }
    rows->insert(rows->end(), std::begin(kStructuredOps), std::end(kStructuredOps));
    const auto collectives = collective_rows();
    rows->insert(rows->end(), collectives.begin(), collectives.end());
    return rows;
  }();
  return *table;
}

void export_tables(Environment& e, napi_value exports) {
  const napi_env env = e.env;
  const auto set = [&](const char* name, napi_value value) { napi_set_named_property(env, exports, name, value); };
  set("version", text(env, SHARDGRAD_VERSION));
  set("isa", text(env, isa_name(isa())));
  set("dtypes", array(env, kDTypes, [&](size_t i) { return text(env, dtype_name(DType(i))); }));
  set("dtypeSizes", array(env, kDTypes, [&](size_t i) { return number(env, double(dtype_size(DType(i)))); }));
  const auto& ops = op_table();
  set("ops", array(env, ops.size(), [&](size_t i) { return describe(env, ops[i]); }));
#define SG_ROW(name) #name,
  static const char* const stats[] = {SG_MEMORY_STATS(SG_ROW)};
#undef SG_ROW
  set("memoryStats", array(env, std::size(stats), [&](size_t i) { return text(env, stats[i]); }));
}

}  // namespace sg
