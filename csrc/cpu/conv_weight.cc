// The gradient of a convolution's weights and bias. A task has some outputs and some channels; tasks' sums over
// different outputs are added up in order. The cut depends on the shapes only, so results do not depend on the number
// of threads.
#include "conv.h"
#include "conv_planes.h"
#include "cpu_device.h"
#include "flat.h"
#include "../core/thread_pool.h"

#define SG_KERNELS "../kernels/conv_weight.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

constexpr int64_t kTasks = 16;
constexpr int64_t kSums = 2 << 20;           // elements of all parts' sums
constexpr int64_t kPackedOutputs = 1 << 17;  // elements of dy that a chunk packs
constexpr int64_t kPlaneBytes = 384 << 10;   // of a chunk's padded planes

// One task a channel: its sum has one order.
void sum_channels(const Conv& s, In dy, Out dbias) {
  SG_ASSERT(dbias.ndim == 1 && dbias.shape[0] == s.filters && dbias.dtype == dy.dtype);
  dispatch_float("conv2dBackwardWeight", dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Flat flat(dy);
    const int64_t size = s.outputs(), work = std::max<int64_t>(1, s.images * size);
    parallel_for(s.filters, std::max<int64_t>(1, 32768 / work), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; c++) {
        const double sum = SG_ISA_CALL(sum_planes<T>, flat, c, s.filters, s.images, size);
        dbias.ptr<T>()[c * dbias.strides[0]] = T(accumulate_t<T>(sum));
      }
    });
  });
}

// How the sums are cut: outputs into parts, channels into blocks.
struct Cut {
  int64_t parts, blocks, block, chunks;
  Cut(const Conv& s, const WeightGradient& g) {
    chunks = (s.images + g.chunk_images - 1) / g.chunk_images * g.blocks;
    const int64_t all = std::max<int64_t>(1, s.group_filters() * s.depth() * s.groups);
    parts = std::clamp<int64_t>(std::min(kSums / all, (kTasks + s.groups - 1) / s.groups), 1, chunks);
    const int64_t wanted = (kTasks + parts * s.groups - 1) / (parts * s.groups);
    block = (s.group_channels() + wanted - 1) / wanted;
    blocks = (s.group_channels() + block - 1) / block;
  }
  // Of a group; parts of the same weights follow each other.
  WeightPart operator()(const WeightGradient& g, int64_t task) const {
    const int64_t part = task % parts, channel = task / parts % blocks * block;
    return {task / parts / blocks, channel, std::min(block, g.channels - channel), part * chunks / parts,
            (part + 1) * chunks / parts};
  }
};

}  // namespace

void CpuDevice::conv2dBackwardWeight(In dy, In x, Out dw, MaybeOut dbias, Rest geometry) {
  const Conv s(x, dw, dy, geometry);
  if (dbias) sum_channels(s, dy, *dbias);
  if (dw.numel() == 0) return;
  if (dy.numel() == 0) return fill(dw, 0);
  if (s.depthwise()) return depthwise_backward_weight(s, dy, x, dw);
  const Planes planes(s);
  int64_t* const offsets = scratch<int64_t>(Scratch::kOuterA, size_t(s.taps()));
  for (int64_t t = 0; t < s.taps(); t++)
    offsets[t] = planes.offset(t / s.w.kernel * s.h.dilation, t % s.w.kernel * s.w.dilation);
  WeightGradient g{
      x,       dy, planes, s.images, s.group_channels(), s.group_filters(), s.h.output, s.w.output, s.taps(),
      offsets, 1,  1,      1};
  const int64_t row_bytes = s.group_channels() * planes.row_step() * int64_t(sizeof(float));
  const int64_t outputs = std::clamp<int64_t>(kPackedOutputs / g.filters, 32, 512);
  const int64_t rows = std::clamp<int64_t>(std::min(outputs / g.width, kPlaneBytes / row_bytes), 1, g.height);
  g.blocks = (g.height + rows - 1) / rows;
  g.chunk_rows = (g.height + g.blocks - 1) / g.blocks;
  const int64_t fit = std::min(outputs / s.outputs(), kPlaneBytes / (row_bytes * g.height));
  g.chunk_images = g.blocks > 1 ? 1 : std::clamp<int64_t>(fit, 1, s.images);
  const Cut cut(s, g);
  dispatch_float("conv2dBackwardWeight", dw.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t size = SG_ISA_CALL(weight_sums_size<T>, cut.block * s.taps(), g.filters);
    const int64_t tasks = s.groups * cut.blocks * cut.parts;
    A* const sums = scratch<A>(Scratch::kOuterB, size_t(tasks * size));
    const int64_t work = g.filters * cut.block * s.taps() * s.images * s.outputs() / cut.parts;
    const int64_t grain = std::max<int64_t>(1, (1 << 19) / std::max<int64_t>(1, work));
    parallel_for(tasks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) SG_ISA_CALL(weight_gradient<T>, g, cut(g, i), sums + i * size);
    });
    const int64_t weights = cut.block * s.taps();
    const int64_t few = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, g.filters * cut.parts));
    parallel_for(s.groups * cut.blocks * weights, few, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end;) {
        const int64_t block = k / weights, last = std::min(end, (block + 1) * weights), first = block * cut.parts;
        const WeightPart part = cut(g, first);
        SG_ISA_CALL(add_weight_parts<T>, g, part, sums + first * size, size, cut.parts, dw, k - block * weights,
                    std::min(last - block * weights, part.channels * s.taps()));
        k = last;
      }
    });
  });
}

}  // namespace sg
