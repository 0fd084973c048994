// Depthwise convolution without a matrix multiply: every channel has its own few filters. A task is one channel of one
// image (one filter, for the weights), read into a padded plane of the accumulation type.
#include <algorithm>

#include "conv.h"
#include "planes.h"
#include "../core/thread_pool.h"

namespace sg {

struct DepthwisePlane {
  int64_t height, width;  // of the outputs, which are contiguous
  int64_t row;            // in the input: from what one row of outputs reads to what the next one reads
  int64_t taps;
  const int64_t* offsets;  // where a tap reads for output 0, 0
};

}  // namespace sg

#define SG_KERNELS "../kernels/depthwise.h"
#include "simd/for_each_isa.h"

namespace sg {

namespace {

// The layout of padded planes: rows of `pitch`, columns c at c % stride * phase + c / stride.
class Padded {
 public:
  explicit Padded(const Conv& s) : h_(s.h), w_(s.w) {
    phase_ = (s.w.input + 2 * s.w.pad + s.w.stride - 1) / s.w.stride;
    pitch_ = phase_ * s.w.stride;
  }
  size_t size() const { return size_t((h_.input + 2 * h_.pad) * pitch_); }

  // `offsets` has room for the taps.
  DepthwisePlane plane_of(const Conv& s, int64_t* offsets) const {
    for (int64_t t = 0; t < s.taps(); t++) {
      offsets[t] = t / w_.kernel * h_.dilation * pitch_ + column(t % w_.kernel * w_.dilation);
    }
    return {h_.output, w_.output, h_.stride * pitch_, s.taps(), offsets};
  }

  template <class T>
  void load(In x, int64_t p, accumulate_t<T>* to) const {
    std::fill(to, to + size(), accumulate_t<T>(0));
    const T* const from = plane<const T>(x, p);
    each(x, [&](int64_t at, int64_t padded) { to[padded] = accumulate_t<T>(from[at]); });
  }
  template <class T>
  void store(const accumulate_t<T>* from, Out x, int64_t p) const {
    T* const to = plane<T>(x, p);
    each(x, [&](int64_t at, int64_t padded) { to[at] = T(from[padded]); });
  }

 private:
  int64_t column(int64_t c) const { return c % w_.stride * phase_ + c / w_.stride; }

  // f(offset in x's plane, offset in the padded one) for every element
  template <class F>
  void each(In x, const F& f) const {
    for (int64_t h = 0; h < h_.input; h++) {
      const int64_t row = h * x.strides[2], padded_row = (h + h_.pad) * pitch_;
      for (int64_t first = 0; first < std::min(w_.stride, w_.input); first++) {
        int64_t padded = padded_row + column(first + w_.pad);
        for (int64_t w = first; w < w_.input; w += w_.stride) f(row + w * x.strides[3], padded++);
      }
    }
  }

  ConvAxis h_, w_;
  int64_t phase_, pitch_;
};

// Working memory of a task: a padded plane, a plane of outputs, a filter's weights and the taps' offsets.
template <class A>
struct Work {
  A *padded, *outputs, *weights;
  DepthwisePlane plane;
  Work(const Conv& s, const Padded& layout)
      : padded(scratch<A>(Scratch::kLocalA, layout.size())),
        outputs(scratch<A>(Scratch::kLocalB, size_t(s.outputs()))),
        weights(scratch<A>(Scratch::kLocalC, size_t(s.taps()))),
        plane(layout.plane_of(s, scratch<int64_t>(Scratch::kLocalD, size_t(s.taps())))) {}
};

template <class T>
void load_weights(In weight, int64_t filter, accumulate_t<T>* to) {
  load_plane<T>(weight, filter, to, weight.shape[3]);  // one channel: filter f is plane f
}

// f(work, index) for [0, n) in parallel; `cost` multiplications each
template <class A, class F>
void each_task(const Conv& s, int64_t n, int64_t cost, const F& f) {
  const Padded layout(s);
  parallel_for(n, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, cost)), [&](int64_t begin, int64_t end) {
    const Work<A> work(s, layout);
    for (int64_t i = begin; i < end; i++) f(layout, work, i);
  });
}

}  // namespace

void depthwise_forward(const Conv& s, In x, In weight, MaybeIn bias, Out y) {
  dispatch_float("conv2d", x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    View shift;
    if (bias) shift = *bias;
    const int64_t cost = s.group_filters() * s.taps() * s.outputs();
    each_task<A>(s, s.images * s.channels, cost, [&](const Padded& layout, const Work<A>& work, int64_t p) {
      layout.load<T>(x, p, work.padded);
      for (int64_t m = 0; m < s.group_filters(); m++) {
        const int64_t filter = p % s.channels * s.group_filters() + m;
        load_weights<T>(weight, filter, work.weights);
        const A start = shift.data ? A(shift.ptr<const T>()[filter * shift.strides[0]]) : A(0);
        SG_ISA_CALL(depthwise_outputs, work.plane, work.padded, work.weights, start, work.outputs);
        store_plane<T>(work.outputs, s.w.output, y, p / s.channels * s.filters + filter);
      }
    });
  });
}

void depthwise_backward_input(const Conv& s, In dy, In weight, Out dx) {
  dispatch_float("conv2dBackwardInput", dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t cost = s.group_filters() * s.taps() * s.outputs();
    each_task<A>(s, s.images * s.channels, cost, [&](const Padded& layout, const Work<A>& work, int64_t p) {
      std::fill(work.padded, work.padded + layout.size(), A(0));
      for (int64_t m = 0; m < s.group_filters(); m++) {
        const int64_t filter = p % s.channels * s.group_filters() + m;
        load_weights<T>(weight, filter, work.weights);
        load_plane<T>(dy, p / s.channels * s.filters + filter, work.outputs, s.w.output);
        SG_ISA_CALL(depthwise_inputs, work.plane, work.outputs, work.weights, work.padded);
      }
      layout.store<T>(work.padded, dx, p);
    });
  });
}

void depthwise_backward_weight(const Conv& s, In dy, In x, Out dw) {
  dispatch_float("conv2dBackwardWeight", dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const int64_t cost = s.images * s.taps() * s.outputs();
    each_task<A>(s, s.filters, cost, [&](const Padded& layout, const Work<A>& work, int64_t filter) {
      std::fill(work.weights, work.weights + s.taps(), A(0));
      for (int64_t n = 0; n < s.images; n++) {
        layout.load<T>(x, n * s.channels + filter / s.group_filters(), work.padded);
        load_plane<T>(dy, n * s.filters + filter, work.outputs, s.w.output);
        SG_ISA_CALL(depthwise_weights, work.plane, work.outputs, work.padded, work.weights);
      }
      store_plane<T>(work.weights, s.w.kernel, dw, filter);
    });
  });
}

}  // namespace sg
