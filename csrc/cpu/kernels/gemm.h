// The blocked product. All of b (a slice of columns of it) is packed once, a per task; then for each panel of b, for
// each panel of a: one tile. What has to be resident: the task's block of a and its partial sums in L2, the slice of b
// in L3. Every element's sum runs along K in order whatever the blocking is, so the bits never depend on it.
#include "gemm_pack.h"
#include "gemm_tile.h"
#include "gemm_finish.h"
#include "gemm_thin.h"

static constexpr int64_t kDepthBytes = 16 << 10;    // of a row of units, packed at a time
static constexpr int64_t kSliceBytes = 12 << 20;    // packed b
static constexpr int64_t kSharedBytes = 5 << 20;    // a packed once for all tasks, if it has few rows
static constexpr int64_t kBlockBytes = 480 << 10;   // a task's packed a
static constexpr int64_t kPartBytes = 384 << 10;    // a task's partial sums
static constexpr int64_t kAllPartsBytes = 8 << 20;  // everyone's, when K needs several rounds of packing
static constexpr int64_t kThinWork = 128 << 10;     // units of a thin product per task
static constexpr int64_t kSerialWork = 1 << 20;     // multiply-adds that are not worth waking a helper for
static constexpr int kBlockPanels = 16, kSharedPanels = 64, kTileDepth = 512, kSumTasks = 16;

// Who holds what: a parallel product the shared slots, a serial one (inside a task) slots of its own thread.
struct Slots {
  Scratch a, b;
  explicit Slots(bool parallel)
      : a(parallel ? Scratch::kSharedA : Scratch::kLocalB), b(parallel ? Scratch::kSharedB : Scratch::kLocalC) {}
};

// Sizes of one product, in units along K and in panels across it.
template <class E>
struct Blocking {
  static constexpr int MR = kTileRows, NR = kTileColumns<E>, size = sizeof(E);
  int64_t depth, depth_round;  // all of K, and what is packed at a time
  int64_t panels_a, panels_b;
  int64_t round_a, slice_b;         // panels of a and b worked on at a time
  int64_t block, slab, tile_depth;  // a task: panels of a, units packed at a time, units a tile runs over
  bool shared;                      // a is packed once for all tasks

  Blocking(int64_t m, int64_t n, int64_t units) : depth(units), panels_a(ceil_div(m, MR)), panels_b(ceil_div(n, NR)) {
    const int64_t rounds = ceil_div(depth, kDepthBytes / size);
    depth_round = rounds > 1 ? round_up(ceil_div(depth, rounds), 16) : std::max<int64_t>(1, depth);
    const int64_t packed_b = panels_b * (depth_round * NR + kPanelPad) * size;
    slice_b = ceil_div(panels_b, ceil_div(packed_b, kSliceBytes));
    const int64_t tile_size = MR * NR * size;
    round_a = panels_a;
    if (rounds > 1)
      round_a = std::min(panels_a, std::max<int64_t>(kBlockPanels, kAllPartsBytes / (slice_b * tile_size)));
    const int64_t panel_a = depth_round * MR * size;
    shared = round_a * panel_a <= kSharedBytes && round_a <= kSharedPanels;

    slab = depth_round;
    tile_depth = round_up(ceil_div(depth_round, ceil_div(depth_round, kTileDepth)), 4);
    block = std::min<int64_t>(kBlockPanels, kBlockBytes / panel_a);
    if (!shared && block < kBlockPanels * 3 / 4) {
      // Deep: rather many rows of a, in slabs of K, with the task's sums for all columns waiting in L2.
      const int64_t fit = std::min<int64_t>(kBlockPanels, kPartBytes / (slice_b * tile_size));
      if (fit > block) {
        block = fit;
        const int64_t most = std::max<int64_t>(128, kBlockBytes / (block * MR * size));
        tile_depth = slab = round_up(ceil_div(depth_round, ceil_div(depth_round, most)), 16);
      }
    }
    block = std::max<int64_t>(1, std::min(block, round_a));
  }
  bool many_rounds() const { return depth > depth_round; }
};

template <class T, class Out>
struct Blocked {
  using E = accumulate_t<T>;
  using B = Blocking<E>;
  static constexpr int MR = B::MR, NR = B::NR, tile_size = MR * NR;
  const Operand<T>&a, &b;
  const Out& out;
  const B s;
  const bool parallel;
  const int threads;
  E* const sums;  // of a's rows, or null; only if a is contiguous across K
  const int64_t stride_b, stride_a;
  E *packed_b, *packed_a, *parts, *task_sums;

  KT Blocked(const Operand<T>& a, const Operand<T>& b, const Out& out, E* sums, bool parallel)
      : a(a),
        b(b),
        out(out),
        s(a.width, b.width, ceil_div(a.depth, kUnit<T>)),
        parallel(parallel),
        threads(parallel ? ThreadPool::instance().threads() : 1),
        sums(sums),
        stride_b(s.depth_round * NR + kPanelPad),
        stride_a((s.shared ? s.depth_round : s.slab) * MR + kPanelPad) {
    packed_b = scratch<E>(Slots(parallel).a, s.slice_b * stride_b);
    const int64_t size_a = s.shared ? s.round_a * stride_a : 0;
    const int64_t size_parts = s.many_rounds() ? s.slice_b * s.round_a * tile_size : 0;
    const int64_t size_sums = s.shared && sums ? kSumTasks * s.round_a * MR : 0;
    packed_a = scratch<E>(Slots(parallel).b, size_a + size_parts + size_sums);
    parts = packed_a + size_a;
    task_sums = parts + size_parts;
  }

  KT void run() {
    if (sums) std::fill_n(sums, a.width, E(0));
    for (int64_t p0 = 0; p0 < s.panels_a; p0 += s.round_a)
      for (int64_t q0 = 0; q0 < s.panels_b; q0 += s.slice_b)
        for (int64_t k0 = 0; k0 == 0 || k0 < s.depth; k0 += s.depth_round) {
          const int64_t p1 = std::min(s.panels_a, p0 + s.round_a), q1 = std::min(s.panels_b, q0 + s.slice_b);
          const int64_t k1 = std::min(s.depth, k0 + s.depth_round);
          pack(p0, p1, q0, q1, k0, k1);
          multiply(p0, p1, q0, q1, k0, k1);
        }
  }

 private:
  // Operands contiguous along K are split by panels, the others by K, so that each task reads in order.
  KT void pack(int64_t p0, int64_t p1, int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
    const int64_t depth = k1 - k0, step = std::max<int64_t>(64, round_up(ceil_div(depth, kSumTasks), 16));
    const int64_t steps = std::max<int64_t>(1, ceil_div(depth, step));
    const bool b_by_panels = !b.across_rows(), a_by_panels = !a.across_rows();
    const int64_t group = std::max<int64_t>(1, std::min<int64_t>(4, (q1 - q0) / (2 * threads)));
    const int64_t tasks_b = b_by_panels ? ceil_div(q1 - q0, group) : steps;
    // a shared by all is packed with the first slice; several rounds overwrite it
    const bool with_a = s.shared && (q0 == 0 || s.many_rounds());
    const int64_t tasks_a = !with_a ? 0 : a_by_panels ? ceil_div(p1 - p0, 4) : steps;
    const int64_t rows = (p1 - p0) * MR;
    const bool with_sums = sums && with_a && q0 == 0;
    for_tasks(parallel, tasks_b + tasks_a, [&](int task) KT {
      int64_t t = task;
      if (t < tasks_b) {
        if (b_by_panels) {
          const int64_t from = q0 + t * group, to = std::min(q1, from + group);
          return pack_panels<NR>(b, from, to, k0, k1, packed_b + (from - q0) * stride_b, stride_b);
        }
        const int64_t u0 = k0 + t * step, u1 = std::min(k1, u0 + step);
        return pack_panels<NR>(b, q0, q1, u0, u1, packed_b + (u0 - k0) * NR, stride_b);
      }
      t -= tasks_b;
      if (a_by_panels) {
        const int64_t from = p0 + t * 4, to = std::min(p1, from + 4);
        return pack_panels<MR>(a, from, to, k0, k1, packed_a + (from - p0) * stride_a, stride_a);
      }
      const int64_t u0 = k0 + t * step, u1 = std::min(k1, u0 + step);
      E* mine = with_sums ? std::fill_n(task_sums + t * rows, rows, E(0)) - rows : nullptr;
      pack_panels<MR>(a, p0, p1, u0, u1, packed_a + (u0 - k0) * MR, stride_a, mine);
    });
    if (with_sums)
      for (int64_t i = 0; i < std::min(rows, a.width - p0 * MR); i++)
        for (int64_t t = 0; t < steps; t++) sums[p0 * MR + i] += task_sums[t * rows + i];
  }

  KT void multiply(int64_t p0, int64_t p1, int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
    const int64_t panels_a = p1 - p0, panels_b = q1 - q0;
    int64_t rows = ceil_div(panels_a, s.block), columns = 1;  // tasks
    if (threads > 1 && !s.shared) rows = round_up(rows, threads);
    if (threads > 1 && s.shared) columns = std::min(panels_b, std::max<int64_t>(1, ceil_div(4 * threads, rows)));
    const int64_t block = ceil_div(panels_a, rows), width = ceil_div(panels_b, columns);
    rows = ceil_div(panels_a, block), columns = ceil_div(panels_b, width);
    for_tasks(parallel, rows * columns, [&](int t) KT {
      const int64_t a0 = p0 + t / columns * block, a1 = std::min(p1, a0 + block);
      const int64_t b0 = q0 + t % columns * width, b1 = std::min(q1, b0 + width);
      block_of_c(a0, a1, b0, b1, p0, q0, k0, k1);
    });
  }

  // Panels a0 to a1 by b0 to b1, along k0 to k1. p0, q0: where this round started.
  KT void block_of_c(int64_t a0, int64_t a1, int64_t b0, int64_t b1, int64_t p0, int64_t q0, int64_t k0, int64_t k1) {
    const bool slabs = s.slab < k1 - k0;
    // where the sums of a tile wait: panels of a side by side; panels of b `part_row` apart
    const int64_t part_row = s.many_rounds() ? s.round_a * tile_size : slabs ? (a1 - a0) * tile_size : 0;
    const int64_t own_parts = s.many_rounds() ? 0 : slabs ? (b1 - b0) * part_row : (a1 - a0) * tile_size;
    const int64_t own_a = s.shared ? 0 : (a1 - a0) * stride_a;
    E* own = scratch<E>(Scratch::kLocalA, own_parts + own_a);
    E* part = s.many_rounds() ? parts + (b0 - q0) * part_row + (a0 - p0) * tile_size : own;
    E* block_a = s.shared ? packed_a + (a0 - p0) * stride_a : own + own_parts;
    for (int64_t s0 = k0; s0 == k0 || s0 < k1; s0 += s.slab) {
      const int64_t s1 = std::min(k1, s0 + s.slab);
      if (!s.shared) pack_panels<MR>(a, a0, a1, s0, s1, block_a, stride_a, q0 == 0 && sums ? sums + a0 * MR : no_sums);
      for (int64_t q = b0; q < b1; q++)
        for (int64_t k = s0; k == s0 || k < s1; k += s.tile_depth) {
          const int64_t depth = std::min(s.tile_depth, s1 - k);
          const E* panel_b = packed_b + (q - q0) * stride_b + (k - k0) * NR;
          const int n = int(std::min<int64_t>(NR, b.width - q * NR));
          for (int64_t p = a0; p < a1; p++) {
            const int m = int(std::min<int64_t>(MR, a.width - p * MR));
            any_tile<kPaired<T>>(block_a + (p - a0) * stride_a + (k - s0) * MR, panel_b, depth,
                                 part + (q - b0) * part_row + (p - a0) * tile_size, k == 0, k + depth >= s.depth, out,
                                 p * MR, q * NR, m, n);
          }
        }
    }
  }
  static constexpr E* no_sums = nullptr;
};

// by_columns: few columns, so the product of the transposes.
template <class T>
KT void gemm_thin(const Gemm& g, const Operand<T>& small, const Operand<T>& big, bool by_columns, bool parallel) {
  using E = accumulate_t<T>;
  const int64_t m = small.width, n = big.width, depth = small.depth;
  const bool dots = big.along_rows();
  using Row = std::conditional_t<kPaired<T>, T, E>;
  // the small operand: rows along K for dot products, otherwise [K][m]
  const Slots slots(parallel);
  Row* rows = nullptr;
  E* columns = nullptr;
  if (dots) {
    rows = scratch<Row>(slots.b, m * depth);
    for (int64_t i = 0; i < m; i++) copy_row(small.data + i * small.across, small.along, depth, rows + i * depth);
  } else {
    columns = scratch<E>(slots.b, m * depth);
    for (int64_t k = 0; k < depth; k++) copy_row(small.data + k * small.along, small.across, m, columns + k * m);
  }
  const int64_t step = std::clamp<int64_t>(kThinWork / std::max<int64_t>(1, depth) / 64 * 64, 64, 4096);
  const Finish<E> finish{g};
  for_tasks(parallel, ceil_div(n, step), [&](int t) KT {
    const int64_t j = t * step, count = std::min(step, n - j);
    E* sums = scratch<E>(Scratch::kLocalA, 2 * m * step);
    const T* from = big.data + j * big.across;
    if (dots) dot_columns<T>(rows, m, from, big.across, count, depth, sums, step);
    else row_columns<T>(columns, m, from, big.along, count, depth, sums, step);
    if (!by_columns) return finish.rows(sums, step, 0, j, m, count);
    E* turned = sums + m * step;
    for (int64_t x = 0; x < count; x++)
      for (int64_t i = 0; i < m; i++) turned[x * m + i] = sums[i * step + x];
    finish.rows(turned, m, j, 0, count, m);
  });
}

template <class T>
KT void gemm_typed(const Gemm& g, bool parallel) {
  using E = accumulate_t<T>;
  const Operand<T> a{static_cast<const T*>(g.a.data), g.a.across, g.a.along, g.m, g.k};
  const Operand<T> b{static_cast<const T*>(g.b.data), g.b.across, g.b.along, g.n, g.k};
  parallel = parallel && g.m * g.n * std::max<int64_t>(1, g.k) > kSerialWork;
  E* sums = static_cast<E*>(g.row_sums);
  const bool few_rows = is_thin(a, b), thin = few_rows || is_thin(b, a);
  if (sums && (thin || !a.across_rows())) {
    sum_rows(a, sums, parallel);
    sums = nullptr;
  }
  if (a.width == 0 || b.width == 0) return;
  if (thin) return few_rows ? gemm_thin(g, a, b, false, parallel) : gemm_thin(g, b, a, true, parallel);
  const auto blocked = [&](const auto& out)
                           KT { Blocked<T, std::decay_t<decltype(out)>>(a, b, out, sums, parallel).run(); };
  const E* bias = static_cast<const E*>(g.bias);
  if (g.epilogue == Epilogue::kNone && g.c.dtype == DTypeOf<E>::value)
    return blocked(Store<E, E>{static_cast<E*>(g.c.data), g.c.row, bias});
  if (g.epilogue == Epilogue::kNone && g.c.dtype == DTypeOf<T>::value)
    return blocked(Store<T, E>{static_cast<T*>(g.c.data), g.c.row, bias});
  blocked(Finish<E>{g});
}

static void gemm_any(const Gemm& g, bool parallel) {
  dispatch_float("matmul", g.dtype, [&](auto tag) { gemm_typed<typename decltype(tag)::type>(g, parallel); });
}
