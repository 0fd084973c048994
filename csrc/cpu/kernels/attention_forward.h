// One task: a range of queries of one head. For every block of keys: pack it, then for every block of queries scores,
// online softmax, and P V onto the running output.

template <class T>
struct AttentionForward : AttentionShape<T> {
  using Shape = AttentionShape<T>;
  using Shape::at, Shape::shift, Shape::units, Shape::panels, Shape::width;
  using Shape::kPairs, Shape::U, Shape::MR, Shape::NR, Shape::W;
  using typename Shape::E;
  using typename Shape::V;

  const int64_t b, h, begin, end;  // a range of queries
  const bool rescaled;             // scores reach the softmax scaled and masked already
  const E factor;                  // otherwise: what the softmax multiplies them by
  E *queries, *keys, *values, *p, *output, *mask, *top, *sum, *alpha;

  AttentionForward(const Attention& at, int64_t b, int64_t h, int64_t begin, int64_t end)
      : Shape(at),
        b(b),
        h(h),
        begin(begin),
        end(end),
        rescaled(at.mask.data || at.scale <= 0),
        factor(rescaled ? E(1) : Shape::factor) {
    const int64_t rows = round_up(end - begin, kQueryBlock);
    Pieces<E> pieces;
    pieces.add(queries, rows / NR * this->packed_columns());
    pieces.add(keys, kKeyBlock / MR * this->packed_rows());
    pieces.add(values, panels * this->packed_block());
    pieces.add(p, (kKeyBlock + MR) * kQueryBlock);
    pieces.add(output, (rows + MR) * width);
    pieces.add(mask, at.mask.data ? kKeyBlock * kQueryBlock : 0);
    pieces.add(top, rows);
    pieces.add(sum, rows);
    pieces.add(alpha, kQueryBlock + MR);
    pieces.take(Scratch::kLocalA);
    std::fill_n(top, rows, -std::numeric_limits<E>::infinity());
    std::fill_n(sum, rows, E(0));
  }

  KT void run() {
    const int64_t kv = h / at.group();
    const Operand<T> q = this->by_features(head_of<T>(at.q, b, h), at.q.row, at.queries);
    const Operand<T> k = this->by_features(head_of<T>(at.k, b, kv), at.k.row, at.keys);
    const Operand<T> v = this->by_rows(head_of<T>(at.v, b, kv), at.v.row, at.keys);
    pack_panels<NR>(q, int(begin / NR), int(ceil_div(end, NR)), 0, units, queries, this->packed_columns());
    const int64_t seen_keys = Shape::visible(end - 1, shift, at.keys);
    for (int64_t key = 0; key < seen_keys; key += kKeyBlock) {
      const int64_t count = std::min<int64_t>(kKeyBlock, seen_keys - key);
      pack_panels<MR>(k, int(key / MR), int(ceil_div(key + count, MR)), 0, units, keys, this->packed_rows());
      pack_panels<NR>(v, 0, int(panels), key / U, ceil_div(key + count, U), values, this->packed_block());
      for (int64_t query = begin; query < end; query += kQueryBlock) {
        const int64_t rows = std::min<int64_t>(kQueryBlock, end - query), o = query + shift - key;
        const int64_t seen = Shape::visible(rows - 1, o, count);
        if (seen) block(query, rows, key, seen, o);
      }
    }
    for (int64_t i = begin; i < end; i++) finish(i);
  }

 private:
  KT void block(int64_t query, int64_t rows, int64_t key, int64_t count, int64_t o) {
    if (at.mask.data) mask_block(at, b, h, query, rows, key, count, mask);
    const E* packed = queries + (query - begin) / NR * this->packed_columns();
    for (int64_t c = 0; c < rows; c += NR, packed += this->packed_columns()) {
      const int64_t seen = Shape::visible(c + NR - 1, o, count);
      for (int64_t i = 0; i < seen; i += MR) {
        V r[MR][2];
        Shape::scores(r, keys + i / MR * this->packed_rows(), packed, units);
        SG_UNROLL(12)
        for (int x = 0; x < MR; x++) {
          store(p + (i + x) * kQueryBlock + c, r[x][0]);
          store(p + (i + x) * kQueryBlock + c + W, r[x][1]);
        }
      }
      const int64_t read = Shape::read_by_rows(c + NR - 1, o, count);
      for (int64_t x = c; x < c + NR; x += W) softmax(query - begin + x, x, o, seen, std::max(read, seen));
    }
    E* out = output + (query - begin) * width;
    for (int64_t j = 0; j < panels; j++)
      for (int64_t i = 0; i < rows; i += MR) {
        const int64_t depth = ceil_div(Shape::visible(i + MR - 1, o, count), U);
        const E* b = values + j * this->packed_block();
        E* c = out + i * width + j * NR;
        if (rows - i > MR * 2 / 3)
          accumulate_tile<MR, false, kPairs>(p + i, kQueryBlock, b, depth, c, width, key > 0, alpha + i);
        else accumulate_tile<MR * 2 / 3, false, kPairs>(p + i, kQueryBlock, b, depth, c, width, key > 0, alpha + i);
      }
  }

  // W queries (columns c..), keys up to `seen`; rows up to `read` are zeroed. state: their place in top and sum.
  KT void softmax(int64_t state, int64_t c, int64_t o, int64_t seen, int64_t read) {
    const V hidden(-std::numeric_limits<E>::infinity()), before = load<V>(top + state), f(factor);
    E* column = p + c;
    const auto row = [&](int64_t r) KL { return load<V>(column + r * kQueryBlock); };
    const int64_t all = Shape::visible(c, o, seen);  // these rows every lane sees
    if (rescaled)
      for (int64_t r = 0; r < seen; r++) {
        const V x = row(r) * V(Shape::factor);
        store(column + r * kQueryBlock, at.mask.data ? x + load<V>(mask + r * kQueryBlock + c) : x);
      }
    V high = before, high2 = before;
    int64_t r = 0;
    for (; r + 2 <= all; r += 2) high = max(high, row(r)), high2 = max(high2, row(r + 1));
    for (; r < seen; r++) {
      V x = row(r);
      if (r >= all) {
        x = select(first<V>(int(r - o - c)), hidden, x);
        store(column + r * kQueryBlock, x);
      }
      high = max(high, x);
    }
    high = max(high, high2);
    // where every key so far is hidden, any finite maximum gives weights of 0
    const V offset = -select(high == hidden, V(0), high * f),
            decay = fast_exp2(before * f + offset);  // exactly 1 if nothing changed
    store(top + state, high);
    store(alpha + c, decay);
    V total(0), total2(0);
    const auto weight = [&](int64_t r) KL { return fast_exp2(fma(row(r), f, offset)); };
    if constexpr (kPairs) {
      for (r = 0; r < seen; r += 2) {
        const V x = weight(r), y = r + 1 < seen ? weight(r + 1) : V(0);
        total += x, total2 += y;
        store(p + r / 2 * kQueryBlock + c, zip(x, y));
      }
      for (; r < read; r += 2) store(p + r / 2 * kQueryBlock + c, V(0));
    } else {
      for (r = 0; r + 2 <= seen; r += 2) {
        const V x = weight(r), y = weight(r + 1);
        total += x, total2 += y;
        store(column + r * kQueryBlock, x), store(column + (r + 1) * kQueryBlock, y);
      }
      if (r < seen) {
        const V x = weight(r);
        total += x;
        store(column + r++ * kQueryBlock, x);
      }
      for (; r < read; r++) store(column + r * kQueryBlock, V(0));
    }
    store(sum + state, fma(load<V>(sum + state), decay, total + total2));
  }
  KT void finish(int64_t i) {
    const int64_t state = i - begin;
    const bool blind = sum[state] == 0;  // no key seen
    const E inverse = blind ? E(0) : 1 / sum[state];
    T* to = head_of<T>(at.out, b, h) + i * at.out.row;
    const E* from = output + state * width;
    for (int64_t d = 0; d < at.size; d += W) {
      const V x = blind ? V(0) : load<V>(from + d) * V(inverse);
      if (d + W <= at.size) store(to + d, x);
      else store(to + d, x, int(at.size - d));
    }
    lse_of<E>(at, b, h, i) =
        blind ? -std::numeric_limits<E>::infinity() : E(top[state] * factor * E(kLn2Exact)) + std::log(sum[state]);
  }
};
