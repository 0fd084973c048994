// The gradient of a convolution's weights. A tile is some weights (channel, tap) of two registers of filters, and runs
// over outputs: it broadcasts the input as it lies in the padded planes, and reads dy with filters side by side.
#include "gemm_pack.h"
#include "loops.h"
#include "conv_planes.h"

// The outputs that dy was packed for, whose rows follow each other `image`, `row` apart in the planes.
struct WeightRuns {
  int64_t images, height, width;
  int64_t image, row;
};

// sums[i][j] += sum over outputs of planes[rows[i] + output] dy[output][j]
template <class T, int M, int NV>
__attribute__((noinline)) KT void weight_tile(const Placed<T>* const* rows, const WeightRuns& s,
                                              const accumulate_t<T>* dy, accumulate_t<T>* sums) {
  using E = accumulate_t<T>;
  using V = lanes_of<T>;
  constexpr int NR = kTileColumns<E>, U = kUnit<T>;
  V r[M][NV];
  SG_UNROLL(12)
  for (int i = 0; i < M; i++) {
    SG_UNROLL(2)
    for (int j = 0; j < NV; j++) r[i][j] = V(0);
  }
  const auto add = [&](const auto& factor) KL {
    V y[NV];
    SG_UNROLL(2)
    for (int j = 0; j < NV; j++) y[j] = load<V>(dy + j * V::W);
    SG_UNROLL(12)
    for (int i = 0; i < M; i++) {
      const V x = factor(i);
      SG_UNROLL(2)
      for (int j = 0; j < NV; j++) r[i][j] = dot<kPaired<T>>(x, y[j], r[i][j]);
    }
    dy += NR;
  };
  for (int64_t n = 0; n < s.images; n++) {
    for (int64_t h = 0; h < s.height; h++) {
      const Placed<T>* from[M];
      SG_UNROLL(12)
      for (int i = 0; i < M; i++) from[i] = rows[i] + n * s.image + h * s.row;
      if constexpr (kPaired<T>) {
        for (int64_t w = 0; w + U <= s.width; w += U) {
          add([&](int i) KL {
            E pair;
            std::memcpy(&pair, from[i] + w, sizeof pair);
            return V(pair);
          });
        }
        // the last of an odd row without its neighbour, which no tap may read
        if (s.width % U) {
          add([&](int i) KL {
            uint32_t low = 0;
            std::memcpy(&low, from[i] + s.width - 1, sizeof(T));
            E pair;
            std::memcpy(&pair, &low, sizeof pair);
            return V(pair);
          });
        }
      } else {
        for (int64_t w = 0; w < s.width; w++) add([&](int i) KL { return V(from[i][w]); });
      }
    }
  }
  SG_UNROLL(12)
  for (int i = 0; i < M; i++) {
    SG_UNROLL(2)
    for (int j = 0; j < NV; j++) {
      E* const to = sums + i * NR + j * V::W;
      store(to, load<V>(to) + r[i][j]);
    }
  }
}

// A task's sums: [weights of its channels, in tiles][panel of filters][weight of the tile][filter]
template <class T>
struct WeightSums {
  using E = accumulate_t<T>;
  static constexpr int MR = kTileRows, NR = kTileColumns<E>;
  int64_t tiles, panels;
  KT WeightSums(int64_t weights, int64_t filters) : tiles(ceil_div(weights, MR)), panels(ceil_div(filters, NR)) {}
  KT int64_t size() const { return tiles * panels * MR * NR; }
  KT int64_t at(int64_t weight, int64_t panel) const {
    return ((weight / MR * panels + panel) * MR + weight % MR) * NR;
  }
};

template <class T>
KT int64_t weight_sums_size(int64_t weights, int64_t filters) {
  return WeightSums<T>(weights, filters).size();
}

template <class T>
KT void weight_tile_of(int rows, int filters, const Placed<T>* const* from, const WeightRuns& runs,
                       const accumulate_t<T>* dy, accumulate_t<T>* sums) {
  constexpr int M = kTileRows;
  const bool narrow = filters <= lanes_of<T>::W;
  if (rows > M * 2 / 3)
    narrow ? weight_tile<T, M, 1>(from, runs, dy, sums) : weight_tile<T, M, 2>(from, runs, dy, sums);
  else if (rows > M / 3)
    narrow ? weight_tile<T, M * 2 / 3, 1>(from, runs, dy, sums) : weight_tile<T, M * 2 / 3, 2>(from, runs, dy, sums);
  else narrow ? weight_tile<T, M / 3, 1>(from, runs, dy, sums) : weight_tile<T, M / 3, 2>(from, runs, dy, sums);
}

// One task: some outputs' share in the sums of some channels' weights.
template <class T>
KT void weight_gradient(const WeightGradient& s, const WeightPart& t, void* task_sums) {
  using E = accumulate_t<T>;
  constexpr int MR = kTileRows, NR = kTileColumns<E>, U = kUnit<T>;
  const int64_t weights = t.channels * s.taps;
  const WeightSums<T> layout(weights, s.filters);
  E* const sums = static_cast<E*>(task_sums);
  std::fill_n(sums, layout.size(), E(0));
  int64_t* const offsets = scratch<int64_t>(Scratch::kLocalD, weights);
  const View &x = s.x, &dy = s.dy;
  for (int64_t chunk = t.first_chunk; chunk < t.last_chunk; chunk++) {
    const int64_t image = chunk / s.blocks * s.chunk_images, images = std::min(s.chunk_images, s.images - image);
    const int64_t row = chunk % s.blocks * s.chunk_rows, rows = std::min(s.chunk_rows, s.height - row);
    const int64_t padded = s.planes.rows(rows, s.height), plane = padded * s.planes.pitch;
    const Placed<T>* const planes = fill_planes<T>(s.planes, x, image, images, t.group * s.channels + t.channel,
                                                   t.channels, row * s.planes.h.step, padded, Scratch::kLocalA);
    for (int64_t k = 0; k < weights; k++) offsets[k] = k / s.taps * plane + s.tap_offsets[k % s.taps];

    WeightRuns runs{images, rows, s.width, t.channels * plane, s.planes.row_step()};
    if (runs.row == runs.width && dy.strides[2] == s.width * dy.strides[3]) runs.width *= rows, runs.height = 1;
    const int64_t units = ceil_div(runs.width, U), stride = images * runs.height * units * NR;
    E* const panels = scratch<E>(Scratch::kLocalB, layout.panels * stride + kPanelPad);
    for (int64_t i = 0; i < images; i++) {
      for (int64_t h = 0; h < runs.height; h++) {
        const T* const from = dy.ptr<const T>() + (image + i) * dy.strides[0] + t.group * s.filters * dy.strides[1] +
                              (row + h) * dy.strides[2];
        const Operand<T> b{from, dy.strides[1], dy.strides[3], s.filters, runs.width};
        pack_panels<NR>(b, 0, int(layout.panels), 0, units, panels + (i * runs.height + h) * units * NR, stride);
      }
    }
    for (int64_t k = 0; k < weights; k += MR) {
      const Placed<T>* from[MR];
      const int count = int(std::min<int64_t>(MR, weights - k));
      for (int i = 0; i < MR; i++) from[i] = planes + offsets[k + std::min(i, count - 1)];
      for (int64_t p = 0; p < layout.panels; p++) {
        const int filters = int(std::min<int64_t>(NR, s.filters - p * NR));
        weight_tile_of<T>(count, filters, from, runs, panels + p * stride, sums + layout.at(k, p));
      }
    }
  }
}

// Weights [begin, end) of a task's channels: the parts' sums, `part` elements apart, in order, into dw.
template <class T>
KT void add_weight_parts(const WeightGradient& s, const WeightPart& t, const void* task_sums, int64_t part,
                         int64_t parts, Out dw, int64_t begin, int64_t end) {
  using E = accumulate_t<T>;
  using V = lanes_of<T>;
  constexpr int NR = kTileColumns<E>;
  const WeightSums<T> layout(t.channels * s.taps, s.filters);
  const E* const sums = static_cast<const E*>(task_sums);
  for (int64_t k = begin; k < end; k++) {
    const int64_t tap = k % s.taps, columns = dw.shape[3];
    T* const to = dw.ptr<T>() + t.group * s.filters * dw.strides[0] + (t.channel + k / s.taps) * dw.strides[1] +
                  tap / columns * dw.strides[2] + tap % columns * dw.strides[3];
    for (int64_t p = 0; p < layout.panels; p++) {
      const E* const from = sums + layout.at(k, p);
      V low = load<V>(from), high = load<V>(from + V::W);
      for (int64_t i = 1; i < parts; i++) low += load<V>(from + i * part), high += load<V>(from + i * part + V::W);
      alignas(64) E row[NR];
      store(row, low), store(row + V::W, high);
      const int64_t count = std::min<int64_t>(NR, s.filters - p * NR);
      for (int64_t j = 0; j < count; j++) to[(p * NR + j) * dw.strides[0]] = T(row[j]);
    }
  }
}

// The sum of a channel's planes, in double from plane to plane.
template <class T>
KT double sum_planes(const Flat& dy, int64_t first, int64_t step, int64_t planes, int64_t size) {
  using V = lanes_of<T>;
  double total = 0;
  for (int64_t p = 0; p < planes; p++) {
    const T* const in = dy.read<T>((first + p * step) * size, size, Scratch::kLocalA);
    total += double(sum<V>(size, [&](int64_t i, auto... rest) KL { return load<V>(in + i, rest...); }));
  }
  return total;
}
