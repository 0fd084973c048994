// Draws classes from rows of weights, by the random numbers of the CPU backend. With replacement, chunks of a row are
// summed in parallel, the chunks one after another and within the chunk of a sample the weights again: all sums only
// grow, so no class of weight 0 is ever drawn, and a row of one chunk is summed as on the CPU, bit for bit. Without
// replacement, the classes of largest weight / exponential variate come first: see csrc/cpu/multinomial.cc.
#include "../core/philox.h"

#include "cuda_device.h"
#include "fault.cuh"
#include "lanes.cuh"
#include "prefix.cuh"
#include "row_order.h"
#include "walk.cuh"

namespace sg {

namespace gpu {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int64_t kChunk = 32;  // classes

struct Weights {
  const void* data;
  DType dtype;
  int64_t classes, chunks, step;
  Walk<2> walk;  // of the rows: weights, samples
  FaultSink faults;

  SG_DEVICE double at(int64_t row_start, int64_t i) const {
    return load_any<Lane<double>>(data, dtype, row_start + i * step).v;
  }
};

// 0 in place of a weight that is none.
SG_DEVICE double checked(const Weights& x, double w, int64_t row, int64_t i) {
  if (w >= 0 && w <= std::numeric_limits<double>::max()) return w;
  raise_fault(x.faults, FaultKind::kProbability, row, i, 0, w);
  return 0;
}

SG_DEVICE bool check_total(const Weights& x, double total, int64_t row) {
  if (total == 0) raise_fault(x.faults, FaultKind::kNoProbability, row);
  else if (!isfinite(total)) raise_fault(x.faults, FaultKind::kInfiniteTotal, row);
  else return true;
  return false;
}

// ---- with replacement; sums[row][chunk], each at last of all classes up to the end of its chunk

__global__ void __launch_bounds__(kThreads) sum_chunks_kernel(Weights x, double* sums) {
  const int64_t step = int64_t(gridDim.x) * kThreads, all = x.walk.count * x.chunks;
  for (int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x; c < all; c += step) {
    const int64_t row = c / x.chunks, first = c % x.chunks * kChunk, last = min(x.classes, first + kChunk);
    int64_t start[1];
    x.walk.locate(row, start);
    double sum = 0;
    for (int64_t i = first; i < last; i++) sum += checked(x, x.at(start[0], i), row, i);
    sums[c] = sum;
  }
}

// A thread a row, since sums in another order might fall.
__global__ void __launch_bounds__(kThreads) add_chunks_kernel(Weights x, double* sums) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= x.walk.count) return;
  sums += row * x.chunks;
  double total = 0;
  constexpr int kAhead = 8;  // loads under way
  for (int64_t first = 0; first < x.chunks; first += kAhead) {
    double sum[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; j++) sum[j] = first + j < x.chunks ? sums[first + j] : 0;
#pragma unroll
    for (int j = 0; j < kAhead; j++) {
      total += sum[j];
      if (first + j < x.chunks) sums[first + j] = total;
    }
  }
  check_total(x, total, row);
}

__global__ void __launch_bounds__(kThreads)
    draw_kernel(Weights x, const double* sums, PhiloxKey key, int64_t samples, int64_t* indices, int64_t sample_step) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t s = int64_t(blockIdx.x) * kThreads + threadIdx.x; s < x.walk.count * samples; s += step) {
    const int64_t row = s / samples;
    int64_t start[2];
    x.walk.locate(row, start);
    const double* const up_to = sums + row * x.chunks;
    const double total = up_to[x.chunks - 1];
    int64_t drawn = 0;
    if (total > 0 && isfinite(total)) {
      // Below the total (rounding could reach a subnormal one), so a chunk is found.
      const double product = double(philox_at(key, uint64_t(s))) * 0x1p-32 * total;
      const double below = std::nextafter(total, 0.0), u = product < below ? product : below;
      int64_t low = 0, high = x.chunks - 1;
      while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (up_to[middle] > u) high = middle;
        else low = middle + 1;
      }
      // The chunk's own sum, added to those before, can be larger than its weights added one by one; then u may lie
      // beyond them, and belongs to the last that has a weight.
      const int64_t first = low * kChunk, last = min(x.classes, first + kChunk);
      double sum = low > 0 ? up_to[low - 1] : 0;
      for (int64_t i = first; i < last && !(sum > u); i++) {
        const double w = x.at(start[0], i);
        if (w > 0) drawn = i;
        sum += w;
      }
    }
    indices[start[1] + s % samples * sample_step] = drawn;
  }
}

// ---- without replacement

// races[row][class]: the smallest are drawn. A block a row. A class of weight 0 takes part as NaN, behind all others.
__global__ void __launch_bounds__(kThreads) race_kernel(Weights x, PhiloxKey key, int64_t samples, double* races) {
  const int64_t row = blockIdx.x;
  int64_t start[1];
  x.walk.locate(row, start);
  double sum = 0;
  uint32_t candidates = 0;
  for (int64_t i = threadIdx.x; i < x.classes; i += kThreads) {
    const double w = checked(x, x.at(start[0], i), row, i);
    const uint64_t element = uint64_t(row * x.classes + i);
    sum += w;
    candidates += w > 0;
    races[element] =
        w > 0 ? -std::log(uniform01_open(philox_at(key, element))) / w : std::numeric_limits<double>::quiet_NaN();
  }
  double total;
  uint32_t count;
  block_exclusive<Sum<double>, kWarps>(sum, total);
  block_exclusive<Sum<uint32_t>, kWarps>(candidates, count);
  if (threadIdx.x > 0 || !check_total(x, total, row)) return;
  if (samples > int64_t(count)) raise_fault(x.faults, FaultKind::kTooFewCandidates, samples, row, count);
}

}  // namespace
}  // namespace gpu

void CudaDevice::multinomial(In probabilities, Out indices, double replacement, double seed0, double seed1,
                             double stream0, double stream1) {
  using namespace gpu;
  SG_ASSERT(probabilities.ndim > 0 && probabilities.ndim == indices.ndim && indices.dtype == DType::k_int64);
  const int last = indices.ndim - 1;
  for (int d = 0; d < last; d++) SG_ASSERT(indices.shape[d] == probabilities.shape[d]);
  const PhiloxKey key{{uint32_t(seed0), uint32_t(seed1)}, {uint32_t(stream0), uint32_t(stream1)}};
  const int64_t classes = probabilities.size(-1), samples = indices.size(-1);
  SG_ASSERT(classes > 0);
  CudaQueue& queue = CudaQueue::current();
  const int64_t* const strides[2] = {probabilities.strides, indices.strides};
  const Walk<2> walk(last, probabilities.shape, strides, Order::kLogical);
  if (samples == 0 || walk.count == 0) return;
  const Weights x{probabilities.data,
                  probabilities.dtype,
                  classes,
                  (classes + kChunk - 1) / kChunk,
                  probabilities.strides[last],
                  walk,
                  {queue.fault_record(), "multinomial", nullptr}};
  Scratch scratch;
  if (replacement != 0) {
    double* const sums = scratch.take<double>(size_t(walk.count * x.chunks));
    launch(sum_chunks_kernel, grid_for(walk.count * x.chunks, kThreads), kThreads, 0, queue.stream(), x, sums);
    launch(add_chunks_kernel, dim3(unsigned((walk.count + kThreads - 1) / kThreads)), kThreads, 0, queue.stream(), x,
           sums);
    launch(draw_kernel, grid_for(walk.count * samples, kThreads), kThreads, 0, queue.stream(), x, sums, key, samples,
           indices.ptr<int64_t>(), indices.strides[last]);
    return;
  }
  View races = probabilities;
  races.dtype = DType::k_float64;
  races.data = scratch.take<double>(size_t(walk.count * classes));
  for (int64_t d = last, stride = 1; d >= 0; d--) {
    races.strides[d] = stride;
    stride *= races.shape[d];
  }
  launch(race_kernel, dim3(unsigned(walk.count)), kThreads, 0, queue.stream(), x, key, samples, races.ptr<double>());
  order_rows("multinomial", races, MaybeOut{nullptr}, indices, false);
}

}  // namespace sg
