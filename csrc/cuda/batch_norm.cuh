// What batch norm's two directions share: how the batch is cut into parts, how sums of parts are joined for a channel,
// and which channel an element belongs to.
#pragma once
#include "norm.cuh"
#include "parameter_rows.cuh"
#include "vectors.cuh"

namespace sg::gpu {

// x [images, channels, space], cut into planes, or, without a space, into ranges of rows. Sums lie [part][channel].
struct Cut {
  int64_t images, channels, space = 1, parts, per_part = 1;
  bool planes;

  explicit Cut(const View& x) : images(x.shape[0]), channels(x.shape[1]) {
    SG_ASSERT(x.ndim >= 2);
    for (int d = 2; d < x.ndim; d++) space *= x.shape[d];
    planes = space != 1;
    constexpr int64_t kSmallest = 32, kMost = 256;
    parts = planes ? images : std::clamp<int64_t>(images / kSmallest, 1, kMost);
    if (!planes) per_part = (images + parts - 1) / parts;
    if (per_part > 0) parts = (images + per_part - 1) / per_part;
  }
  int64_t sums() const { return parts * channels; }
  // How many elements of a channel a part has.
  SG_DEVICE int64_t count(int64_t part) const {
    return planes ? space : min(images, (part + 1) * per_part) - part * per_part;
  }
};

// What a channel of the batch is normalised with: h = ((x - high) - low) * rstd. `low` is what the mean lost when it
// was rounded to A.
template <class A>
struct ChannelRows {
  A *high, *low, *rstd;
};

constexpr int kColumnThreads = 128;

// A block joins the parts of 32 channels; its warps take a slice of them each.
constexpr int kJoinChannels = 32, kJoinSlices = 8, kJoinThreads = kJoinChannels * kJoinSlices;

class Join {
 public:
  int64_t channel;
  SG_DEVICE explicit Join(const Cut& cut)
      : channel(int64_t(blockIdx.x) * kJoinChannels + threadIdx.x % kJoinChannels),
        parts_(channel < cut.channels ? cut.parts : 0),
        channels_(cut.channels) {}
  // The sum of term(part, its place) over the parts of the thread's channel. All threads of the block take part.
  template <class Term>
  SG_DEVICE double sum(const Term& term) const {
    SG_SHARED(double, of_slice, [kJoinSlices][kJoinChannels]);
    const int slice = threadIdx.x / kJoinChannels, lane = threadIdx.x % kJoinChannels;
    double total = 0;
    for (int64_t part = slice; part < parts_; part += kJoinSlices) total += term(part, part * channels_ + channel);
    of_slice[slice][lane] = total;
    __syncthreads();
    total = 0;
#pragma unroll
    for (int s = 0; s < kJoinSlices; s++) total += of_slice[s][lane];
    return total;
  }
  // Of the threads that know a channel's sums, one.
  SG_DEVICE bool speaks() const { return threadIdx.x < kJoinChannels && channel < channels_; }

 private:
  int64_t parts_, channels_;
};

// The channel of element i of x.
class ChannelOf {
 public:
  explicit ChannelOf(const Cut& cut)
      : channels_(cut.channels),
        by_space_(cut.space, cut.images * cut.channels * cut.space),
        by_channels_(cut.channels, cut.images * cut.channels) {}
  template <bool kPlanes>
  SG_DEVICE int64_t at(int64_t i) const {
    const int64_t plane = kPlanes ? by_space_(i) : i;
    return plane - by_channels_(plane) * channels_;
  }

 private:
  int64_t channels_;
  Quotient by_space_, by_channels_;
};

// f(planes, kCount, grid) for kernels that go over all elements, kCount a thread.
constexpr int kApplyThreads = 256;

template <class T, class F>
void for_elements(const Cut& cut, bool aligned, F&& f) {
  const int64_t count = cut.images * cut.channels * cut.space;
  if (count == 0) return;
  for_vectors<T>(cut.planes ? cut.space : cut.channels, aligned, [&](auto per_thread) {
    const dim3 grid = grid_for(count / per_thread, kApplyThreads);
    if (cut.planes) f(std::true_type{}, per_thread, grid);
    else f(std::false_type{}, per_thread, grid);
  });
}

}  // namespace sg::gpu
