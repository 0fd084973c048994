// What is done to the gradients of all parameters at once: their norm, scaling and clamping in place, and the part of
// loss scaling that looks at them.
#include "../ops/loss_scale.h"
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

// f(values, count, chunk) for the elements of all tensors, block by block, in the type they are computed in; what f
// leaves there is written back.
template <class F>
void for_blocks(const char* name, Ins tensors, const TensorChunks& chunks, const F& f) {
  chunks.parallel([&](int64_t chunk, int tensor, int64_t begin) {
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
        f(values, n, chunk);
        access.close(b, n, values);
      }
    });
  });
}

template <class F>
void for_blocks(const char* name, Ins tensors, const F& f) {
  for_blocks(name, tensors, TensorChunks(tensors, tensors.count, Scratch::kSharedA),
             [&](auto* values, int64_t n, int64_t) { f(values, n); });
}

// Whether all numbers of a chunk are finite, given the sum of their squares: only those of float64 need a second look.
bool finite_chunk(const View& v, double squares, int64_t begin, int64_t end) {
  if (is_finite(squares)) return true;
  if (v.dtype != DType::k_float64) return false;
  return SG_ISA_CALL(all_finite, Flat(v).read<double>(begin, end - begin, Scratch::kLocalA), end - begin);
}

}  // namespace

void CpuDevice::prepareStep(In step, MaybeIn scale, Out norm, double maxNorm, Ins gradients) {
  SG_ASSERT(norm.numel() == 1 && (!scale || scale->numel() == 1));
  SG_ASSERT(step.dtype == DType::k_float64 && step.contiguous() && step.numel() >= kStepSlots);
  const TensorChunks chunks(gradients, gradients.count, Scratch::kSharedA);
  double* const squares = scratch<double>(Scratch::kSharedB, size_t(2 * chunks.count()));
  double* const bad = squares + chunks.count();
  chunks.parallel([&](int64_t chunk, int tensor, int64_t begin) {
    const View& v = gradients[tensor];
    const int64_t end = std::min(v.numel(), begin + TensorChunks::kElements);
    squares[chunk] = norm_of_chunk(v, 2, begin, end);
    bad[chunk] = finite_chunk(v, squares[chunk], begin, end) ? 0 : 1;
  });
  double total = 0, found = 0;
  for (int64_t i = 0; i < chunks.count(); i++) {
    total += squares[i];
    found += bad[i];
  }
  prepare_step(step.ptr<double>(), norm.ptr<float>(), total, found != 0, scale ? double(*scale->ptr<float>()) : 1,
               maxNorm);
}

void CpuDevice::unscaleMany(MaybeIn scale, Out found, Ins gradients) {
  SG_ASSERT(found.numel() == 1 && (!scale || scale->numel() == 1));
  const float by = scale ? float(1 / double(*scale->ptr<float>())) : 1;
  const TensorChunks chunks(gradients, gradients.count, Scratch::kSharedA);
  double* const bad = scratch<double>(Scratch::kSharedB, size_t(chunks.count()));
  std::fill(bad, bad + chunks.count(), 0);
  for_blocks("unscaleMany", gradients, chunks, [&](auto* values, int64_t n, int64_t chunk) {
    using A = std::remove_pointer_t<decltype(values)>;
    if (!SG_ISA_CALL(scale_finite, values, n, A(by))) bad[chunk] = 1;
  });
  if (std::find(bad, bad + chunks.count(), 1) == bad + chunks.count()) return;
  dispatch_float("unscaleMany", found.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    *found.ptr<T>() = T(1);
  });
}

void CpuDevice::updateScale(Out state, Out scale, double growthFactor, double backoffFactor, double growthInterval,
                            double minScale, Ins found) {
  SG_ASSERT(state.dtype == DType::k_float64 && state.contiguous() && state.numel() == kScaleSlots &&
            scale.numel() == 1);
  bool any = false;
  for (int i = 0; i < found.count; i++) {
    SG_ASSERT(found[i].numel() == 1);
    dispatch_float("updateScale", found[i].dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      any |= double(accumulate_t<T>(*found[i].ptr<T>())) != 0;
    });
  }
  const ScaleUpdate update{growthFactor, backoffFactor, growthInterval, minScale};
  update(state.ptr<double>(), scale.ptr<float>(), any);
}

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
