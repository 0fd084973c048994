// Convolution as matrix products whose operand is read from padded planes (conv_planes.h). The gradient of the input is
// such a product too, for each remainder modulo the stride: outputs and inputs change places, and of the taps those
// remain that hit. A task is some outputs of an image or those of several, with all filters. The cut depends on the
// shapes only, so results do not depend on the number of threads.
#include "conv.h"

#include <numeric>

#include "conv_planes.h"
#include "cpu_device.h"
#include "../core/thread_pool.h"

#define SG_KERNELS "../kernels/conv.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

constexpr int64_t kPlaneBytes = 768 << 10;                                // of a task's padded planes
constexpr int64_t kTasks = 16, kLeastOutputs = 256, kMostOutputs = 1024;  // outputs of a task

View contiguous(CpuDevice& device, In v, Scratch slot) {
  if (v.contiguous()) return v;
  View c = v;
  c.data = scratch_bytes(slot, size_t(v.numel()) * dtype_size(v.dtype));
  for (int64_t d = v.ndim - 1, stride = 1; d >= 0; stride *= v.shape[d--]) c.strides[d] = stride;
  device.copy(v, c);
  return c;
}

// The cut of all groups' outputs into tasks.
struct Cut {
  int64_t images, rows;         // of a task
  int64_t blocks, parts;        // tasks of an image's rows; of the panels of filters
  int64_t per_group, per_part;  // tasks; panels of filters
  int64_t panels;

  Cut(const Correlation& s, int64_t panels, int64_t size) : panels(panels) {
    const int64_t pixels = s.height * s.width;
    const int64_t fair = std::clamp(s.images * s.groups * pixels / kTasks, kLeastOutputs, kMostOutputs);
    const int64_t row_bytes = std::max<int64_t>(1, s.channels * s.planes.pitch * s.planes.h.step * size);
    const int64_t most_rows = std::max<int64_t>(1, std::min((fair + s.width - 1) / s.width, kPlaneBytes / row_bytes));
    blocks = (s.height + most_rows - 1) / most_rows;
    rows = (s.height + blocks - 1) / blocks;
    const int64_t fit = std::min((fair + pixels - 1) / pixels, kPlaneBytes / (row_bytes * s.height));
    images = blocks > 1 ? 1 : std::clamp<int64_t>(fit, 1, s.images);
    per_group = (s.images + images - 1) / images * blocks;
    // Few tasks: filters are split too, as far as panels of outputs are worth making again.
    constexpr int64_t kEnough = 8, kFewPanels = 5;
    const int64_t wanted = (kEnough + per_group * s.groups - 1) / (per_group * s.groups);
    parts = std::clamp<int64_t>(panels / kFewPanels, 1, wanted);
    per_part = (panels + parts - 1) / parts;
    parts = (panels + per_part - 1) / per_part;
  }
  CorrelationPart operator()(const Correlation& s, int64_t task) const {
    const int64_t part = task % parts * per_part, tile = task / parts % per_group;
    const int64_t image = tile / blocks * images, row = tile % blocks * rows;
    return {task / parts / per_group,       image, std::min(images, s.images - image), row,
            std::min(rows, s.height - row), part,  std::min(panels, part + per_part)};
  }
};

// f(first, last) over panels of filters of one group, for all groups
template <class F>
void pack_all(int64_t groups, int64_t panels, int64_t elements, const F& f) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, elements));
  parallel_for(groups * panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end;) {
      const int64_t group = p / panels, last = std::min(end, (group + 1) * panels);
      f(group, p - group * panels, last - group * panels);
      p = last;
    }
  });
}

template <class T>
void run(const Correlation& s, const accumulate_t<T>* packed, int64_t panels) {
  const Cut cut(s, panels, int64_t(sizeof(accumulate_t<T>)));
  const int64_t tasks = s.groups * cut.per_group * cut.parts;
  const int64_t work = s.filters * (s.depth() + 1) * cut.images * cut.rows * s.width / cut.parts;
  parallel_for(tasks, std::max<int64_t>(1, (1 << 19) / std::max<int64_t>(1, work)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) SG_ISA_CALL(correlate<T>, s, packed, cut(s, i));
  });
}

}  // namespace

void CpuDevice::conv2d(In x, In w, MaybeIn bias, Out y, Rest geometry) {
  const Conv s(x, w, y, geometry);
  SG_ASSERT(!bias || (bias->ndim == 1 && bias->shape[0] == s.filters && bias->dtype == x.dtype));
  if (y.numel() == 0) return;
  if (s.depthwise()) return depthwise_forward(s, x, w, bias, y);
  const View weights = contiguous(*this, w, Scratch::kOuterC);
  const Planes planes(s);
  int64_t* const offsets = scratch<int64_t>(Scratch::kOuterA, size_t(s.taps()));
  for (int64_t t = 0; t < s.taps(); t++)
    offsets[t] = planes.offset(t / s.w.kernel * s.h.dilation, t % s.w.kernel * s.w.dilation);
  const bool in_place =
      s.pointwise() && (x.strides[3] == 1 || s.w.input == 1) && (x.strides[2] == s.w.input || s.h.input == 1);
  dispatch_float("conv2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    Correlation c{x,          planes,     s.images, s.groups, s.group_channels(), s.group_filters(),
                  s.h.output, s.w.output, s.taps(), offsets,  in_place,           y,
                  nullptr};
    if (bias) {
      A* const shift = scratch<A>(Scratch::kSharedC, size_t(s.filters));
      for (int64_t f = 0; f < s.filters; f++) shift[f] = A(bias->ptr<const T>()[f * bias->strides[0]]);
      c.bias = shift;
    }
    int64_t panels, stride;
    SG_ISA_CALL(packed_filters<T>, c.filters, c.depth(), panels, stride);
    A* const packed = scratch<A>(Scratch::kOuterB, size_t(s.groups * panels * stride));
    pack_all(s.groups, panels, stride, [&](int64_t group, int64_t first, int64_t last) {
      const T* const from = weights.ptr<const T>() + group * c.filters * c.depth();
      SG_ISA_CALL(pack_filters<T>, from, c.filters, c.depth(), first, last, packed + group * panels * stride);
    });
    run<T>(c, packed, panels);
  });
}

namespace {

// What the inputs o, o + stride, … of one direction read of dy: taps, and where in the padded plane for the first.
struct Reversed {
  int64_t count, outputs, least, most;  // taps; inputs; where taps read, in dy

  Reversed(const ConvAxis& a, int64_t first, int64_t* taps, int64_t* places)
      : count(0), outputs((a.input - first + a.stride - 1) / a.stride), least(0), most(0) {
    for (int64_t k = 0; k < a.kernel; k++) {
      const int64_t from = first + a.pad - k * a.dilation;
      if (from % a.stride != 0) continue;
      const int64_t place = from / a.stride;
      least = count == 0 ? place : std::min(least, place);
      most = count == 0 ? place : std::max(most, place);
      taps[count] = k, places[count++] = place;
    }
  }
  PlaneAxis axis(const ConvAxis& a) const { return {a.output, -least, outputs + most - least, 1}; }
};

}  // namespace

void CpuDevice::conv2dBackwardInput(In dy, In w, Out dx, Rest geometry) {
  const Conv s(dx, w, dy, geometry);
  if (dx.numel() == 0) return;
  if (dy.numel() == 0) return fill(dx, 0);
  if (s.depthwise()) return depthwise_backward_input(s, dy, w, dx);
  const View weights = contiguous(*this, w, Scratch::kOuterC);
  int64_t* const taps = scratch<int64_t>(Scratch::kOuterA, size_t(2 * (s.taps() + s.h.kernel + s.w.kernel)));
  int64_t *const offsets = taps + s.taps(), *const rows = offsets + s.taps(), *const columns = rows + 2 * s.h.kernel;
  const bool in_place =
      s.pointwise() && (dy.strides[3] == 1 || s.w.output == 1) && (dy.strides[2] == s.w.output || s.h.output == 1);
  const auto all_hit = [](const ConvAxis& a) { return std::gcd(a.dilation, a.stride) == 1 && a.kernel >= a.stride; };
  if (!all_hit(s.h) || !all_hit(s.w)) fill(dx, 0);
  for (int64_t i = 0; i < std::min(s.h.stride, s.h.input) * std::min(s.w.stride, s.w.input); i++) {
    const int64_t top = i / std::min(s.w.stride, s.w.input), left = i % std::min(s.w.stride, s.w.input);
    const Reversed h(s.h, top, rows, rows + s.h.kernel), v(s.w, left, columns, columns + s.w.kernel);
    const Planes planes(h.axis(s.h), v.axis(s.w));
    const int64_t count = h.count * v.count;
    if (count == 0) continue;
    for (int64_t t = 0; t < count; t++) {
      const int64_t r = t / v.count, c = t % v.count;
      taps[t] = rows[r] * s.w.kernel + columns[c];
      offsets[t] = planes.offset(rows[s.h.kernel + r] - h.least, columns[s.w.kernel + c] - v.least);
    }
    View target = dx;
    target.data = dx.ptr<char>() + (top * dx.strides[2] + left * dx.strides[3]) * int64_t(dtype_size(dx.dtype));
    target.strides[2] *= s.h.stride, target.strides[3] *= s.w.stride;
    dispatch_float("conv2dBackwardInput", dx.dtype, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = accumulate_t<T>;
      const Correlation c{dy,        planes,    s.images, s.groups, s.group_filters(), s.group_channels(),
                          h.outputs, v.outputs, count,    offsets,  in_place,          target,
                          nullptr};
      int64_t panels, stride;
      SG_ISA_CALL(packed_filters<T>, c.filters, c.depth(), panels, stride);
      A* const packed = scratch<A>(Scratch::kOuterB, size_t(s.groups * panels * stride));
      pack_all(s.groups, panels, stride, [&](int64_t group, int64_t first, int64_t last) {
        const T* const from = weights.ptr<const T>() + group * s.group_filters() * s.depth();
        SG_ISA_CALL(pack_turned<T>, from, c.filters, c.channels, s.taps(), taps, count, first, last,
                    packed + group * panels * stride);
      });
      run<T>(c, packed, panels);
    });
  }
}

}  // namespace sg
