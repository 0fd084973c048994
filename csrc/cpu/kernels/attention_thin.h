// Few queries (decoding with a cache of keys and values): keys and values are read once, where they lie, for all query
// heads that share them. One task: one head of keys.

template <class T>
struct AttentionThin {
  using E = accumulate_t<T>;
  using V = lanes_of<T>;
  using Row = std::conditional_t<kPaired<T>, T, E>;
  static constexpr int64_t step = 256;  // keys at a time
  static constexpr E hidden = -std::numeric_limits<E>::infinity();

  const Attention& at;
  const int64_t b, kv, group, m;  // m rows: the group's heads x the queries
  Row* rows;
  E *scores, *weights, *sums, *output, *mask, *top, *sum;

  AttentionThin(const Attention& at, int64_t b, int64_t kv)
      : at(at), b(b), kv(kv), group(at.group()), m(group * at.queries) {
    E* row_memory;
    Pieces<E> pieces;
    pieces.add(row_memory, m * at.size);
    pieces.add(scores, m * step);
    pieces.add(weights, m * step);
    pieces.add(sums, m * at.size);
    pieces.add(output, m * at.size);
    pieces.add(mask, step);
    pieces.add(top, m);
    pieces.add(sum, m);
    pieces.take(Scratch::kLocalA);
    rows = reinterpret_cast<Row*>(row_memory);
    std::fill_n(top, m, hidden);
    std::fill_n(sum, m, E(0));
    std::fill_n(output, m * at.size, E(0));
  }

  int64_t head(int64_t x) const { return kv * group + x / at.queries; }
  int64_t query(int64_t x) const { return x % at.queries; }

  KT void run() {
    for (int64_t x = 0; x < m; x++)
      copy_row(head_of<T>(at.q, b, head(x)) + query(x) * at.q.row, 1, at.size, rows + x * at.size);
    const int64_t end = std::clamp<int64_t>(at.queries + at.shift(), 0, at.keys);
    for (int64_t key = 0; key < end; key += step) {
      const int64_t n = std::min(step, end - key);
      dot_columns<T>(rows, m, head_of<T>(at.k, b, kv) + key * at.k.row, at.k.row, n, at.size, scores, step);
      for (int64_t x = 0; x < m; x++) softmax(x, key, n);
      for (int64_t j = 0; j < n; j++)
        for (int64_t x = 0; x < m; x++) weights[j * m + x] = scores[x * step + j];
      row_columns<T>(weights, m, head_of<T>(at.v, b, kv) + key * at.v.row, at.v.row, at.size, n, sums, at.size);
      for (int64_t i = 0; i < m * at.size; i++) output[i] += sums[i];
    }
    for (int64_t x = 0; x < m; x++) finish(x);
  }

 private:
  // Scores of one row become weights; the row's earlier output is brought to the new maximum.
  KT void softmax(int64_t x, int64_t key, int64_t n) {
    E* s = scores + x * step;
    if (at.mask.data) mask_summands(at, b, head(x), query(x), 1, key, n, mask, 0, 1);
    const int seen = int(std::clamp<int64_t>(query(x) + at.shift() + 1 - key, 0, n));
    const V factor(E(at.scale * kLog2eExact));
    V high(top[x]);
    for (int j = 0; j < n; j += V::W) {
      V v = load<V>(s + j) * factor;
      if (at.mask.data) v += load<V>(mask + j);
      v = select(first<V>(seen - j), v, V(hidden));
      store(s + j, v);
      high = max(high, v);
    }
    const E now = reduce_max(high), offset = now == hidden ? E(0) : now;
    V total(0);
    for (int j = 0; j < n; j += V::W) {
      const V v = fast_exp2(load<V>(s + j) - V(offset));
      store(s + j, v);
      total += v;
    }
    E decay[V::W];
    store(decay, fast_exp2(V(top[x] - offset)));
    sum[x] = sum[x] * decay[0] + reduce_add(total);
    top[x] = now;
    for (int64_t d = 0; d < at.size; d++) output[x * at.size + d] *= decay[0];
  }

  KT void finish(int64_t x) {
    const bool blind = sum[x] == 0;  // no key seen
    const E inverse = blind ? E(0) : 1 / sum[x];
    T* to = head_of<T>(at.out, b, head(x)) + query(x) * at.out.row;
    for (int64_t d = 0; d < at.size; d++) to[d] = T(output[x * at.size + d] * inverse);
    lse_of<E>(at, b, head(x), query(x)) = blind ? hidden : top[x] * E(kLn2Exact) + std::log(sum[x]);
  }
};
