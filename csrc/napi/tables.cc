// Every operation, in one table: the pointwise rows, the reductions, then the structured ones, a row each. The index is
// the op's id; JavaScript reads the table at load time.
#include <vector>

#include "args.h"
#include "call.h"
#include "../cpu/simd/isa.h"
#include "../ops/pointwise.h"
#include "../ops/reduce.h"

namespace sg {

namespace {

void invoke_pointwise(Device& device, const OpRow& row, OpArguments& a) {
  const int inputs = a.view_count - 1;
  device.pointwise(PointwiseOp(row.code), Ins{a.views, inputs}, a.views[inputs], DType(int(a.numbers[0])));
}

void invoke_reduce(Device& device, const OpRow& row, OpArguments& a) {
  device.reduce(ReduceOp(row.code), a.views[0], a.views[1], a.numbers[0]);
}

constexpr TensorKind kPointwiseTensors[] = {TensorKind::kIn, TensorKind::kIn, TensorKind::kIn, TensorKind::kOut};
constexpr TensorKind kReduceTensors[] = {TensorKind::kIn, TensorKind::kOut};

#define SG_OP(name) structured<&Device::name>(#name)
constexpr OpRow kStructuredOps[] = {
    SG_OP(copy),
    SG_OP(fill),
    SG_OP(arange),
    SG_OP(cat),
    SG_OP(triangle),
    SG_OP(uniform),
    SG_OP(normal),
    SG_OP(randint),
    SG_OP(dropout),
    SG_OP(gather),
    SG_OP(scatter),
    SG_OP(scatterAdd),
    SG_OP(indexSelect),
    SG_OP(indexAdd),
    SG_OP(index),
    SG_OP(indexPut),
    SG_OP(nonzero),
    SG_OP(embedding),
    SG_OP(embeddingBackward),
    SG_OP(oneHot),
    SG_OP(sort),
    SG_OP(topk),
    SG_OP(cumsum),
    SG_OP(cumprod),
    SG_OP(multinomial),
    SG_OP(softmax),
    SG_OP(softmaxBackward),
    SG_OP(logSoftmax),
    SG_OP(logSoftmaxBackward),
    SG_OP(logsumexp),
    SG_OP(layerNorm),
    SG_OP(layerNormBackward),
    SG_OP(rmsNorm),
    SG_OP(rmsNormBackward),
    SG_OP(groupNorm),
    SG_OP(groupNormBackward),
    SG_OP(batchNorm),
    SG_OP(batchNormBackward),
    SG_OP(crossEntropy),
    SG_OP(crossEntropyBackward),
    SG_OP(attention),
    SG_OP(attentionBackward),
    SG_OP(rotaryEmbedding),
    SG_OP(matmul),
    SG_OP(conv2d),
    SG_OP(conv2dBackwardInput),
    SG_OP(conv2dBackwardWeight),
    SG_OP(maxPool2d),
    SG_OP(maxPool2dBackward),
    SG_OP(avgPool2d),
    SG_OP(avgPool2dBackward),
    SG_OP(sgdStep),
    SG_OP(adamStep),
    SG_OP(adagradStep),
    SG_OP(rmspropStep),
    SG_OP(lambStep),
    SG_OP(lionStep),
    SG_OP(globalNorm),
    SG_OP(scaleMany),
    SG_OP(clampMany),
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
                       false, invoke_pointwise});
    }
    code = 0;
    for (const ReduceRow& row : kReduceOps) {
      rows->push_back({row.name, OpKind::kReduce, code++, kReduceTensors, 2, false, 1, false, invoke_reduce});
    }
    rows->insert(rows->end(), std::begin(kStructuredOps), std::end(kStructuredOps));
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
