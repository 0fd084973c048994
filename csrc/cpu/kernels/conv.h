// A convolution's product: packed weights times panels of what the outputs' taps read, each panel made from the padded
// planes right before it is multiplied, by whole registers.
#include "gemm_pack.h"
#include "gemm_tile.h"
#include "conv_planes.h"

static constexpr int64_t kPanelBytes = 256 << 10;  // of panels that are multiplied together
static constexpr int64_t kPartBytes = 256 << 10;   // of their partial sums
static constexpr int64_t kConvDepth = 256;         // units a tile runs over

template <class T>
struct ConvSizes {
  using E = accumulate_t<T>;
  static constexpr int MR = kTileRows, NR = kTileColumns<E>;
  static constexpr int64_t units(int64_t depth) { return ceil_div(depth, kUnit<T>); }
  static constexpr int64_t stride_a(int64_t depth) { return units(depth) * MR + kPanelPad; }
};

// Panels of a group's packed filters, and elements from one to the next.
template <class T>
KT void packed_filters(int64_t filters, int64_t depth, int64_t& panels, int64_t& stride) {
  panels = ceil_div(filters, ConvSizes<T>::MR);
  stride = ConvSizes<T>::stride_a(depth);
}

// Panels [p0, p1) of a group's filters, all of whose channels and taps follow each other.
template <class T>
KT void pack_filters(const T* weights, int64_t filters, int64_t depth, int64_t p0, int64_t p1, accumulate_t<T>* to) {
  using Z = ConvSizes<T>;
  const Operand<T> a{weights, depth, 1, filters, depth};
  pack_panels<Z::MR>(a, int(p0), int(p1), 0, Z::units(depth), to + p0 * Z::stride_a(depth), Z::stride_a(depth));
}

// The same for the input's gradient: rows are channels, and filters with some of the taps are summed over. weights is
// [filters, channels, all taps].
template <class T>
KT void pack_turned(const T* weights, int64_t channels, int64_t filters, int64_t all_taps, const int64_t* taps,
                    int64_t count, int64_t p0, int64_t p1, accumulate_t<T>* to) {
  using Z = ConvSizes<T>;
  constexpr int MR = Z::MR, U = kUnit<T>;
  const int64_t depth = filters * count, stride = Z::stride_a(depth);
  for (int64_t p = p0; p < p1; p++) {
    Placed<T>* const panel = (Placed<T>*)(to + p * stride);
    const int rows = int(std::min<int64_t>(MR, channels - p * MR));
    if (rows < MR || depth % U) std::fill_n(to + p * stride, stride, accumulate_t<T>(0));
    for (int64_t f = 0; f < filters; f++) {
      const T* const filter = weights + (f * channels + p * MR) * all_taps;
      for (int64_t t = 0; t < count; t++) {
        const int64_t k = f * count + t;
        Placed<T>* const out = panel + k / U * MR * U + k % U;
        for (int i = 0; i < rows; i++) out[i * U] = Placed<T>(filter[i * all_taps + taps[t]]);
      }
    }
  }
}

// Neighbouring columns of a panel that are neighbours where they are read or written.
struct ConvRun {
  int64_t at, count, place;
};

// Columns [begin, end) of all images' outputs, cut into runs. place_of(image, row, column) says where an output is.
template <class F>
KI int64_t conv_runs(int64_t begin, int64_t end, int64_t height, int64_t width, int64_t most, ConvRun* runs,
                     const F& place) {
  int64_t count = 0;
  for (int64_t n = begin; n < end;) {
    const int64_t column = n % width, length = std::min({end - n, width - column, most});
    runs[count++] = {n - begin, length, place(n / width / height, n / width % height, column)};
    n += length;
  }
  return count;
}

// Rows [begin, end) of the depth. Whole registers in the order of the columns: what one has too many the next one
// overwrites.
template <class T>
KT void make_panel(const Placed<T>* planes, const int64_t* offsets, int64_t begin, int64_t end, const ConvRun* runs,
                   int64_t count, accumulate_t<T>* panel) {
  using V = lanes_of<T>;
  constexpr int NR = kTileColumns<accumulate_t<T>>;
  for (int64_t k = begin; k < end; k += kUnit<T>, panel += NR) {
    const Placed<T>* const from = planes + offsets[k];
    for (int64_t r = 0; r < count; r++) {
      const int n = int(runs[r].count);
      V v;
      if constexpr (kPaired<T>) {
        const T* const low = from + runs[r].place;
        const T* const high = k + 1 < end ? low + (offsets[k + 1] - offsets[k]) : nullptr;
        v = n == V::W && high ? zip(low, high) : zip(low, high, n);
      } else {
        v = n == V::W ? load<V>(from + runs[r].place) : load<V>(from + runs[r].place, n);
      }
      store(panel + runs[r].at, v);
    }
  }
}

// Where a finished tile goes if its columns are neighbours in the target.
template <class O, class E>
struct StoreOutputs {
  static constexpr bool kDirect = true;
  O* c;  // first filter, first column
  int64_t row;
  const E* bias;

  KI void prefetch(int64_t i, int64_t) const {
    for (int at = 0; at < int(kTileColumns<E> * sizeof(O)); at += 64) __builtin_prefetch((char*)(c + i * row) + at, 1);
  }
  template <int M, bool kFull, class V>
  KI void rows(V (&r)[M][2], int64_t i, int64_t, int m, int n) const {
    if (bias) {
      for (int x = 0; x < (kFull ? M : m); x++) {
        const V shift(bias[i + x]);
        r[x][0] += shift, r[x][1] += shift;
      }
    }
    SG_UNROLL(12)
    for (int x = 0; x < M; x++) {
      O* const p = c + (i + x) * row;
      if constexpr (kFull) store(p, r[x][0]), store(p + V::W, r[x][1]);
      else if (x < m) {
        store(p, r[x][0], n);
        if (n > V::W) store(p + V::W, r[x][1], n - V::W);
      }
    }
  }
};

// Where it goes otherwise: run by run.
template <class O, class E>
struct ScatterOutputs {
  static constexpr bool kDirect = false;
  O* c;  // first filter, output 0 of the first image
  int64_t row, step;
  const E* bias;
  const ConvRun* runs;
  int64_t count;

  KI void prefetch(int64_t, int64_t) const {}
  KT void rows(const E* sums, int64_t stride, int64_t i, int64_t, int64_t m, int64_t) const {
    for (int64_t x = 0; x < m; x++, sums += stride) {
      const E shift = bias ? bias[i + x] : E(0);
      for (int64_t r = 0; r < count; r++) {
        O* const to = c + (i + x) * row + runs[r].place;
        const E* const from = sums + runs[r].at;
        if (step == 1)
          for (int64_t k = 0; k < runs[r].count; k++) to[k] = O(bias ? from[k] + shift : from[k]);
        else
          for (int64_t k = 0; k < runs[r].count; k++) to[k * step] = O(bias ? from[k] + shift : from[k]);
      }
    }
  }
};

// One task: its planes, then a few panels at a time with all filters. `packed` has the filters of all groups.
template <class T>
KT void correlate(const Correlation& s, const accumulate_t<T>* packed, const CorrelationPart& t) {
  using Z = ConvSizes<T>;
  using E = typename Z::E;
  using V = lanes_of<T>;
  constexpr int MR = Z::MR, NR = Z::NR;
  const int64_t depth = s.depth(), units = Z::units(depth), stride_a = Z::stride_a(depth);
  const View &x = s.source, &y = s.target;
  const int64_t first = t.row * s.planes.h.step, rows = s.planes.rows(t.rows, s.height);
  const bool in_place = s.in_place && std::is_same_v<Placed<T>, T>;
  const int64_t plane = in_place ? x.strides[1] : rows * s.planes.pitch;
  const int64_t image = in_place ? x.strides[0] : s.channels * plane;
  const Placed<T>* planes;
  if (in_place) planes = x.ptr<const Placed<T>>() + t.image * image + t.group * s.channels * plane + t.row * s.width;
  else
    planes =
        fill_planes<T>(s.planes, x, t.image, t.images, t.group * s.channels, s.channels, first, rows, Scratch::kLocalA);
  const int64_t columns = t.images * t.rows * s.width, panels_a = t.last_panel - t.first_panel;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(units, kConvDepth));
  const int64_t block = std::max<int64_t>(4, round_up(ceil_div(units, blocks), 4)), stride_b = block * NR + kPanelPad;
  const int64_t part_bytes = blocks > 1 ? panels_a * MR * NR * int64_t(sizeof(E)) : 1;
  const int64_t fit = std::min(kPanelBytes / int64_t(stride_b * sizeof(E)), kPartBytes / part_bytes);
  const int64_t together = std::clamp<int64_t>(fit, 1, ceil_div(columns, NR));
  E* const panels = scratch<E>(Scratch::kLocalB, together * stride_b);
  E* const parts = scratch<E>(Scratch::kLocalC, panels_a * together * MR * NR);
  ConvRun* const runs = scratch<ConvRun>(Scratch::kLocalD, together * (NR + 1) + depth);
  int64_t *const cuts = &runs[together * NR].at, *const offsets = cuts + together;
  for (int64_t k = 0; k < depth; k++) offsets[k] = k / s.taps * plane + s.tap_offsets[k % s.taps];
  const E* const a = packed + (t.group * ceil_div(s.filters, MR) + t.first_panel) * stride_a;
  const int64_t filter = t.group * s.filters + t.first_panel * MR;
  const E* const bias = s.bias ? static_cast<const E*>(s.bias) + filter : nullptr;
  T* const target = y.ptr<T>() + t.image * y.strides[0] + filter * y.strides[1] + t.row * y.strides[2];
  const bool flat = y.strides[3] == 1 && (y.strides[2] == s.width || t.rows == 1);
  const int64_t pixels = t.rows * s.width;
  const auto source = [&](int64_t i, int64_t h, int64_t w) KL { return i * image + h * s.planes.row_step() + w; };
  const auto source_in_place = [&](int64_t i, int64_t, int64_t at) KL { return i * image + at; };

  for (int64_t n0 = 0; n0 < columns; n0 += together * NR) {
    const int64_t count = std::min(together, ceil_div(columns - n0, NR));
    for (int64_t q = 0; q < count; q++) {
      const int64_t begin = n0 + q * NR, end = std::min(begin + NR, columns);
      cuts[q] = in_place ? conv_runs(begin, end, 1, pixels, V::W, runs + q * NR, source_in_place)
                         : conv_runs(begin, end, t.rows, s.width, V::W, runs + q * NR, source);
    }
    for (int64_t k = 0; k == 0 || k < units; k += block) {
      const int64_t part_depth = std::min(block, units - k), last = std::min(depth, (k + part_depth) * kUnit<T>);
      // a few rows of all panels at a time, so that planes are read in order
      for (int64_t row = k * kUnit<T>; row < last; row += 16)
        for (int64_t q = 0; q < count; q++)
          make_panel<T>(planes, offsets, row, std::min(row + 16, last), runs + q * NR, cuts[q],
                        panels + q * stride_b + (row / kUnit<T> - k) * NR);
      for (int64_t q = 0; q < count; q++) {
        const int64_t begin = n0 + q * NR, end = std::min(begin + NR, columns);
        const auto multiply = [&](const auto& out) KL {
          for (int64_t p = 0; p < panels_a; p++) {
            const int m = int(std::min<int64_t>(MR, s.filters - (t.first_panel + p) * MR));
            any_tile<kPaired<T>>(a + p * stride_a + k * MR, panels + q * stride_b, part_depth,
                                 parts + (q * panels_a + p) * MR * NR, k == 0, k + part_depth >= units, out, p * MR,
                                 int64_t(0), m, int(end - begin));
          }
        };
        if (flat && begin / pixels == (end - 1) / pixels) {
          T* const run = target + begin / pixels * y.strides[0] + begin % pixels;
          multiply(StoreOutputs<T, E>{run, y.strides[1], bias});
        } else {
          ConvRun targets[NR];
          const int64_t cut = conv_runs(begin, end, t.rows, s.width, NR, targets,
                                        [&](int64_t i, int64_t h, int64_t w)
                                            KL { return i * y.strides[0] + h * y.strides[2] + w * y.strides[3]; });
          multiply(ScatterOutputs<T, E>{target, y.strides[1], y.strides[3], bias, targets, cut});
        }
      }
    }
  }
}
