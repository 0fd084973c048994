// The norm over many tensors, and scaling and clamping them in place: what gradient clipping is made of.
#include "cpu_device.h"
#include "tensor_chunks.h"

#define SG_KERNELS "../kernels/multi_tensor.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

double norm_of_chunk(const View& v, double order, int64_t begin, int64_t end) {
  double result = 0;
  dispatch_float("globalNorm", v.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* const x = Flat(v).read<T>(begin, end - begin, Scratch::kLocalA);
    result = SG_ISA_CALL(norm_part, order, x, end - begin);
  });
  return result;
}

// f(values, count) for the elements of all tensors, block by block, in the type they are computed in; what f leaves
// there is written back.
template <class F>
void for_blocks(const char* name, Ins tensors, const F& f) {
  const TensorChunks chunks(tensors, tensors.count, Scratch::kSharedA);
  chunks.parallel([&](int64_t, int tensor, int64_t begin) {
    const View& v = tensors[tensor];
    dispatch_float(name, v.dtype, [&](auto tag) {
      using A = accumulate_t<typename decltype(tag)::type>;
      using Access = BlockAccess<A>;
      const Access access(v);
      A* const buffer = scratch<A>(Scratch::kLocalA, Access::kElements);
      const int64_t end = std::min(v.numel(), begin + TensorChunks::kElements);
      for (int64_t b = begin; b < end; b += Access::kElements) {
        const int64_t n = std::min(end - b, Access::kElements);
        A* const values = access.open(b, n, buffer);
        f(values, n);
        access.close(b, n, values);
      }
    });
  });
}

}  // namespace

void CpuDevice::globalNorm(Out norm, double order, Ins tensors) {
  SG_ASSERT(norm.numel() == 1);
  if (order != 1 && order != 2 && !(order == std::numeric_limits<double>::infinity()))
    fail(ErrorCode::Value, "globalNorm: the order must be 1, 2 or infinity, got ", order);
  const TensorChunks chunks(tensors, tensors.count, Scratch::kSharedA);
  double* const parts = scratch<double>(Scratch::kSharedB, size_t(chunks.count()));
  chunks.parallel([&](int64_t chunk, int tensor, int64_t begin) {
    const View& v = tensors[tensor];
    parts[chunk] = norm_of_chunk(v, order, begin, std::min(v.numel(), begin + TensorChunks::kElements));
  });
  double total = 0;
  for (int64_t i = 0; i < chunks.count(); i++) {
    if (order == 1 || order == 2) total += parts[i];
    else if (!(parts[i] <= total)) total = std::isnan(total) ? total : parts[i];  // a NaN comes in and stays
  }
  const double value = order == 2 ? std::sqrt(total) : total;
  dispatch_float("globalNorm", norm.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    *norm.ptr<T>() = T(accumulate_t<T>(value));
  });
}

void CpuDevice::scaleMany(In factor, Ins tensors) {
  SG_ASSERT(factor.numel() == 1);
  double by = 0;
  dispatch_float("scaleMany", factor.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    by = double(accumulate_t<T>(*factor.ptr<T>()));
  });
  if (by == 1) return;  // the usual factor of a clip that does nothing
  for_blocks("scaleMany", tensors, [&](auto* values, int64_t n) {
    using A = std::remove_pointer_t<decltype(values)>;
    SG_ISA_CALL(scale_block, values, n, A(by));
  });
}

void CpuDevice::clampMany(double low, double high, Ins tensors) {
  for_blocks("clampMany", tensors, [&](auto* values, int64_t n) {
    using A = std::remove_pointer_t<decltype(values)>;
    SG_ISA_CALL(clamp_block, values, n, A(low), A(high));
  });
}

}  // namespace sg
