// Kernels that work on rows, the last dimension: how many threads share a row, how it is held in registers, and how
// long ones, which may start anywhere, are walked through.
#pragma once
#include "../core/view.h"
#include "lanes.cuh"
#include "teams.cuh"

namespace sg::gpu {

// The last dimension is the row.
inline int64_t rows_of(const View& x) {
  SG_ASSERT(x.ndim > 0);
  int64_t rows = 1;
  for (int d = 0; d < x.ndim - 1; d++) rows *= x.shape[d];
  return rows;
}

inline unsigned blocks_for(int64_t items, int per_block) { return unsigned((items + per_block - 1) / per_block); }

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// f(threads, vectors): how a row of n elements of T is held in registers, in vectors of 16 bytes. False where it is too
// long, or not made of vectors; double, which is nobody's type for speed, never is.
template <class T, class F>
bool for_row_shape(int64_t n, bool aligned, F&& f) {
  if constexpr (!std::is_same_v<T, double>) {
    constexpr int64_t kCount = Pack<T>::kCount;
    const int64_t vectors = n / kCount;
    if (!aligned || n % kCount != 0 || n == 0) return false;
    if (vectors <= 64) return f(Constant<32>{}, Constant<2>{}), true;
    if (vectors <= 128) return f(Constant<32>{}, Constant<4>{}), true;
    if (vectors <= 512) return f(Constant<128>{}, Constant<4>{}), true;
    if (vectors <= 1024) return f(Constant<256>{}, Constant<4>{}), true;
  }
  return false;
}

// f(threads) for rows that are walked through.
template <class F>
void for_team(int64_t n, F&& f) {
  if (n <= 512) f(Constant<32>{});
  else f(Constant<256>{});
}

// Calls pack(first column, elements) for the 16-byte pieces of a row and one(column) for what is before and after them,
// which may share its 16 bytes with another row. Two pieces are under way at a time.
template <int kTeam, class T, class WithPack, class WithOne>
SG_DEVICE void walk_row(const T* row, int64_t n, bool in_packs, const WithPack& pack, const WithOne& one) {
  constexpr int kCount = Pack<T>::kCount;
  const int thread = threadIdx.x % kTeam;
  const int64_t before = int64_t((16 - reinterpret_cast<uintptr_t>(row) % 16) % 16 / sizeof(T));
  const int64_t head = in_packs && before < n ? before : n, packs = (n - head) / kCount;
  for (int64_t i = thread; i < head; i += kTeam) one(i);
  const Pack<T>* const pieces = reinterpret_cast<const Pack<T>*>(row + head);
  int64_t i = thread;
  for (; i + kTeam < packs; i += 2 * kTeam) {
    const Pack<T> a = pieces[i], b = pieces[i + kTeam];
    pack(head + i * kCount, a);
    pack(head + (i + kTeam) * kCount, b);
  }
  if (i < packs) pack(head + i * kCount, pieces[i]);
  for (int64_t k = head + packs * kCount + thread; k < n; k += kTeam) one(k);
}

}  // namespace sg::gpu
