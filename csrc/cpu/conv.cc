// Convolution as matrix products over columns (im2col). Columns are made for a tile of outputs at a time, small enough
// to stay in a core's cache and wide enough to be worth packing the weights again; a tile is one task. Images with few
// outputs share a tile. Tiles depend on the shapes only, so results do not depend on the number of threads.
#include "conv.h"

#include <cstring>

#include "cpu_device.h"
#include "gemm.h"
#include "planes.h"
#include "../core/thread_pool.h"

namespace sg {

namespace {

constexpr int64_t kTileBytes = 1 << 20, kTileOutputs = 256;

DType sum_dtype(DType t) { return t == DType::k_float64 ? t : DType::k_float32; }

void* at(In v, int64_t elements) { return v.ptr<char>() + elements * int64_t(dtype_size(v.dtype)); }

// Rows follow each other as elements of a row do: a plane is one run.
bool flat(In v) { return v.shape[2] == 1 || v.shape[3] == 1 || v.strides[2] == v.shape[3] * v.strides[3]; }
int64_t plane_step(In v) { return v.shape[3] == 1 ? v.strides[2] : v.strides[3]; }

View contiguous_like(In v, DType dtype, void* data) {
  View c = v;
  c.data = data;
  c.dtype = dtype;
  for (int64_t d = v.ndim - 1, stride = 1; d >= 0; stride *= v.shape[d--]) c.strides[d] = stride;
  return c;
}

View contiguous(CpuDevice& device, In v, Scratch slot) {
  if (v.contiguous()) return v;
  View c = contiguous_like(v, v.dtype, scratch_bytes(slot, size_t(v.numel()) * dtype_size(v.dtype)));
  device.copy(v, c);
  return c;
}

// The cut of all outputs into tiles.
struct Tiling {
  int64_t images, outputs, blocks;  // of a tile; tiles an image
  int64_t count;
  const Conv& conv;

  // `bytes` are those of the columns of one output; `limit` of a tile's.
  Tiling(const Conv& s, int64_t bytes, int64_t limit = kTileBytes) : conv(s) {
    constexpr int64_t kEnoughTasks = 16;
    const int64_t fair = s.images * s.outputs() / kEnoughTasks;
    const int64_t most = std::max(kTileOutputs, std::min(fair, limit / std::max<int64_t>(1, bytes)));
    const int64_t each = std::max<int64_t>(1, s.outputs());
    images = std::clamp<int64_t>((kTileOutputs + each - 1) / each, 1, std::max<int64_t>(1, s.images));
    blocks = images > 1 ? 1 : (each + most - 1) / most;
    outputs = (each + blocks - 1) / blocks;
    count = (s.images + images - 1) / images * blocks;
  }
  ConvTile operator[](int64_t i) const {
    const int64_t image = i / blocks * images, begin = i % blocks * outputs;
    return {image, std::min(images, conv.images - image), begin, std::min(begin + outputs, conv.outputs())};
  }
};

// f(task, parallel): one task a thread, or, if there are fewer than threads, one after another with all threads inside.
template <class F>
void run_tasks(int64_t tasks, int64_t work, const F& f) {
  if (tasks < ThreadPool::instance().threads()) {
    for (int64_t i = 0; i < tasks; i++) f(i, true);
  } else {
    parallel_for(tasks, std::max<int64_t>(1, (1 << 19) / std::max<int64_t>(1, work)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) f(i, false);
    });
  }
}

void group_columns(const Conv& s, In x, const ConvTile& t, int64_t group, bool parallel, void* columns) {
  const int64_t row = t.size(), work = std::max<int64_t>(1, s.taps() * row), first = group * s.group_channels();
  const auto some = [&](int64_t begin, int64_t end) {
    void* const to = static_cast<char*>(columns) + begin * work * int64_t(dtype_size(x.dtype));
    im2col(s, x, t, first + begin, end - begin, to, row);
  };
  if (parallel) parallel_for(s.group_channels(), std::max<int64_t>(1, 16384 / work), some);
  else some(0, s.group_channels());
}

// rows[channel * row + image * pixels + i] = or becomes v[image of the tile, channel of the group, outputs of the tile]
template <bool kRead>
void move_outputs(In v, const ConvTile& t, int64_t channel, int64_t channels, void* rows) {
  dispatch_bytes(v.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t n = t.end - t.begin, width = v.shape[3];
    T* row = static_cast<T*>(rows);
    for (int64_t c = 0; c < channels; c++) {
      for (int64_t i = 0; i < t.images; i++, row += n) {
        T* const from = plane<T>(v, (t.image + i) * v.shape[1] + channel + c);
        if (flat(v) && plane_step(v) == 1) {
          T* const run = from + t.begin;
          std::memcpy(kRead ? row : run, kRead ? run : row, size_t(n) * sizeof(T));
          continue;
        }
        for (int64_t p = 0; p < n; p++) {
          T& element = from[(t.begin + p) / width * v.strides[2] + (t.begin + p) % width * v.strides[3]];
          if (kRead) row[p] = element;
          else element = row[p];
        }
      }
    }
  });
}

void fill_rows(In bias, int64_t first, int64_t rows, const GemmMatrix& c, int64_t columns) {
  dispatch_bytes(bias.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    for (int64_t r = 0; r < rows; r++) {
      std::fill_n(static_cast<T*>(c.data) + r * c.row, columns, bias.ptr<const T>()[(first + r) * bias.strides[0]]);
    }
  });
}

// One task a channel: its sum has one order.
void sum_channels(const Conv& s, In dy, Out dbias) {
  SG_ASSERT(dbias.ndim == 1 && dbias.shape[0] == s.filters && dbias.dtype == dy.dtype);
  dispatch_float("conv2dBackwardWeight", dy.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t work = std::max<int64_t>(1, s.images * s.outputs());
    parallel_for(s.filters, std::max<int64_t>(1, 16384 / work), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; c++) {
        double sum = 0;
        for (int64_t n = 0; n < s.images; n++) {
          const T* row = plane<const T>(dy, n * s.filters + c);
          for (int64_t h = 0; h < s.h.output; h++, row += dy.strides[2]) {
            for (int64_t w = 0; w < s.w.output; w++) sum += double(accumulate_t<T>(row[w * dy.strides[3]]));
          }
        }
        dbias.ptr<T>()[c * dbias.strides[0]] = T(accumulate_t<T>(sum));
      }
    });
  });
}

}  // namespace

void CpuDevice::conv2d(In x, In w, MaybeIn bias, Out y, Rest geometry) {
  const Conv s(x, w, y, geometry);
  SG_ASSERT(!bias || (bias->ndim == 1 && bias->shape[0] == s.filters && bias->dtype == x.dtype));
  if (y.numel() == 0) return;
  if (s.depthwise()) return depthwise_forward(s, x, w, bias, y);
  SG_ASSERT(y.contiguous());
  const View weights = contiguous(*this, w, Scratch::kOuterB);
  const int64_t size = int64_t(dtype_size(x.dtype)), filters = s.group_filters();
  const Tiling tiles(s, s.depth() * size);
  run_tasks(tiles.count * s.groups, filters * s.depth() * tiles.outputs * tiles.images,
            [&](int64_t task, bool parallel) {
              const ConvTile t = tiles[task / s.groups];
              const int64_t group = task % s.groups, n = t.size();
              Gemm g{};
              g.m = filters, g.n = n, g.k = s.depth();
              g.dtype = x.dtype;
              g.a = {at(weights, group * filters * s.depth()), s.depth(), 1};
              if (s.pointwise() && flat(x) && t.images == 1) {
                const int64_t from = t.image * x.strides[0] + group * s.group_channels() * x.strides[1];
                g.b = {at(x, from + t.begin * plane_step(x)), plane_step(x), x.strides[1]};
              } else {
                void* const columns = scratch_bytes(Scratch::kOuterA, size_t(s.depth() * n * size));
                group_columns(s, x, t, group, parallel, columns);
                g.b = {columns, 1, n};
              }
              const int64_t first = group * filters;
              g.c = {at(y, (t.image * s.filters + first) * s.outputs() + t.begin), y.dtype, s.outputs()};
              if (t.images > 1) g.c = {scratch_bytes(Scratch::kOuterC, size_t(filters * n * size)), y.dtype, n};
              if (bias) {
                // c starts as the bias, which its dtype holds exactly; the product is added before the one rounding.
                fill_rows(*bias, first, filters, g.c, n);
                g.epilogue = Epilogue::kAccumulate;
              }
              gemm(g, parallel);
              if (t.images > 1) move_outputs<false>(y, t, first, filters, g.c.data);
            });
}

// A task has some channels of a group, for one image or several, and goes through their outputs block by block.
void CpuDevice::conv2dBackwardInput(In dy, In w, Out dx, Rest geometry) {
  const Conv s(dx, w, dy, geometry);
  if (dy.numel() == 0) return fill(dx, 0);
  if (s.depthwise()) return depthwise_backward_input(s, dy, w, dx);
  const View weights = contiguous(*this, w, Scratch::kOuterB);
  const int64_t filters = s.group_filters(), rows = 512;  // of the product, enough to be worth packing dy again
  const int64_t channels = std::clamp<int64_t>(rows / s.taps(), 1, std::max<int64_t>(1, s.group_channels()));
  const int64_t parts = (s.group_channels() + channels - 1) / channels;
  dispatch_float("conv2dBackwardInput", dx.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = accumulate_t<T>;
    const Tiling tiles(s, channels * s.taps() * int64_t(sizeof(A)));
    const int64_t tasks = tiles.count / tiles.blocks * s.groups * parts;
    const int64_t work = channels * s.taps() * filters * s.outputs() * tiles.images;
    const bool direct = s.pointwise() && dx.contiguous() && tiles.images == 1;
    run_tasks(tasks, work, [&](int64_t task, bool parallel) {
      const int64_t group = task / parts % s.groups, first_tile = task / parts / s.groups * tiles.blocks;
      const int64_t channel = task % parts * channels, count = std::min(channels, s.group_channels() - channel);
      const int64_t images = tiles[first_tile].images, most = images * tiles.outputs, planes = images * count;
      const int64_t working = direct ? 0 : planes * s.inputs() + count * s.taps() * most;
      A* const sums = scratch<A>(Scratch::kOuterA, size_t(working));
      A* const columns = sums + (direct ? 0 : planes * s.inputs());
      if (!direct) std::fill(sums, columns, A(0));
      for (int64_t block = 0; block < tiles.blocks; block++) {
        const ConvTile t = tiles[first_tile + block];
        Gemm g{};
        g.m = count * s.taps(), g.n = t.size(), g.k = filters;
        g.dtype = dy.dtype;
        g.a = {at(weights, group * filters * s.depth() + channel * s.taps()), 1, s.depth()};
        if (flat(dy) && t.images == 1) {
          const int64_t from = t.image * dy.strides[0] + group * filters * dy.strides[1];
          g.b = {at(dy, from + t.begin * plane_step(dy)), plane_step(dy), dy.strides[1]};
        } else {
          T* const outputs = scratch<T>(Scratch::kOuterC, size_t(filters * t.size()));
          move_outputs<true>(dy, t, group * filters, filters, outputs);
          g.b = {outputs, 1, t.size()};
        }
        g.c = {columns, DTypeOf<A>::value, t.size()};
        if (direct) {
          const int64_t plane = t.image * s.channels + group * s.group_channels() + channel;
          g.c = {at(dx, plane * s.inputs() + t.begin), dx.dtype, s.inputs()};
        }
        gemm(g, parallel);
        if (!direct) col2im(s, columns, t.size(), t, count, sums);
      }
      if (direct) return;
      for (int64_t p = 0; p < planes; p++) {
        const int64_t image = tiles[first_tile].image + p / count;
        store_plane<T>(sums + p * s.inputs(), s.w.input, dx,
                       image * s.channels + group * s.group_channels() + channel + p % count);
      }
    });
  });
}

// The outputs of a tile are the depth of the product; tiles are added up in the accumulation type, in order.
void CpuDevice::conv2dBackwardWeight(In dy, In x, Out dw, MaybeOut dbias, Rest geometry) {
  const Conv s(x, dw, dy, geometry);
  if (dbias) sum_channels(s, dy, *dbias);
  if (dy.numel() == 0) return fill(dw, 0);
  if (s.depthwise()) return depthwise_backward_weight(s, dy, x, dw);
  const DType sum = sum_dtype(dw.dtype);
  const bool in_place = dw.dtype == sum && dw.contiguous();
  const size_t bytes = size_t(dw.numel()) * dtype_size(sum);
  const View sums = contiguous_like(dw, sum, in_place ? dw.data : scratch_bytes(Scratch::kOuterB, bytes));
  const int64_t size = int64_t(dtype_size(x.dtype)), filters = s.group_filters();
  const Tiling tiles(s, s.depth() * size, 4 * kTileBytes);  // a deep product, added up less often
  run_tasks(s.groups, filters * s.depth() * s.outputs() * s.images, [&](int64_t group, bool parallel) {
    for (int64_t i = 0; i < tiles.count; i++) {
      const ConvTile t = tiles[i];
      const int64_t n = t.size();
      void* const columns = scratch_bytes(Scratch::kOuterA, size_t((s.depth() + filters) * n * size));
      void* const outputs = static_cast<char*>(columns) + s.depth() * n * size;
      group_columns(s, x, t, group, parallel, columns);
      Gemm g{};
      g.m = filters, g.n = s.depth(), g.k = n;
      g.dtype = x.dtype;
      if (flat(dy) && t.images == 1) {
        const int64_t from = t.image * dy.strides[0] + group * filters * dy.strides[1];
        g.a = {at(dy, from + t.begin * plane_step(dy)), dy.strides[1], plane_step(dy)};
      } else {
        move_outputs<true>(dy, t, group * filters, filters, outputs);
        g.a = {outputs, n, 1};
      }
      g.b = {columns, n, 1};
      g.c = {at(sums, group * filters * s.depth()), sum, s.depth()};
      g.epilogue = i == 0 ? Epilogue::kNone : Epilogue::kAccumulate;
      gemm(g, parallel);
    }
  });
  if (!in_place) copy(sums, dw);
}

}  // namespace sg
