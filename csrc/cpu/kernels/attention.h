// Attention in blocks of queries and keys with an online softmax (Dao et al., 2022). Scores are kept transposed,
// S^T[key][query]: the softmax then runs across lanes of queries without horizontal operations, and S^T read by columns
// is already the packed left operand of P V. Scores are in base 2. Packed keys and values are a block at a time, so
// working memory does not grow with the context (but for dq's sums in the backward pass).
#include "gemm_pack.h"
#include "gemm_tile.h"
#include "gemm_thin.h"

static constexpr int kQueryBlock = 96, kKeyBlock = 96;
static constexpr int64_t kOutputBytes = 192 << 10;   // running output of a task
static constexpr int64_t kGradientBytes = 96 << 10;  // dk, or dv, of a task
static constexpr int64_t kBackwardTasks = 8, kThinQueries = 16;
static constexpr int64_t kSerialAttention = 1 << 19;  // query-key products that are not worth waking a helper for
static constexpr double kLog2eExact = 1.4426950408889634, kLn2Exact = 0.6931471805599453;
static_assert(kQueryBlock % kTileRows == 0 && kKeyBlock % kTileRows == 0);

// Working memory cut into pieces: name the places and their sizes, then take it all.
template <class E>
struct Pieces {
  static constexpr int kMost = 16;
  E** places[kMost];
  int64_t offsets[kMost], total = 0;
  int count = 0;

  void add(E*& place, int64_t n) {
    places[count] = &place;
    offsets[count++] = total;
    total += round_up(n, 64 / sizeof(E)) + 64 / sizeof(E);
  }
  void take(Scratch slot) {
    E* base = scratch<E>(slot, total);
    for (int i = 0; i < count; i++) *places[i] = base + offsets[i];
  }
};

// Sizes every block has in common.
template <class T>
struct AttentionShape {
  using E = accumulate_t<T>;
  using V = lanes_of<T>;
  static constexpr bool kPairs = kPaired<T>;
  static constexpr int U = kUnit<T>, MR = kTileRows, NR = kTileColumns<E>, W = V::W;
  static_assert(kQueryBlock % NR == 0 && kQueryBlock % W == 0);

  const Attention& at;
  const int64_t shift, units, panels, width;  // units, panels of columns and padded columns of a head
  const E factor;                             // of a score, to base 2

  explicit AttentionShape(const Attention& at)
      : at(at),
        shift(at.shift()),
        units(ceil_div(at.size, U)),
        panels(ceil_div(at.size, NR)),
        width(panels * NR),
        factor(E(at.scale * kLog2eExact)) {}

  int64_t packed_rows() const { return units * MR + kPanelPad; }                      // a panel of MR keys
  int64_t packed_columns() const { return units * NR + kPanelPad; }                   // a panel of NR queries
  static constexpr int64_t packed_block() { return kKeyBlock / U * NR + kPanelPad; }  // NR features of a block of rows

  // rows of x, which lie D-contiguous: as the operand whose K is D, and as the one whose K is the rows
  Operand<T> by_features(const T* x, int64_t row, int64_t count) const { return {x, row, 1, count, at.size}; }
  Operand<T> by_rows(const T* x, int64_t row, int64_t count) const { return {x, 1, row, at.size, count}; }

  // r = scores of MR packed keys with NR packed queries, or the like
  static KI void scores(V (&r)[MR][2], const E* keys, const E* queries, int64_t units) {
    SG_UNROLL(12)
    for (int x = 0; x < MR; x++) r[x][0] = r[x][1] = V(0);
    multiply_add<MR, false, kPairs>(r, keys, MR, queries, NR, units);
  }
  // How many keys of a block some query up to `c` sees; the block starts at o = first query + shift - first key.
  static int64_t visible(int64_t c, int64_t o, int64_t keys) { return std::clamp<int64_t>(c + o + 1, 0, keys); }
  // Keys that the rows of tiles touching columns up to `last` read: a tile of MR queries may straddle two of NR.
  static int64_t read_by_rows(int64_t last, int64_t o, int64_t keys) {
    return std::clamp<int64_t>(last / MR * MR + MR + o, 0, keys);
  }
};

// c[M][NR] = a b (+ c, rows scaled by alpha if given); a read by columns or by rows of `stride` units.
template <int M, bool kByRows, bool kPairs, class E>
KI void accumulate_tile(const E* a, int64_t stride, const E* b, int64_t depth, E* c, int64_t row, bool add,
                        const E* alpha = nullptr) {
  using V = Lanes<E>;
  V r[M][2];
  SG_UNROLL(12)
  for (int i = 0; i < M; i++) {
    r[i][0] = r[i][1] = V(0);
    if (!add) continue;
    r[i][0] = load<V>(c + i * row), r[i][1] = load<V>(c + i * row + V::W);
    if (alpha) r[i][0] *= V(alpha[i]), r[i][1] *= V(alpha[i]);
  }
  multiply_add<M, kByRows, kPairs>(r, a, stride, b, kTileColumns<E>, depth);
  SG_UNROLL(12)
  for (int i = 0; i < M; i++) store(c + i * row, r[i][0]), store(c + i * row + V::W, r[i][1]);
}

// The mask of some queries and keys as base-2 summands, to[query * query_step + key * key_step]; -inf hides a key, and
// so does anything near the lowest float32: such a row would lose its weights in the rounding of the log-sum-exp.
template <class E>
static void mask_summands(const Attention& at, int64_t b, int64_t h, int64_t query, int64_t queries, int64_t key,
                          int64_t keys, E* to, int64_t query_step, int64_t key_step) {
  const int64_t* s = at.mask.strides;
  const int64_t start = b * s[0] + h * s[1] + query * s[2] + key * s[3];
  const E hidden = -std::numeric_limits<E>::infinity(), lowest = std::numeric_limits<float>::lowest() / 4;
  const auto fill = [&](const auto* mask, auto value) {
    for (int64_t c = 0; c < queries; c++)
      for (int64_t r = 0; r < keys; r++) to[c * query_step + r * key_step] = value(mask[start + c * s[2] + r * s[3]]);
  };
  if (at.mask.dtype == DType::k_bool_)
    return fill(static_cast<const bool*>(at.mask.data), [=](bool seen) { return seen ? E(0) : hidden; });
  dispatch_float("attention", at.mask.dtype, [&](auto tag) {
    using M = typename decltype(tag)::type;
    fill(static_cast<const M*>(at.mask.data), [=](M x) {
      const E summand = E(accumulate_t<M>(x));
      return summand < lowest ? hidden : summand * E(kLog2eExact);
    });
  });
}
// The same for a block [key][kQueryBlock]; 0 for the queries that do not exist.
template <class E>
static void mask_block(const Attention& at, int64_t b, int64_t h, int64_t query, int64_t queries, int64_t key,
                       int64_t keys, E* to) {
  mask_summands(at, b, h, query, queries, key, keys, to, 1, kQueryBlock);
  for (int64_t r = 0; r < keys; r++) std::fill(to + r * kQueryBlock + queries, to + (r + 1) * kQueryBlock, E(0));
}

#include "attention_forward.h"
#include "attention_thin.h"
#include "attention_backward.h"

template <class T>
static void attend(const Attention& at) {
  using Shape = AttentionShape<T>;
  using E = typename Shape::E;
  const int64_t heads = at.batch * at.heads;
  const bool parallel = heads * at.queries * at.keys * std::max<int64_t>(1, at.size) > kSerialAttention;
  if (at.group() * at.queries <= kThinQueries)
    return for_tasks(parallel, at.batch * at.kv_heads,
                     [&](int t) KT { AttentionThin<T>(at, t / at.kv_heads, t % at.kv_heads).run(); });
  // Queries that share packed keys: as many as keep their output in L2, fewer if tasks are needed.
  const int64_t blocks = ceil_div(at.queries, kQueryBlock), threads = ThreadPool::instance().threads();
  const int64_t most = kOutputBytes / (int64_t(sizeof(E)) * (Shape(at).width + 1) * kQueryBlock);
  const int64_t share = std::clamp<int64_t>(std::min(most, heads * blocks / (4 * threads)), 1, 8),
                groups = ceil_div(blocks, share);
  for_tasks(parallel, heads * groups, [&](int t) KT {
    const int64_t head = t % heads, group = groups - 1 - t / heads;  // if causal, the longest first
    const int64_t begin = group * share * kQueryBlock, end = std::min(at.queries, begin + share * kQueryBlock);
    AttentionForward<T>(at, head / at.heads, head % at.heads, begin, end).run();
  });
}

template <class T>
static void attend_backward(const Attention& at) {
  using Backward = AttentionBackward<T>;
  using E = typename Backward::E;
  const int64_t pairs = at.batch * at.kv_heads, group = at.group();
  const int64_t round = Backward::round_keys(Backward(at).width),
                rounds = std::max<int64_t>(1, ceil_div(at.keys, round));
  // Few heads: the keys are split, each part with its own sums of dq. By the shape alone, for the sake of the bits.
  const int64_t splits = std::clamp<int64_t>(kBackwardTasks / std::max<int64_t>(1, pairs), 1, rounds);
  const int64_t part = ceil_div(rounds, splits) * round, size = Backward(at).dq_size();
  const bool parallel = at.batch * at.heads * at.queries * at.keys * std::max<int64_t>(1, at.size) > kSerialAttention;
  E* const parts = splits > 1 ? scratch<E>(Scratch::kSharedA, pairs * splits * size) : nullptr;
  for_tasks(parallel, pairs * splits, [&](int t) KT {
    const int64_t pair = t / splits, split = t % splits, key = split * part;
    E* dq = parts ? parts + t * size : scratch<E>(Scratch::kLocalB, size);
    Backward task(at, pair / at.kv_heads, pair % at.kv_heads, dq);
    task.run(std::min(at.keys, key), std::min(at.keys, key + part));
    if (!parts)
      for (int64_t g = 0; g < group; g++) task.store_dq(g, 0, at.queries, 1, 0);
  });
  if (!parts) return;
  const int64_t blocks = ceil_div(at.queries, kQueryBlock);
  for_tasks(parallel, pairs * group * blocks, [&](int t) KT {
    const int64_t pair = t / (group * blocks), g = t / blocks % group, query = t % blocks * kQueryBlock;
    Backward task(at, pair / at.kv_heads, pair % at.kv_heads, parts + pair * splits * size);
    task.store_dq(g, query, std::min(at.queries, query + kQueryBlock), splits, size);
  });
}

static void attention_any(const Attention& at, DType dtype, bool backward) {
  dispatch_float("attention", dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if (backward) attend_backward<T>(at);
    else attend<T>(at);
  });
}
