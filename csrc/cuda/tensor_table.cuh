// How kernels read tables of tensors.
#pragma once
#include "lanes.cuh"
#include "tensor_table.h"

namespace sg::gpu {

// What a block has to do: elements [begin, end) of a row's tensors.
template <int kOperands>
struct Chunk {
  int tensor;
  const TensorRow<kOperands>* row;
  int64_t begin, end;

  SG_DEVICE explicit Chunk(const TensorTable<kOperands>& table) {
    int low = 0, high = table.count;  // the last row that begins at or before the block; empty ones begin there, too
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (table.rows[middle].first_chunk <= int64_t(blockIdx.x)) low = middle;
      else high = middle;
    }
    tensor = low;
    row = table.rows + low;
    begin = (int64_t(blockIdx.x) - row->first_chunk) * kChunk;
    end = row->count < begin + kChunk ? row->count : begin + kChunk;
  }
};

// Where element i of an operand lies.
SG_DEVICE int64_t place(const Operand& x, const Layout* layouts, int64_t i) {
  if (x.layout < 0) return i;
  const Layout& layout = layouts[x.layout];
  int64_t at = 0;
  for (int64_t d = layout.ndim - 1; d >= 0; d--) {
    const int64_t quotient = i / layout.shape[d];
    at += (i - quotient * layout.shape[d]) * layout.strides[d];
    i = quotient;
  }
  return at;
}

// f(TypeTag<T>{}) for the float kinds; nothing for other types, which do not get here.
template <class F>
SG_DEVICE void by_kind(DType dtype, const F& f) {
  switch (dtype) {
    case DType::k_float32: return f(TypeTag<float>{});
    case DType::k_float64: return f(TypeTag<double>{});
    case DType::k_float16: return f(TypeTag<float16>{});
    case DType::k_bfloat16: return f(TypeTag<bfloat16>{});
    default: return;
  }
}

template <class L>
SG_DEVICE L load_element(const Operand& x, const Layout* layouts, int64_t i) {
  L value(0);
  const int64_t at = place(x, layouts, i);
  by_kind(x.dtype, [&](auto tag) { value = to_lane<L>(static_cast<const typename decltype(tag)::type*>(x.data)[at]); });
  return value;
}
template <class L>
SG_DEVICE void store_element(const Operand& x, const Layout* layouts, int64_t i, L value) {
  const int64_t at = place(x, layouts, i);
  by_kind(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    static_cast<T*>(x.data)[at] = from_lane<T>(value);
  });
}

// Rows in vectors: kLanes neighbours at a time, of float32 or a 16-bit kind.
inline constexpr int kLanes = 8;

struct RawLanes {
  Packs<uint32_t, kLanes> words;  // a 16-bit type has the first half only
  SG_DEVICE void load(const Operand& x, int64_t i) {
    const auto* const p = static_cast<const Pack<uint32_t>*>(x.data);
    const bool wide = x.dtype == DType::k_float32;
    words.pack[0] = p[wide ? i / 4 : i / 8];
    if (wide) words.pack[1] = p[i / 4 + 1];
  }
  // Apart from the load, so that others can be under way meanwhile.
  SG_DEVICE void values(DType dtype, float (&to)[kLanes]) const {
    if (dtype == DType::k_float32) {
#pragma unroll
      for (int k = 0; k < kLanes; k++) to[k] = float_of(words.get(k));
    } else {
#pragma unroll
      for (int k = 0; k < kLanes; k++) {
        const uint16_t bits = uint16_t(words.get(k / 2) >> (k % 2 * 16));
        if (dtype == DType::k_bfloat16) to[k] = float_of(uint32_t(bits) << 16);
        else to[k] = half_of(bits);
      }
    }
  }

 private:
  SG_DEVICE static float half_of(uint16_t bits) {
    float16 half;
    half.bits = bits;
    return float(half);
  }
};

SG_DEVICE void store_lanes(const Operand& x, int64_t i, const float (&values)[kLanes]) {
  char* const p = static_cast<char*>(x.data);
  if (x.dtype == DType::k_float32) {
    Packs<float, kLanes> packs;
#pragma unroll
    for (int k = 0; k < kLanes; k++) packs.set(k, values[k]);
    packs.store(reinterpret_cast<float*>(p) + i);
    return;
  }
  Pack<uint32_t> pack;
#pragma unroll
  for (int k = 0; k < kLanes / 2; k++) {
    pack.at[k] = x.dtype == DType::k_bfloat16 ? pack_bf16(values[2 * k], values[2 * k + 1])
                                              : pack_f16(values[2 * k], values[2 * k + 1]);
  }
  *reinterpret_cast<Pack<uint32_t>*>(p + 2 * i) = pack;
}

}  // namespace sg::gpu
