// One task: a range of keys of one key head, for all query heads that share it, so that dk and dv are summed in one
// order. For every block of queries: P again from the log-sum-exp, dS = P (dP - rowsum(dO O)), and from the two
// dV += P^T dO, dK += dS^T Q, dQ += dS K. dQ's sums stay in working memory until all keys are through.

template <class T>
struct AttentionBackward : AttentionShape<T> {
  using Shape = AttentionShape<T>;
  using Shape::at, Shape::shift, Shape::units, Shape::panels, Shape::width, Shape::factor;
  using Shape::kPairs, Shape::U, Shape::MR, Shape::NR, Shape::W;
  using typename Shape::E;
  using typename Shape::V;

  int64_t b = 0, kv = 0;
  E* dq = nullptr;  // [group][queries + MR][width], the sums of this task; the last tile of a head may overhang
  // Packed: keys and values by features, keys by rows, one block after another; queries and dO in both ways.
  E *keys, *values, *keys_rows, *queries, *douts, *queries_rows, *douts_rows;
  E *p, *ds, *ds_pairs, *dk, *dv, *lse, *delta, *mask;

  explicit AttentionBackward(const Attention& at) : Shape(at) {}  // for the sizes alone
  AttentionBackward(const Attention& at, int64_t b, int64_t kv, E* dq) : Shape(at), b(b), kv(kv), dq(dq) {}

  // Keys that stay packed while the queries pass: what fits in L2 with their gradients.
  static int64_t round_keys(int64_t width) {
    return std::clamp<int64_t>(kGradientBytes / (int64_t(sizeof(E)) * (width + 1) * kKeyBlock), 1, 8) * kKeyBlock;
  }
  int64_t dq_row(int64_t g, int64_t query) const { return (g * (at.queries + MR) + query) * width; }
  int64_t dq_size() const { return dq_row(at.group(), 0); }

  KT void run(int64_t begin, int64_t end) {
    const int64_t round = round_keys(width);
    take(round);
    std::fill_n(dq, dq_size(), E(0));
    for (int64_t key = begin; key < end; key += round) {
      const int64_t count = std::min(round, end - key);
      pack_keys(key, count);
      for (int64_t g = 0; g < at.group(); g++)
        for (int64_t query = 0; query < at.queries; query += kQueryBlock) {
          const int64_t rows = std::min<int64_t>(kQueryBlock, at.queries - query);
          if (Shape::visible(rows - 1, query + shift - key, count) == 0) continue;
          pack_queries(kv * at.group() + g, query, rows);
          for (int64_t r = 0; r < count; r += kKeyBlock)
            block(g, query, rows, key + r, std::min<int64_t>(kKeyBlock, count - r), r);
        }
      for (int64_t i = 0; i < count; i++) {
        store_row(dk + i * width, head_of<T>(at.dk, b, kv) + (key + i) * at.dk.row, E(at.scale));
        store_row(dv + i * width, head_of<T>(at.dv, b, kv) + (key + i) * at.dv.row, E(1));
      }
    }
  }

  // Rows of dq, summed over `parts` tasks whose sums lie `stride` apart.
  KT void store_dq(int64_t g, int64_t begin, int64_t end, int64_t parts, int64_t stride) {
    for (int64_t i = begin; i < end; i++) {
      E* row = dq + dq_row(g, i);
      for (int64_t part = 1; part < parts; part++)
        for (int64_t d = 0; d < width; d++) row[d] += row[part * stride + d];
      store_row(row, head_of<T>(at.dq, b, kv * at.group() + g) + i * at.dq.row, E(at.scale));
    }
  }

 private:
  void take(int64_t round) {
    const int64_t block = (kKeyBlock + MR) * kQueryBlock;
    Pieces<E> pieces;
    pieces.add(keys, round / MR * this->packed_rows());
    pieces.add(values, round / MR * this->packed_rows());
    pieces.add(keys_rows, round / kKeyBlock * panels * this->packed_block());
    pieces.add(queries, kQueryBlock / NR * this->packed_columns());
    pieces.add(douts, kQueryBlock / NR * this->packed_columns());
    pieces.add(queries_rows, panels * this->packed_block());
    pieces.add(douts_rows, panels * this->packed_block());
    pieces.add(p, block);
    pieces.add(ds, block);
    pieces.add(ds_pairs, kPairs ? block / 2 : 0);
    pieces.add(dk, (round + MR) * width);
    pieces.add(dv, (round + MR) * width);
    pieces.add(lse, kQueryBlock);
    pieces.add(delta, kQueryBlock);
    pieces.add(mask, at.mask.data ? kKeyBlock * kQueryBlock : 0);
    pieces.take(Scratch::kLocalA);
  }

  KT void pack_keys(int64_t key, int64_t count) {
    const T *k = head_of<T>(at.k, b, kv), *v = head_of<T>(at.v, b, kv);
    const int p0 = int(key / MR), p1 = int(ceil_div(key + count, MR));
    pack_panels<MR>(this->by_features(k, at.k.row, at.keys), p0, p1, 0, units, keys, this->packed_rows());
    pack_panels<MR>(this->by_features(v, at.v.row, at.keys), p0, p1, 0, units, values, this->packed_rows());
    for (int64_t r = 0; r < count; r += kKeyBlock) {
      const int64_t last = key + std::min<int64_t>(r + kKeyBlock, count);
      pack_panels<NR>(this->by_rows(k, at.k.row, at.keys), 0, int(panels), (key + r) / U, ceil_div(last, U),
                      keys_rows + r / kKeyBlock * panels * this->packed_block(), this->packed_block());
    }
    std::fill_n(dk, count * width, E(0));
    std::fill_n(dv, count * width, E(0));
  }

  KT void pack_queries(int64_t h, int64_t query, int64_t rows) {
    const T *q = head_of<T>(at.q, b, h), *dout = head_of<T>(at.dout, b, h), *out = head_of<T>(at.out, b, h);
    const int p0 = int(query / NR), p1 = int(ceil_div(query + rows, NR));
    const int64_t u0 = query / U, u1 = ceil_div(query + rows, U);
    pack_panels<NR>(this->by_features(q, at.q.row, at.queries), p0, p1, 0, units, queries, this->packed_columns());
    pack_panels<NR>(this->by_features(dout, at.dout.row, at.queries), p0, p1, 0, units, douts, this->packed_columns());
    pack_panels<NR>(this->by_rows(q, at.q.row, at.queries), 0, int(panels), u0, u1, queries_rows, this->packed_block());
    pack_panels<NR>(this->by_rows(dout, at.dout.row, at.queries), 0, int(panels), u0, u1, douts_rows,
                    this->packed_block());
    const E nothing = std::numeric_limits<E>::max() / 2;  // as a log-sum-exp: all weights are 0
    for (int64_t c = 0; c < kQueryBlock; c++) {
      const E value = c < rows ? lse_of<E>(at, b, h, query + c) * E(kLog2eExact) : nothing;
      lse[c] = value == -std::numeric_limits<E>::infinity() ? nothing : value;
      delta[c] = c < rows ? dot_rows(dout + (query + c) * at.dout.row, out + (query + c) * at.out.row) : E(0);
    }
  }
  KT E dot_rows(const T* x, const T* y) const {
    V sum(0);
    int64_t d = 0;
    for (; d + W <= at.size; d += W) sum = fma(load<V>(x + d), load<V>(y + d), sum);
    if (d < at.size) sum = fma(load<V>(x + d, int(at.size - d)), load<V>(y + d, int(at.size - d)), sum);
    return reduce_add(sum);
  }
  KT void store_row(const E* from, T* to, E by) const {
    int64_t d = 0;
    for (; d + W <= at.size; d += W) store(to + d, load<V>(from + d) * V(by));
    if (d < at.size) store(to + d, load<V>(from + d) * V(by), int(at.size - d));
  }

  // A block of keys, `offset` behind the first packed one, with a block of queries.
  KT void block(int64_t g, int64_t query, int64_t rows, int64_t key, int64_t count, int64_t offset) {
    const int64_t o = query + shift - key;
    if (Shape::visible(rows - 1, o, count) == 0) return;
    if (at.mask.data) mask_block(at, b, kv * at.group() + g, query, rows, key, count, mask);
    for (int64_t c = 0; c < rows; c += NR) {
      const int64_t seen = Shape::visible(c + NR - 1, o, count), read = Shape::read_by_rows(c + NR - 1, o, count);
      for (int64_t i = 0; i < seen; i += MR) tile_of_ds(c, i, o, count, offset);
      for (int64_t u = round_up(seen, MR) / U; u < ceil_div(read, U); u++)
        for (int64_t x = c; x < c + NR; x += W) store(pairs() + u * kQueryBlock + x, V(0));
    }
    // Rows are keys, K the queries from the first on that sees one of them.
    for (int64_t i = 0; i < count; i += MR) {
      const int64_t from = std::max<int64_t>(0, i - o) / U, depth = ceil_div(rows, U) - from;
      if (depth <= 0) break;
      const int64_t a = i * (kQueryBlock / U) + from, to = (offset + i) * width;
      for (int64_t j = 0; j < panels; j++) {
        const int64_t x = j * this->packed_block() + from * NR;
        accumulate_tile<MR, true, kPairs>(p + a, kQueryBlock / U, douts_rows + x, depth, dv + to + j * NR, width, true);
        accumulate_tile<MR, true, kPairs>(ds + a, kQueryBlock / U, queries_rows + x, depth, dk + to + j * NR, width,
                                          true);
      }
    }
    const E* k = keys_rows + offset / kKeyBlock * panels * this->packed_block();
    for (int64_t i = 0; i < rows; i += MR) {
      const int64_t depth = ceil_div(Shape::visible(i + MR - 1, o, count), U);
      E* to = dq + dq_row(g, query + i);
      for (int64_t j = 0; j < panels && depth; j++)
        accumulate_tile<MR, false, kPairs>(pairs() + i, kQueryBlock, k + j * this->packed_block(), depth, to + j * NR,
                                           width, true);
    }
  }
  // dS as the left operand of dS K: with bf16, pairs of neighbouring keys, kept beside the rows of dS.
  E* pairs() const { return kPairs ? ds_pairs : ds; }

  // MR keys (rows i..) with NR queries (columns c..): P and dS.
  KT void tile_of_ds(int64_t c, int64_t i, int64_t o, int64_t count, int64_t offset) {
    using Stored = std::conditional_t<kPairs, T, E>;
    Stored *p_rows = reinterpret_cast<Stored*>(p) + i * kQueryBlock + c,
           *ds_rows = reinterpret_cast<Stored*>(ds) + i * kQueryBlock + c;
    const int64_t panel = (offset + i) / MR * this->packed_rows(), column = c / NR * this->packed_columns();
    const bool partial = i + MR > count || i + MR - 1 > c + o;  // some of these keys hidden from some of these queries
    V r[MR][2];
    Shape::scores(r, keys + panel, queries + column, units);
    SG_UNROLL(2)
    for (int half = 0; half < 2; half++) {
      const V f(factor), minus_lse = -load<V>(lse + c + half * W);
      SG_UNROLL(12)
      for (int x = 0; x < MR; x++) {
        V y = fma(r[x][half], f, minus_lse);
        // a weight is at most 1, which a mask of -1e9 on a whole row would forget in its rounding
        if (at.mask.data && i + x < count) y = min(V(0), y + load<V>(mask + (i + x) * kQueryBlock + c + half * W));
        y = fast_exp2(y);
        if (partial) y = i + x < count ? select(first<V>(int(i + x - o - c) - half * W), V(0), y) : V(0);
        store(p_rows + x * kQueryBlock + half * W, y);
      }
    }
    Shape::scores(r, values + panel, douts + column, units);
    SG_UNROLL(2)
    for (int half = 0; half < 2; half++) {
      const V shifted = load<V>(delta + c + half * W);
      SG_UNROLL(12)
      for (int x = 0; x < MR; x++) {
        r[x][half] = load<V>(p_rows + x * kQueryBlock + half * W) * (r[x][half] - shifted);
        store(ds_rows + x * kQueryBlock + half * W, r[x][half]);
        if constexpr (kPairs)
          if (x % 2) store(ds_pairs + (i + x) / 2 * kQueryBlock + c + half * W, zip(r[x - 1][half], r[x][half]));
      }
    }
  }
};
