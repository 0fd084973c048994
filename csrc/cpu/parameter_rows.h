// Small per-channel operands (norm weights, running statistics, class weights) as plain arrays of the accumulation
// type. Converting C elements once a call lets a kernel mix any weight dtype with any activation dtype and exist once.
#pragma once
#include "blocks.h"
#include "flat.h"

namespace sg {

// The elements of v: in place if they are of type A and contiguous, otherwise converted into `buffer`.
template <class A>
const A* parameter_row(const View& v, A* buffer) {
  if (v.dtype == DTypeOf<A>::value && v.contiguous()) return v.ptr<A>();
  const LoadBlock load = block_loader(v.dtype, DTypeOf<A>::value);
  const int64_t size = int64_t(dtype_size(v.dtype));
  A* to = buffer;
  Flat(v).stretches(0, v.numel(), [&](int64_t offset, int64_t stride, int64_t count) {
    load({static_cast<char*>(v.data) + offset * size, 0, stride}, 1, count, to);
    to += count;
  });
  return buffer;
}

// An absent operand is a row of `value`.
template <class A>
const A* parameter_row(MaybeIn v, int64_t n, A value, A* buffer) {
  if (!v) {
    std::fill(buffer, buffer + n, value);
    return buffer;
  }
  SG_ASSERT(v->numel() == n);
  return parameter_row(*v, buffer);
}

template <class A>
void store_parameter_row(const A* from, int64_t n, const View& v) {
  SG_ASSERT(v.numel() == n);
  const StoreBlock store = block_storer(DTypeOf<A>::value, v.dtype);
  const int64_t size = int64_t(dtype_size(v.dtype));
  Flat(v).stretches(0, n, [&](int64_t offset, int64_t stride, int64_t count) {
    store(from, 1, count, {static_cast<char*>(v.data) + offset * size, 0, stride});
    from += count;
  });
}

}  // namespace sg
