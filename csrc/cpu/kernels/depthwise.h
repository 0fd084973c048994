// One plane of a depthwise convolution, in the accumulation type. The input plane is padded and its columns are sorted
// by their remainder modulo the stride, so that what a tap reads for a row of outputs is always one run of neighbours.

// out[oh, ow] = bias + sum over taps of weights[t] * in[oh, tap t, ow]; the sums stay in registers.
template <class A>
KT void depthwise_outputs(const DepthwisePlane& p, const A* in, const A* weights, A bias, A* out) {
  using V = Lanes<A>;
  constexpr int kVectors = 4, kColumns = kVectors * V::W;
  for (int64_t h = 0; h < p.height; h++, in += p.row, out += p.width) {
    int64_t w = 0;
    for (; w + kColumns <= p.width; w += kColumns) {
      V sums[kVectors];
      SG_UNROLL(4)
      for (int v = 0; v < kVectors; v++) sums[v] = V(bias);
      for (int64_t t = 0; t < p.taps; t++) {
        const V weight(weights[t]);
        const A* const from = in + p.offsets[t] + w;
        SG_UNROLL(4)
        for (int v = 0; v < kVectors; v++) sums[v] = fma(weight, load<V>(from + v * V::W), sums[v]);
      }
      SG_UNROLL(4)
      for (int v = 0; v < kVectors; v++) store(out + w + v * V::W, sums[v]);
    }
    for (; w < p.width; w += V::W) {
      const int n = int(std::min<int64_t>(V::W, p.width - w));
      V sum(bias);
      for (int64_t t = 0; t < p.taps; t++) sum = fma(V(weights[t]), load<V>(in + p.offsets[t] + w, n), sum);
      store(out + w, sum, n);
    }
  }
}

// in[oh, tap t, ow] += weights[t] * out[oh, ow]
template <class A>
KT void depthwise_inputs(const DepthwisePlane& p, const A* out, const A* weights, A* in) {
  using V = Lanes<A>;
  for (int64_t h = 0; h < p.height; h++, in += p.row, out += p.width) {
    for (int64_t t = 0; t < p.taps; t++) {
      const V weight(weights[t]);
      A* const to = in + p.offsets[t];
      int64_t w = 0;
      for (; w + V::W <= p.width; w += V::W) store(to + w, fma(weight, load<V>(out + w), load<V>(to + w)));
      if (w == p.width) continue;
      const int n = int(p.width - w);
      store(to + w, fma(weight, load<V>(out + w, n), load<V>(to + w, n)), n);
    }
  }
}

// weights[t] += sum over outputs of out[oh, ow] * in[oh, tap t, ow]
template <class A>
KT void depthwise_weights(const DepthwisePlane& p, const A* out, const A* in, A* weights) {
  using V = Lanes<A>;
  for (int64_t t = 0; t < p.taps; t++) {
    V sums[2] = {V(0), V(0)};
    const A *x = in + p.offsets[t], *d = out;
    for (int64_t h = 0; h < p.height; h++, x += p.row, d += p.width) {
      int64_t w = 0;
      for (; w + 2 * V::W <= p.width; w += 2 * V::W) {
        sums[0] = fma(load<V>(d + w), load<V>(x + w), sums[0]);
        sums[1] = fma(load<V>(d + w + V::W), load<V>(x + w + V::W), sums[1]);
      }
      for (; w < p.width; w += V::W) {
        const int n = int(std::min<int64_t>(V::W, p.width - w));
        sums[0] = fma(load<V>(d + w, n), load<V>(x + w, n), sums[0]);
      }
    }
    weights[t] += reduce_add(sums[0] + sums[1]);
  }
}
