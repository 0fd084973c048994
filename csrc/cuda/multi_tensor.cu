// What is done to the gradients of all parameters at once: their norm, scaling and clamping in place, and the part of
// loss scaling that looks at them. A launch or two each, after that of the table.
#include "../ops/loss_scale.h"

#include <limits>

#include "cuda_device.h"
#include "teams.cuh"
#include "tensor_table.cuh"

namespace sg {

namespace gpu {
namespace {

// Calls in_vectors(i) for the first of kLanes neighbours and single(i) for elements that have no vector.
template <class InVectors, class Single>
SG_DEVICE void walk_chunk(const Chunk<1>& chunk, const InVectors& in_vectors, const Single& single) {
  int64_t done = chunk.begin;
  if (chunk.row->in_vectors) {
    for (int64_t i = chunk.begin + threadIdx.x * kLanes; i + kLanes <= chunk.end; i += kChunkThreads * kLanes) {
      in_vectors(i);
    }
    done = chunk.end - (chunk.end - chunk.begin) % kLanes;
  }
  for (int64_t i = done + threadIdx.x; i < chunk.end; i += kChunkThreads) single(i);
}

// ---- the norm, in double: squares of large float32 gradients stay finite

enum class Order : int { kOne, kTwo, kInfinity };

SG_DEVICE double term(Order order, double x) { return order == Order::kTwo ? x * x : std::abs(x); }
SG_DEVICE double join(Order order, double a, double b) {
  if (order != Order::kInfinity) return a + b;
  return a != a || a > b ? a : b;  // a NaN comes in and stays
}

__global__ void __launch_bounds__(kChunkThreads) norm_kernel(TensorTable<1> table, Order order, double* parts) {
  const Chunk<1> chunk(table);
  const Operand& x = chunk.row->operand[0];
  double total[1] = {0};
  walk_chunk(
      chunk,
      [&](int64_t i) {
        RawLanes raw;
        raw.load(x, i);
        float values[kLanes];
        raw.values(x.dtype, values);
#pragma unroll
        for (int k = 0; k < kLanes; k++) total[0] = join(order, total[0], term(order, double(values[k])));
      },
      [&](int64_t i) {
        total[0] = join(order, total[0], term(order, load_element<Lane<double>>(x, table.layouts, i).v));
      });
  team_fold<kChunkThreads>(total, [=](double a, double b) { return join(order, a, b); });
  if (threadIdx.x == 0) parts[blockIdx.x] = total[0];
}

__global__ void __launch_bounds__(kChunkThreads)
    finish_norm_kernel(const double* parts, int64_t count, Order order, void* norm, DType dtype) {
  double total[1] = {0};
  for (int64_t i = threadIdx.x; i < count; i += kChunkThreads) total[0] = join(order, total[0], parts[i]);
  team_fold<kChunkThreads>(total, [=](double a, double b) { return join(order, a, b); });
  if (threadIdx.x == 0) store_any(norm, dtype, 0, Lane<double>(order == Order::kTwo ? std::sqrt(total[0]) : total[0]));
}

// ---- loss scaling

// `parts`: of each chunk the sum of squares and the number of threads that met an element that is not finite, or of
// those in all if the sum says so.
__global__ void __launch_bounds__(kChunkThreads) squares_kernel(TensorTable<1> table, double (*parts)[2]) {
  const Chunk<1> chunk(table);
  const Operand& x = chunk.row->operand[0];
  double totals[2] = {};
  walk_chunk(
      chunk,
      [&](int64_t i) {
        RawLanes raw;
        raw.load(x, i);
        float values[kLanes];
        raw.values(x.dtype, values);
#pragma unroll
        for (int k = 0; k < kLanes; k++) totals[0] += double(values[k]) * double(values[k]);
      },
      [&](int64_t i) {
        const double value = load_element<Lane<double>>(x, table.layouts, i).v;
        totals[0] += value * value;
        if (!is_finite(value)) totals[1] = 1;
      });
  team_sums<kChunkThreads>(totals);
  if (threadIdx.x > 0) return;
  parts[blockIdx.x][0] = totals[0];
  parts[blockIdx.x][1] = chunk.row->in_double || is_finite(totals[0]) ? totals[1] : 1;
}

__global__ void __launch_bounds__(kChunkThreads)
    finish_preparation_kernel(const double (*parts)[2], int64_t count, const float* scale, double max_norm,
                              double* step, float* norm) {
  double totals[2] = {};
  for (int64_t i = threadIdx.x; i < count; i += kChunkThreads) {
    totals[0] += parts[i][0];
    totals[1] += parts[i][1];
  }
  team_sums<kChunkThreads>(totals);
  if (threadIdx.x == 0) prepare_step(step, norm, totals[0], totals[1] != 0, scale ? double(*scale) : 1, max_norm);
}

// `bad`: of each chunk, whether an element was not finite before it was scaled.
__global__ void __launch_bounds__(kChunkThreads) unscale_kernel(TensorTable<1> table, const float* scale, double* bad) {
  const Chunk<1> chunk(table);
  const Operand& x = chunk.row->operand[0];
  const float by = scale ? float(1 / double(*scale)) : 1;
  double found[1] = {};
  walk_chunk(
      chunk,
      [&](int64_t i) {
        RawLanes raw;
        raw.load(x, i);
        float values[kLanes];
        raw.values(x.dtype, values);
#pragma unroll
        for (int k = 0; k < kLanes; k++) {
          if (!is_finite(double(values[k]))) found[0] = 1;
          values[k] *= by;
        }
        store_lanes(x, i, values);
      },
      [&](int64_t i) {
        const double value = load_element<Lane<double>>(x, table.layouts, i).v;
        if (!is_finite(value)) found[0] = 1;
        if (chunk.row->in_double) store_element(x, table.layouts, i, Lane<double>(value * by));
        else store_element(x, table.layouts, i, Lane<float>(float(value) * by));
      });
  team_sums<kChunkThreads>(found);
  if (threadIdx.x == 0) bad[blockIdx.x] = found[0];
}

__global__ void __launch_bounds__(kChunkThreads)
    note_found_kernel(const double* bad, int64_t count, void* found, DType dtype) {
  double total[1] = {};
  for (int64_t i = threadIdx.x; i < count; i += kChunkThreads) total[0] += bad[i];
  team_sums<kChunkThreads>(total);
  if (threadIdx.x == 0 && total[0] != 0) store_any(found, dtype, 0, Lane<double>(1));
}

__global__ void __launch_bounds__(1)
    update_scale_kernel(TensorTable<1> found, ScaleUpdate update, double* state, float* scale) {
  bool any = false;
  for (int i = 0; i < found.count; i++) {
    const Operand& flag = found.rows[i].operand[0];
    any |= load_any<Lane<double>>(flag.data, flag.dtype, 0).v != 0;
  }
  update(state, scale, any);
}

// ---- changes in place

struct Scale {
  const void* factor;
  DType dtype;
  float by;
  SG_DEVICE double exact() const { return load_any<Lane<double>>(factor, dtype, 0).v; }
  SG_DEVICE bool prepare() {
    by = float(exact());
    return exact() != 1;  // the usual factor of a clip that does nothing
  }
  SG_DEVICE float operator()(float x) const { return x * by; }
  SG_DEVICE double operator()(double x) const { return x * exact(); }
};

// NaN stays NaN.
struct Clamp {
  double low, high;
  SG_DEVICE bool prepare() { return true; }
  template <class T>
  SG_DEVICE T operator()(T x) const {
    x = T(low) > x ? T(low) : x;
    return T(high) < x ? T(high) : x;
  }
};

template <class Change>
__global__ void __launch_bounds__(kChunkThreads) change_kernel(TensorTable<1> table, Change change) {
  if (!change.prepare()) return;
  const Chunk<1> chunk(table);
  const Operand& x = chunk.row->operand[0];
  walk_chunk(
      chunk,
      [&](int64_t i) {
        RawLanes raw;
        raw.load(x, i);
        float values[kLanes];
        raw.values(x.dtype, values);
#pragma unroll
        for (int k = 0; k < kLanes; k++) values[k] = change(values[k]);
        store_lanes(x, i, values);
      },
      [&](int64_t i) {
        if (chunk.row->in_double) {
          store_element(x, table.layouts, i, Lane<double>(change(load_element<Lane<double>>(x, table.layouts, i).v)));
        } else {
          store_element(x, table.layouts, i, Lane<float>(change(load_element<Lane<float>>(x, table.layouts, i).v)));
        }
      });
}

// f(table, chunks), unless there is nothing in the tensors.
template <class F>
void with_table(const char* name, Ins tensors, Scratch& scratch, const F& f) {
  TableMaker<1> maker;
  for (int i = 0; i < tensors.count; i++) {
    dispatch_float(name, tensors[i].dtype, [](auto) {});  // refuses other types
    auto& row = maker.add(tensors[i].numel());
    row.in_double = tensors[i].dtype == DType::k_float64;
    maker.put(row, 0, tensors[i]);
  }
  if (maker.chunks() == 0) return;
  f(maker.upload({nullptr, 0}, scratch, CudaQueue::current().stream()), maker.chunks());
}

}  // namespace
}  // namespace gpu

using namespace gpu;

void CudaDevice::prepareStep(In step, MaybeIn scale, Out norm, double maxNorm, Ins gradients) {
  SG_ASSERT(norm.numel() == 1 && (!scale || scale->numel() == 1));
  SG_ASSERT(step.dtype == DType::k_float64 && step.contiguous() && step.numel() >= kStepSlots);
  const cudaStream_t stream = CudaQueue::current().stream();
  Scratch scratch;
  double(*parts)[2] = nullptr;
  int64_t count = 0;
  with_table("prepareStep", gradients, scratch, [&](const TensorTable<1>& table, int64_t chunks) {
    parts = reinterpret_cast<double(*)[2]>(scratch.take<double>(2 * size_t(chunks)));
    count = chunks;
    launch(squares_kernel, unsigned(chunks), kChunkThreads, 0, stream, table, parts);
  });
  launch(finish_preparation_kernel, 1, kChunkThreads, 0, stream, parts, count,
         scale ? scale->ptr<const float>() : nullptr, maxNorm, step.ptr<double>(), norm.ptr<float>());
}

void CudaDevice::unscaleMany(MaybeIn scale, Out found, Ins gradients) {
  SG_ASSERT(found.numel() == 1 && (!scale || scale->numel() == 1));
  dispatch_float("unscaleMany", found.dtype, [](auto) {});
  const cudaStream_t stream = CudaQueue::current().stream();
  Scratch scratch;
  with_table("unscaleMany", gradients, scratch, [&](const TensorTable<1>& table, int64_t chunks) {
    double* const bad = scratch.take<double>(size_t(chunks));
    launch(unscale_kernel, unsigned(chunks), kChunkThreads, 0, stream, table,
           scale ? scale->ptr<const float>() : nullptr, bad);
    launch(note_found_kernel, 1, kChunkThreads, 0, stream, bad, chunks, found.data, found.dtype);
  });
}

void CudaDevice::updateScale(Out state, Out scale, double growthFactor, double backoffFactor, double growthInterval,
                             double minScale, Ins found) {
  SG_ASSERT(state.dtype == DType::k_float64 && state.contiguous() && state.numel() == kScaleSlots &&
            scale.numel() == 1);
  for (int i = 0; i < found.count; i++) SG_ASSERT(found[i].numel() == 1);
  Scratch scratch;
  with_table("updateScale", found, scratch, [&](const TensorTable<1>& table, int64_t) {
    launch(update_scale_kernel, 1, 1, 0, CudaQueue::current().stream(), table,
           ScaleUpdate{growthFactor, backoffFactor, growthInterval, minScale}, state.ptr<double>(), scale.ptr<float>());
  });
}

void CudaDevice::globalNorm(Out norm, double order, Ins tensors) {
  SG_ASSERT(norm.numel() == 1);
  if (order != 1 && order != 2 && !(order == std::numeric_limits<double>::infinity()))
    fail(ErrorCode::Value, "globalNorm: the order must be 1, 2 or infinity, got ", order);
  dispatch_float("globalNorm", norm.dtype, [](auto) {});
  const Order which = order == 1 ? Order::kOne : order == 2 ? Order::kTwo : Order::kInfinity;
  const cudaStream_t stream = CudaQueue::current().stream();
  Scratch scratch;
  double* parts = nullptr;
  int64_t count = 0;
  with_table("globalNorm", tensors, scratch, [&](const TensorTable<1>& table, int64_t chunks) {
    parts = scratch.take<double>(size_t(chunks));
    count = chunks;
    launch(norm_kernel, unsigned(chunks), kChunkThreads, 0, stream, table, which, parts);
  });
  launch(finish_norm_kernel, 1, kChunkThreads, 0, stream, parts, count, which, norm.data, norm.dtype);
}

void CudaDevice::scaleMany(In factor, Ins tensors) {
  SG_ASSERT(factor.numel() == 1);
  dispatch_float("scaleMany", factor.dtype, [](auto) {});
  Scratch scratch;
  with_table("scaleMany", tensors, scratch, [&](const TensorTable<1>& table, int64_t chunks) {
    launch(change_kernel<Scale>, unsigned(chunks), kChunkThreads, 0, CudaQueue::current().stream(), table,
           Scale{factor.data, factor.dtype, 0});
  });
}

void CudaDevice::clampMany(double low, double high, Ins tensors) {
  Scratch scratch;
  with_table("clampMany", tensors, scratch, [&](const TensorTable<1>& table, int64_t chunks) {
    launch(change_kernel<Clamp>, unsigned(chunks), kChunkThreads, 0, CudaQueue::current().stream(), table,
           Clamp{low, high});
  });
}

}  // namespace sg
